"""Temporary files: inside the data folder, which is private and may be encrypted, and removed even after a crash."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_VARIABLE: Final = "TMPDIR"


class Scratch:
    """A folder for the temporary files of this process and of its children, while it is entered.

    An object that is sent in another transfer syntax, or the upload of a form, stands in a file for a moment, patient's
    name and all. In the system's folder that file would outlive a process that is killed.

    Parameters
    ----------
    data : Path
        The data folder.
    """

    def __init__(self, data: Path) -> None:
        self._folder = data.resolve() / "temporary"

    def __enter__(self) -> Path:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(self._folder):  # or another process that starts removes ours before its lock is taken
            for other in self._folder.iterdir():
                _remove_if_left(other)
            self._own = Path(tempfile.mkdtemp(dir=self._folder))
            self._lock = os.open(self._own, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._before = os.environ.get(_VARIABLE)
        os.environ[_VARIABLE] = str(self._own)
        tempfile.tempdir = None  # it is remembered, and found anew by the variable
        return self._own

    def __exit__(self, *_: object) -> None:
        os.environ.pop(_VARIABLE)
        if self._before is not None:
            os.environ[_VARIABLE] = self._before
        tempfile.tempdir = None
        shutil.rmtree(self._own, ignore_errors=True)
        os.close(self._lock)


def _remove_if_left(folder: Path) -> None:
    """Remove the folder of a process that has ended; the kernel gave its lock back, whichever host it ran on."""
    with suppress(BlockingIOError, FileNotFoundError), _locked(folder, fcntl.LOCK_NB):  # or it has just removed it
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(descriptor)
