"""How much memory and disk there is, asked before a long job starts rather than found out in the middle of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from engine.errors import ModelError

_GROUP: Final = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes of main memory that can be had: of the machine, or of its container where that has less.

    None where the system does not tell.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        limit = int((_GROUP / "memory.max").read_text(encoding="ascii"))
        free = min(free, limit - int((_GROUP / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        pass
    return free


def require_memory(needed: int, what: str, free: int | None = None) -> None:
    """Refuse a job that cannot fit.

    Parameters
    ----------
    needed : int
        Bytes.
    what : str
        The job, in words: "loading the model".
    free : int, optional
        Bytes there are; main memory's without (a GPU has its own).

    Raises
    ------
    ModelError
        If there is less; it says how much is needed.
    """
    there = available_memory() if free is None else free
    if there is not None and needed > there:
        raise ModelError(
            f"{what} needs {readable(needed)} of memory, and {readable(there)} are free",
            advice="Free memory, or use a machine with more.",
        )


def require_disk(folder: Path, needed: int, what: str) -> None:
    """Refuse a job whose files cannot fit; see `require_memory`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"{what} needs {readable(needed)} on the disk of {folder}, and {readable(free)} are free",
            advice="Free space, or choose another folder.",
        )


def readable(size: int) -> str:
    """A number of bytes in words."""
    value, units = float(size), ["B", "KB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
