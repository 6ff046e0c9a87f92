"""Passwords as the node keeps them: scrypt hashes (RFC 7914), written ``scrypt:N:r:p:salt:hash``."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from dataclasses import dataclass, field
from typing import Final, Self

# 16 MiB and some 40 ms a try: slow for who guesses, and nothing beside what a user then sends.
_COST: Final = (1 << 14, 8, 1)


@dataclass(frozen=True, slots=True)
class HashedPassword:
    """A password that can be checked and not be read."""

    salt: bytes = field(repr=False)
    hash: bytes = field(repr=False)
    cost: tuple[int, int, int] = _COST

    @classmethod
    def of(cls, password: str) -> Self:
        """Hash a password with a salt of its own."""
        salt = os.urandom(16)
        return cls(salt, _scrypt(password, salt, _COST))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `__str__` wrote.

        Raises
        ------
        ValueError
            If it is no such text.
        """
        kind, n, r, p, salt, expected = text.split(":")
        if kind != "scrypt":
            raise ValueError("the hash is of another kind than scrypt")
        found = cls(
            base64.b64decode(salt, validate=True), base64.b64decode(expected, validate=True), (int(n), int(r), int(p))
        )
        found.matches("")  # costs that cannot be paid are told now
        return found

    def __str__(self) -> str:
        parts = ["scrypt", *map(str, self.cost), *(base64.b64encode(item).decode() for item in (self.salt, self.hash))]
        return ":".join(parts)

    def matches(self, password: str) -> bool:
        """Whether this is the password; takes as long for any."""
        return hmac.compare_digest(_scrypt(password, self.salt, self.cost), self.hash)


NOBODY: Final = HashedPassword(bytes(16), bytes(32))
"""What no password matches: checked for unknown users, so that they take as long as known ones."""


def _scrypt(password: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    n, r, p = cost
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=1 << 26, dklen=32)
