"""UIDs derived from what they name, so that a repeat makes the same object (PS3.5 B.2, UUID-derived UIDs).

Nothing here is random: a UID is the SHA-256 of the words that identify the thing, shaped as a UUID of version 8
(RFC 9562) under the root 2.25.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

WRITER_VERSION: Final = version("medrega-pacs")
"""Part of every derived UID: another writer may write other bytes for the same reading."""

_SEPARATOR = "\x1f"


def derive_uid(*words: str) -> str:
    """Make a UID from the words that name a thing.

    Parameters
    ----------
    *words : str
        In order; another order or another split gives another UID.

    Returns
    -------
    str
        ``2.25.`` and the decimal of 128 bits; at most 44 characters.
    """
    digest = hashlib.sha256(_SEPARATOR.join(words).encode("utf-8", "backslashreplace")).digest()
    bits = bytearray(digest[:16])
    bits[6] = (bits[6] & 0x0F) | 0x80
    bits[8] = (bits[8] & 0x3F) | 0x80
    return f"2.25.{uuid.UUID(bytes=bytes(bits)).int}"


@dataclass(frozen=True, slots=True)
class UidScope:
    """What the UIDs of one call's results are derived from.

    Parameters
    ----------
    reading_digest : str
        SHA-256 of the reading.
    profile : str
        Every setting of the output profile, languages included, and the predecessors, as one string.
    writer_version : str
    """

    reading_digest: str
    profile: str
    writer_version: str = WRITER_VERSION

    def uid(self, kind: str, index: int, role: str) -> str:
        """Derive the UID that `role` has within the `index`-th object of `kind`."""
        return derive_uid(self.writer_version, self.reading_digest, self.profile, kind, str(index), role)

    def tracking_uid(self, finding: int, region: int | None = None) -> str:
        """Derive the tracking UID of a finding, or of one of its regions (PS3.16 TID 4108).

        The same in the region SR and in the segmentation of the same call, so that the two can be joined.
        """
        place = "all" if region is None else str(region)
        return derive_uid(self.writer_version, self.reading_digest, self.profile, "tracking", str(finding), place)
