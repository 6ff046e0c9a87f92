"""A real process of the node under attack, and how one sees that it has come to no harm."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from dicom_node.children import tethered
from dicom_node.settings import Settings

_GROWTH_KIB = 96 << 10
"""What a process may have grown by: its allocator keeps what many threads at once have used."""

_FILES = 32
"""What it may have opened more: the ledger opens connections on demand. A leak is one a conversation."""

_THREADS = 12
"""Of whom four report on commitments, each over an association of two threads."""

_OF_THE_LIBRARY = '"event": "pynetdicom.'
"""What pynetdicom tells of what it cannot decode, before the listener ends the association."""


@dataclass(frozen=True)
class Use:
    """What a process holds."""

    resident_kib: int
    files: int
    threads: int


class Program:
    """One module of the node as a process; as a context it is ended.

    Parameters
    ----------
    module : str
    settings : Settings
    folder : Path
        For its log.
    arguments : sequence of str
    inherits : sequence of int
        File descriptors that it gets.
    """

    def __init__(
        self,
        module: str,
        settings: Settings,
        folder: Path,
        arguments: Sequence[str] = (),
        inherits: Sequence[int] = (),
    ) -> None:
        self.log = folder / f"{module}.log"
        command = [word.replace("{parent}", str(os.getpid())) for word in tethered([sys.executable, "-m", module])]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments], env={**os.environ, **settings.to_environment()}, stderr=log, pass_fds=inherits
            )
        self._before: Use | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(30)

    def use(self) -> Use:
        folder = Path("/proc") / str(self.process.pid)
        status = (folder / "status").read_text()

        def number(key: str) -> int:
            return int(status.partition(f"{key}:")[2].split()[0])

        return Use(number("VmRSS"), len(list((folder / "fd").iterdir())), number("Threads"))

    def mark(self) -> None:
        """From here on it may not grow."""
        self._before = self.use()

    def faults(self, answers: Callable[[], bool], seconds: float = 90) -> list[str]:
        """What is wrong with it: after at most so many seconds it answers, and holds what it held when marked."""
        assert self._before is not None, "it was marked"
        if self.process.poll() is not None:
            return [f"the process ended with {self.process.returncode}", self.log.read_text()[-2000:]]
        end, wrong = time.monotonic() + seconds, self._wrong(answers)
        while wrong and time.monotonic() < end and self.process.poll() is None:
            time.sleep(0.2)
            wrong = self._wrong(answers)
        for line in self.log.read_text(errors="replace").splitlines():
            if ("Traceback" in line or '"exception"' in line) and _OF_THE_LIBRARY not in line:
                wrong.append(f"the log holds an exception: {line}")
        return wrong

    def _wrong(self, answers: Callable[[], bool]) -> list[str]:
        assert self._before is not None, "it was marked"
        if not answers():
            return ["it answers no more"]
        now, before = self.use(), self._before
        wrong = []
        if now.files > before.files + _FILES:
            wrong.append(f"{now.files} open files, {before.files} before")
        if now.threads > before.threads + _THREADS:
            wrong.append(f"{now.threads} threads, {before.threads} before")
        if now.resident_kib > before.resident_kib + _GROWTH_KIB:
            wrong.append(f"{now.resident_kib} KiB of memory, {before.resident_kib} before")
        return wrong
