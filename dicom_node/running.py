"""Which of the node's processes run on this machine and what they take of its memory, without disturbing them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicom_node.settings import ENVIRONMENT_PREFIX, Settings


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


_ROLES: Final = (
    ("dicom_node.queue.tasks reading", "reading"),
    ("dicom_node.queue.tasks delivery", "delivery"),
    ("dicom_node.console", "console"),
    ("dicom_node.dicomweb", "dicomweb"),
    ("dicom_node.dimse", "listener"),
    ("valkey", "broker"),
)
"""What a command line tells of a process."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the node.

    Parameters
    ----------
    pid : int
    role : str
        ``front``, ``reading``, ``delivery``, ``console``, ``dicomweb``, ``listener``, ``broker``.
    memory, peak : int
        Resident bytes, now and at most so far.
    """

    pid: int
    role: str
    memory: int
    peak: int


def processes(settings: Settings) -> list[Process]:
    """The node's processes on this machine: the front that runs on the data folder, its children, and workers."""
    front = front_pid(settings)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            lines = (folder / "status").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue  # ended meanwhile
        status = dict(line.partition(":")[::2] for line in lines)
        pid, parent = int(folder.name), int(status["PPid"])
        role = next((role for mark, role in _ROLES if mark in command), "")
        if pid == front:
            role = "front"
        elif parent != front and not ("dicom_node.queue.tasks" in command and _works_for(settings, folder)):
            continue
        if role:
            now, most = (int(status.get(key, "0 kB").split()[0]) << 10 for key in ("VmRSS", "VmHWM"))
            found.append(Process(pid, role, now, most))
    return sorted(found, key=lambda process: process.pid)


def _works_for(settings: Settings, folder: Path) -> bool:
    """Whether a worker's environment, by which it gets its settings, names the same data folder."""
    try:
        words = (folder / "environ").read_bytes().split(b"\0")
        here = (folder / "cwd").resolve()
    except OSError:
        return False  # another user's
    mark = f"{ENVIRONMENT_PREFIX}DATA=".encode()
    given = next((word.removeprefix(mark) for word in words if word.startswith(mark)), b"{}")
    path = Path(here, str(json.loads(given).get("path", ".")))
    return path.resolve() == settings.data.path.resolve()


def reading_worker_pid(settings: Settings) -> int | None:
    """Process id of a reading worker on this machine, which holds a model in memory; None where none runs."""
    return next((process.pid for process in processes(settings) if process.role == "reading"), None)
