"""User identity of associations (PS3.7 D.3.3.7): a user's name, or name and passcode.

Kerberos, SAML and JSON Web Tokens are not looked at: such a request counts as one without an identity.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable
from typing import Final

import structlog
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from dicom_node.settings.listener import User
from dicom_node.settings.section import secret_of
from engine.errors import SettingsError

_NAME: Final = 1
_NAME_AND_PASSCODE: Final = 2
# 16 MiB and some 40 ms a try: slow for who guesses, and nothing beside an association that sends a study.
_COST: Final = (1 << 14, 8, 1)

log = structlog.get_logger(__name__)


def passcode_hash(passcode: str) -> str:
    """A passcode's scrypt hash (RFC 7914), as ``passcode_hash`` of a user takes it."""
    salt = os.urandom(16)
    n, r, p = _COST
    return f"scrypt:{n}:{r}:{p}:{_text(salt)}:{_text(_scrypt(passcode, salt, n, r, p))}"


class Users:
    """The users that may ask for an association.

    Parameters
    ----------
    users : iterable of User
        None at all: identities are not looked at, as the Standard allows.
    required : bool
        Whether a request without an identity is rejected.

    Raises
    ------
    SettingsError
        If a passcode's file cannot be read, or a hash is none.
    """

    def __init__(self, users: Iterable[User] = (), *, required: bool = False) -> None:
        self._hashes = {user.name: _hash_of(user) for user in users}
        self._required = required

    def accept(self, association: Association) -> bool:
        """Whether a request's identity is accepted; the positive response, where one was asked for, is put beside."""
        request = association.requestor.user_identity
        if not self._hashes:
            return True
        if request is None or request.user_identity_type not in (_NAME, _NAME_AND_PASSCODE):
            return not self._required
        name = (request.primary_field or b"").decode("utf-8", errors="replace")
        passcode = (request.secondary_field or b"").decode("utf-8", errors="replace")
        if not self._proves(name, passcode, named_only=request.user_identity_type == _NAME):
            return False
        if request.positive_response_requested:
            response = UserIdentityNegotiation()
            response.server_response = b""  # of length 0 for these two kinds (PS3.7 D.3.3.7.2)
            association.acceptor.add_negotiation_item(response)
        return True

    def _proves(self, name: str, passcode: str, *, named_only: bool) -> bool:
        known = self._hashes.get(name)
        if named_only:
            return name in self._hashes and known is None
        # As long for a name that is unknown as for one that is known.
        salt, expected, cost = known or _NOBODY
        matches = hmac.compare_digest(_scrypt(passcode, salt, *cost), expected)
        return matches and known is not None


_Hash = tuple[bytes, bytes, tuple[int, int, int]]
_NOBODY: Final[_Hash] = (bytes(16), bytes(32), _COST)


def _hash_of(user: User) -> _Hash | None:
    if user.passcode_file is not None:
        return _parse(passcode_hash(secret_of(user.passcode_file)))
    if user.passcode_hash is not None:
        return _parse(user.passcode_hash.get_secret_value())
    return None


def _parse(text: str) -> _Hash:
    try:
        kind, n, r, p, salt, expected = text.split(":")
        cost = (int(n), int(r), int(p))
        found = (base64.b64decode(salt, validate=True), base64.b64decode(expected, validate=True), cost)
        _scrypt("", found[0], *cost)
    except ValueError:
        kind = ""
    if kind != "scrypt":
        raise SettingsError("passcode_hash of a user is no hash", advice="medrega-pacs config passcode makes one")
    return found


def _scrypt(passcode: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(passcode.encode(), salt=salt, n=n, r=r, p=p, maxmem=1 << 26, dklen=32)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
