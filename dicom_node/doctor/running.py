"""Which of the node's processes run on this machine, without disturbing them."""

from __future__ import annotations

import os
from pathlib import Path

from dicom_node.settings import Settings


def front_pid(settings: Settings) -> int | None:
    """Process id of the front that runs on the data folder; None where none does.

    The kernel's own table of locks is read: whoever tries the lock itself could keep a node from starting.
    """
    for name in ("node.lock", f"node-{os.uname().nodename}.lock"):
        try:
            state = (settings.data.path / name).stat()
        except OSError:
            continue
        mark = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if "FLOCK" in words and mark in words:
                return int(words[words.index(mark) - 1])
    return None


def reading_worker_pid() -> int | None:
    """Process id of a reading worker on this machine, which holds a model in memory; None where none runs."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if b"dicom_node.queue.tasks" in words and b"reading" in words:
            return int(folder.name)
    return None
