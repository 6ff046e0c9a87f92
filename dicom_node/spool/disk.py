"""The disk under the spool: what is written and synced, what room is left, and how its failures are told."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engine.errors import NodeError

_LOOK_SECONDS: Final = 0.1
_LOOK_BYTES: Final = 1 << 26
"""How many received bytes a look at the free space is good for at most; and for so long."""
_LOOK_SHARE: Final = 16
"""And for so small a part of what may still come: others receive into the same disk."""


class SpoolError(NodeError):
    """The spool cannot keep a file."""


class SpoolFullError(SpoolError):
    """No space is left, or a quota is reached."""

    retry = True


@contextmanager
def full_disk_told() -> Iterator[None]:
    """Tell a full disk from a broken one; neither's message names a path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpoolFullError("no space is left for the spool") from None
        raise SpoolError(f"the spool's disk failed ({error.strerror})") from None


def write(path: Path, content: bytes) -> None:
    """Make a file and sync it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, *parts: bytes | memoryview) -> None:
    """Write parts, all of them, by one system call where the disk takes them so."""
    written = os.writev(descriptor, parts)
    if written < sum(map(len, parts)):
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _system_write_back() -> Callable[[int, int, int], object]:
    """Linux's sync_file_range, which begins to write and waits for nothing; elsewhere nothing."""
    if sys.platform == "linux":
        call = ctypes.CDLL(None).sync_file_range
        call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
        return lambda descriptor, begin, length: call(descriptor, begin, length, 2)  # SYNC_FILE_RANGE_WRITE
    return lambda _descriptor, _begin, _length: None


write_back: Final = _system_write_back()
"""Have the disk begin to write a part of a file: its descriptor, first byte and length."""


def sync(path: Path | str) -> None:
    """Sync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Space:
    """The room on the spool's disk.

    Parameters
    ----------
    root : Path
        A folder on it.
    minimum_free : int
        Free space in bytes below which nothing more is received.
    highest_percent : float, optional
        How full the disk may be before nothing more is received.
    """

    def __init__(self, root: Path, minimum_free: int, highest_percent: float | None) -> None:
        self._root = root
        self._minimum_free = minimum_free
        self._highest_percent = highest_percent
        self._looked, self._until_look = -1.0, 0

    @property
    def fullness(self) -> tuple[int, int]:
        """Bytes in use on the disk, and bytes that ordinary users may have in use there (as ``df`` counts)."""
        state = os.statvfs(self._root)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        return used, used + state.f_bavail * state.f_frsize

    def check(self, coming: int = 0) -> None:
        """Refuse what would fill the disk; it is looked at now and then, not for every few bytes.

        Parameters
        ----------
        coming : int
            Bytes that are about to be written; 0 to look in any case.

        Raises
        ------
        SpoolFullError
        """
        now = time.monotonic()
        self._until_look -= coming
        if coming and now - self._looked < _LOOK_SECONDS and self._until_look > 0:
            return
        self._until_look = 0  # unless there is known to be space
        used, usable = self.fullness
        room = usable - used - self._minimum_free
        if room < 0:
            raise SpoolFullError("less space is free than data.minimum_free_mib asks for")
        if self._highest_percent is not None:
            room = min(room, int(self._highest_percent / 100 * usable) - used)
            if room < 0:
                raise SpoolFullError("the disk is fuller than retention.refuse_above_percent")
        self._looked, self._until_look = now, min(_LOOK_BYTES, room // _LOOK_SHARE)
