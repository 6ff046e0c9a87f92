"""Seals: how a file is told that a power cut has torn, though it has its place.

An object's file gets its place first and is synced then, so that the disk commits once for both. A power cut between
the two may leave it short, or with zeros for parts of it. Until it is synced and in the ledger it has its second name
under ``incoming/``, and that says how long it is and what its checksum comes to; both names are in the same commit.

This stands on what ext4, XFS and btrfs keep to: metadata reach the disk in the order of the calls, and a file's sync
takes its names along. On other systems the file is synced before it gets its place, and the folder after that.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_SUFFIX: Final = ".part"
_NAME: Final = re.compile(r".*:(?P<size>[0-9]+):(?P<checksum>[0-9a-f]{8})\.part")
_CHUNK: Final = 1 << 20
_IN_ORDER: Final = frozenset({"ext4", "xfs", "btrfs"})


@dataclass(frozen=True, slots=True)
class Seal:
    """What a file holds.

    Parameters
    ----------
    size : int
        Bytes.
    checksum : int
        CRC-32.
    """

    size: int
    checksum: int

    def name(self, path: str) -> str:
        """The name of a sealed file, made from that of the file while it was written."""
        return f"{path.removesuffix(_SUFFIX)}:{self.size}:{self.checksum:08x}{_SUFFIX}"

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """The seal in a file's name; None for one that is being written, or needs none."""
        match = _NAME.fullmatch(path.name)
        return cls(int(match["size"]), int(match["checksum"], 16)) if match else None

    def holds(self, path: Path) -> bool:
        """Whether a file is as it was written.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        if path.stat().st_size != self.size:
            return False
        checksum = 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                checksum = zlib.crc32(chunk, checksum)
        return checksum == self.checksum


def names_follow_files(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether the sync of a file takes its names along, where a folder is."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
        device = os.stat(folder).st_dev
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = {line.partition(" - ")[2].split()[0] for line in lines if line.split()[2] == number}
    return bool(kinds) and kinds <= _IN_ORDER
