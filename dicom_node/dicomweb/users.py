"""Who may ask the DICOMweb server, and for what: HTTP Basic (RFC 7617) and bearer tokens (RFC 6750)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dicom_node.passwords import NOBODY, HashedPassword
from dicom_node.settings.dicomweb import DicomwebUser, Right
from dicom_node.settings.section import secret_of
from engine.errors import SettingsError

_SHORTEST_TOKEN: Final = 32
_MOST_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who asks; `name` stands for the calling AE title of what they store."""

    name: str
    rights: frozenset[Right]


ANYONE: Final = User("DICOMWEB", frozenset({"store", "retrieve"}))
"""Who asks on loopback where no users are set."""


class Users:
    """The server's users.

    Parameters
    ----------
    users : sequence of DicomwebUser

    Raises
    ------
    SettingsError
        If a password's or token's file cannot be read, or does not hold what it should.
    """

    def __init__(self, users: Sequence[DicomwebUser]) -> None:
        self._passwords: dict[str, tuple[User, HashedPassword]] = {}
        self._tokens: list[tuple[User, bytes]] = []
        for settings in users:
            user = User(settings.name, frozenset(settings.rights))
            if settings.password_file is not None:
                self._passwords[user.name] = (user, _hash_of(settings))
            if settings.token_file is not None:
                token = secret_of(settings.token_file)
                if len(token) < _SHORTEST_TOKEN:
                    raise SettingsError(
                        f"the token of {user.name} is shorter than {_SHORTEST_TOKEN} characters",
                        advice="openssl rand -hex 32 makes one",
                    )
                self._tokens.append((user, token.encode()))
        # A hash is slow on purpose; who was right once is known again by a digest that lives as long as this process.
        self._key = secrets.token_bytes(32)
        self._remembered: dict[bytes, User] = {}

    @property
    def challenges(self) -> tuple[str, ...]:
        """What a request without credentials is answered with (RFC 9110 11.6.1); empty where anyone may ask."""
        basic = ('Basic realm="medrega-pacs", charset="UTF-8"',) if self._passwords else ()
        bearer = ('Bearer realm="medrega-pacs"',) if self._tokens else ()
        return basic + bearer

    def recognise(self, authorization: str) -> User | None:
        """The user of an Authorization field, if that is known at once; None where it is not, or proves nobody."""
        scheme, value = _split(authorization)
        if scheme == "bearer":
            return self._bearer(value.encode("utf-8", "surrogateescape"))
        if scheme == "basic":
            return self._remembered.get(self._digest(value))
        return None if self.challenges else ANYONE

    def identify(self, authorization: str) -> User | None:
        """The user of an Authorization field that was not recognised; None where it proves nobody. Takes a moment."""
        scheme, value = _split(authorization)
        if scheme != "basic":
            return None
        try:
            name, _, password = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        user, hashed = self._passwords.get(name, (None, NOBODY))
        if not hashed.matches(password) or user is None:
            return None
        if len(self._remembered) < _MOST_REMEMBERED:
            self._remembered[self._digest(value)] = user
        return user

    def _digest(self, value: str) -> bytes:
        return hmac.new(self._key, value.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()

    def _bearer(self, token: bytes) -> User | None:
        found = None
        for user, expected in self._tokens:  # all of them, so that time does not tell which
            if hmac.compare_digest(token, expected):
                found = user
        return found


def _split(authorization: str) -> tuple[str, str]:
    scheme, _, value = authorization.strip().partition(" ")
    return scheme.lower(), value.strip()


def _hash_of(user: DicomwebUser) -> HashedPassword:
    assert user.password_file is not None  # noqa: S101 - the caller asked
    try:
        return HashedPassword.parse(secret_of(user.password_file))
    except ValueError:
        raise SettingsError(
            f"the password_file of {user.name} holds no hash of a password", advice="medrega-pacs config passcode"
        ) from None
