"""Local accounts: names that can be used, passwords as argon2id hashes, and slowing down who guesses."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dicom_node.ledger import Ledger
from dicom_node.ledger.accounts import Role
from engine.errors import NodeError

__all__ = ["Role", "TooManyError", "change_password", "check_name", "hashed", "sign_in"]

SHORTEST: Final = 12
"""Characters of a password, as NIST SP 800-63B asks for where it is the only factor."""
PERIOD: Final = timedelta(minutes=15)
_BY_BOTH: Final = 10
_BY_ADDRESS: Final = 50
_BY_NAME: Final = 100
"""Failures within `PERIOD`: of one name from one address, of one address that tries many names, and of one name from
all addresses (NIST SP 800-63B 5.2.2), so that from one address nobody locks anybody else out."""
_NAME: Final = re.compile(r"[\w.@+-]{1,64}")
_HASHER: Final = PasswordHasher()


class TooManyError(NodeError):
    """Signing in failed too often; it is refused for a while without a look at the password."""

    retry = True


def check_name(name: str) -> str:
    """A name that an account can have.

    Raises
    ------
    NodeError
    """
    if not _NAME.fullmatch(name):
        raise NodeError("an account's name is 1 to 64 letters, digits and . @ + - _")
    return name


def hashed(password: str) -> str:
    """Argon2id hash of a password (RFC 9106), with a salt of its own.

    Raises
    ------
    NodeError
        If it is too short.
    """
    if len(password) < SHORTEST:
        raise NodeError(f"a password has at least {SHORTEST} characters")
    return _HASHER.hash(password)


_NOBODY: Final = "$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
"""What no password matches: checked for unknown names, so that they take as long as known ones."""


def sign_in(ledger: Ledger, name: str, password: str, address: str) -> bool:
    """Whether a password is that account's; failures are counted across processes and restarts.

    Raises
    ------
    TooManyError
        If it failed too often lately.
    """
    accounts, who = ledger.accounts, _who(name)
    failed = accounts.failures(who, address, PERIOD)
    if failed.of_both >= _BY_BOTH or failed.of_address >= _BY_ADDRESS or failed.of_name >= _BY_NAME:
        raise TooManyError("signing in failed too often", advice="try again in a quarter of an hour")
    known = accounts.password(name)
    if not _matches(known or _NOBODY, password) or known is None:
        accounts.note_failure(who, address, PERIOD)
        return False
    if _HASHER.check_needs_rehash(known):
        accounts.change(name, password=_HASHER.hash(password))
    accounts.forget_failures(who, address)
    return True


def change_password(ledger: Ledger, name: str, password: str) -> None:
    """Give an account another password, which ends its sessions, and lets who was locked out try again.

    Raises
    ------
    NodeError
        If the password is too short, or there is no such account.
    """
    ledger.accounts.change(name, password=hashed(password))
    ledger.accounts.forget_failures(_who(name))


def _who(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _matches(known: str, password: str) -> bool:
    try:
        return _HASHER.verify(known, password)
    except (VerificationError, InvalidHashError):
        return False
