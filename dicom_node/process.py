"""Processes: who holds a lease, whether that holder still lives, and children that never outlive their parent."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import secrets
import signal
import socket
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


@cache
def this_host() -> str:
    """This boot of this machine, and the space in which its process ids are counted (a container has its own)."""
    boot = _read("/proc/sys/kernel/random/boot_id")[:8] or os.uname().nodename
    try:
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        space = "0"
    return f"{boot}.{space}"


def booted_at() -> float:
    """When this machine started, in seconds since the epoch by its clock of now; 0 where it does not say."""
    told = re.search(r"^btime (\d+)$", _read("/proc/stat"), re.MULTILINE)
    return float(told[1]) if told else 0.0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in ticks since boot, so that a process id that is used again is told apart."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    # A killed process whose parent has not waited for it yet still has an entry, in state Z.
    return "" if not fields or fields[0] in "ZX" else fields[19]


def is_running(pid: int) -> bool:
    """Whether a process of this machine runs."""
    return _started(pid) != ""


def new_owner() -> str:
    """A name for a lease's owner: this process, and a token, since its threads claim apart from each other."""
    return f"{this_host()}:{os.getpid()}:{_started(os.getpid())}:{secrets.token_hex(4)}"


def owner_is_gone(name: str) -> bool:
    """Whether a lease's owner was a process of this machine and runs no more; False for other machines'."""
    host, pid, started, *_ = [*name.split(":"), "", "", ""]
    return host == this_host() and pid.isdigit() and _started(int(pid)) != started


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that happens (Linux).

    Parameters
    ----------
    parent : int
        The parent's process id, as the parent knows it: it may have died before this call.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def leave_no_core() -> None:
    """Have the kernel write no core file of this process, nor of its children: their memory holds patients' images.

    Services that are given cores by a pipe, as systemd-coredump and apport, mind the limit too and keep none.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def give_memory_back(every_seconds: float = 60) -> None:
    """Have a thread give the system back what was freed, for as long as this process lives (glibc).

    By itself glibc keeps most of what the largest study and each thread once took, in pieces, and takes more for the
    next: a process that should hold nothing of a study grows with their number.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:  # another C library
        return

    def run() -> None:
        while True:
            time.sleep(every_seconds)
            trim(0)

    threading.Thread(target=run, name="memory", daemon=True).start()


def keep_files_to_ourselves() -> None:
    """Have this process and its children make files and folders for their owner alone, also those of libraries."""
    os.umask(0o077)


def main(arguments: list[str]) -> None:
    """``python -m dicom_node.process PARENT PROGRAM ...``: become a program that dies with its parent."""
    die_with_parent(int(arguments[0]))
    os.execv(arguments[1], arguments[1:])  # noqa: S606 - our own command line, no shell


if __name__ == "__main__":
    main(sys.argv[1:])


class StopSignal:
    """SIGINT and SIGTERM as something to wait for, in the main thread.

    A `threading.Event` that a signal's handler sets can lock up: the handler runs in the thread that waits, perhaps
    just while that thread holds the event's own lock. Here the interpreter writes the signal's number to a socket.
    """

    def __init__(self) -> None:
        self._heard, written = socket.socketpair()
        written.setblocking(False)
        self._written = written
        signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)

    def wait(self) -> None:
        """Wait for either; at once if one came since this was made."""
        while self._heard.recv(1)[0] not in (signal.SIGINT, signal.SIGTERM):
            pass
