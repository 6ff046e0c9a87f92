"""Columns that stand encrypted in the database: what leads from the ledger to a patient.

The ledger holds no names. Its UIDs name a patient's objects to whoever can ask the archive, and reasons and paths quote
UIDs. The same value is always the same cipher text (AES-SIV, RFC 5297), so that look-ups, joins and unique constraints
go on working: who reads the database without the key sees which rows belong together, and not to whom.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

from sqlalchemy import String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from dicom_node.settings.section import secret_of
from engine.errors import NodeError, SettingsError

_KEY: Final = re.compile(r"[0-9a-fA-F]{128}")
_UID: Final = re.compile(r"[0-9.]{1,64}")
_NO_UID: Final = b"\xee"


class LedgerKey:
    """The key that a ledger's sealed columns are encrypted with.

    Parameters
    ----------
    secret : bytes
        64 bytes, for AES-256-SIV.
    """

    def __init__(self, secret: bytes) -> None:
        # Here, as it is 6 MB in each process of a node that may have no key.
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        self._cipher = AESSIV(secret)

    @classmethod
    def read(cls, file: Path) -> Self:
        """The key that stands in a file.

        Raises
        ------
        SettingsError
            If the file cannot be read or holds no key.
        """
        text = secret_of(file)
        if not _KEY.fullmatch(text):
            raise SettingsError(
                f"{file} holds no key for the ledger: 128 hexadecimal digits", advice="openssl rand -hex 64 makes one"
            )
        return cls(bytes.fromhex(text))

    @property
    def mark(self) -> str:
        """By which the ledger knows its key."""
        return self.seal("medrega-pacs")

    def seal(self, text: str) -> str:
        """Encrypt words; none stay none, as queries ask for them."""
        return self._sealed(text.encode(), b"text") if text else text

    def open(self, sealed: str) -> str:
        """Decrypt words.

        Raises
        ------
        NodeError
            If this key has not encrypted them, as with all that opens.
        """
        return self._opened(sealed, b"text").decode() if sealed else sealed

    def seal_uid(self, uid: str) -> str:
        """Encrypt a UID, into no more letters than the longest has: two digits a byte, and 16 bytes to know it by."""
        if _UID.fullmatch(uid):
            return self._sealed(bytes.fromhex(uid.replace(".", "a").ljust(64, "f")), b"uid")
        return self._sealed(_NO_UID + uid.encode(), b"uid")  # somebody asks for what is none

    def open_uid(self, sealed: str) -> str:
        """Decrypt a UID."""
        packed = self._opened(sealed, b"uid")
        if packed.startswith(_NO_UID):
            return packed[1:].decode()
        return packed.hex().rstrip("f").replace("a", ".")

    def _sealed(self, plain: bytes, kind: bytes) -> str:
        return urlsafe_b64encode(self._cipher.encrypt(plain, [kind])).decode()

    def _opened(self, sealed: str, kind: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(urlsafe_b64decode(sealed), [kind])
        except (InvalidTag, ValueError):
            raise NodeError(
                "a row of the ledger was not encrypted with the key of ledger.key_file",
                advice="was it changed, or written by a node without the key?",
            ) from None


_KEYS: Final[WeakKeyDictionary[Dialect, LedgerKey]] = WeakKeyDictionary()
"""By the dialect of its engine: what a column's type is told of the database that a statement goes to."""


def use_key(dialect: Dialect, key: LedgerKey) -> None:
    """Have the sealed columns of an engine's database encrypted with a key; before its first statement."""
    _KEYS[dialect] = key


_Change = Callable[[Any], Any]


class Sealed(TypeDecorator[str]):
    """Words that stand encrypted where the database has a key."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> _Change | None:
        """How a value is written; None for as it is."""
        key = _KEYS.get(dialect)
        return _unless_none(self.ways(key)[0]) if key is not None else None

    def result_processor(self, dialect: Dialect, coltype: object) -> _Change | None:  # noqa: ARG002
        """How a value is read; None for as it is."""
        key = _KEYS.get(dialect)
        return _unless_none(self.ways(key)[1]) if key is not None else None

    @staticmethod
    def ways(key: LedgerKey) -> tuple[_Change, _Change]:
        """How a key seals and opens a value."""
        return key.seal, key.open


class SealedUid(Sealed):
    """A UID that stands encrypted where the database has a key."""

    impl = String(64)
    cache_ok = True

    @staticmethod
    def ways(key: LedgerKey) -> tuple[_Change, _Change]:
        """How a key seals and opens a UID."""
        return key.seal_uid, key.open_uid


def _unless_none(change: _Change) -> _Change:
    return lambda value: None if value is None else change(value)
