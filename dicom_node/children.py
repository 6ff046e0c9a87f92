"""Child processes: started together, started again when they die, ended with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

DRAIN_SECONDS: Final = 10
"""How long a worker that is to stop goes on with what it reads; then it goes back into the queue."""
_POLL_SECONDS: Final = 0.1
_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 30.0
_STEADY_SECONDS: Final = 60
"""A child that ran for so long starts again without delay."""

log = structlog.get_logger(__name__)


class Child:
    """A program that is kept running.

    Parameters
    ----------
    name : str
        For the log.
    command : sequence of str
        ``{parent}`` in it becomes this process's id.
    environment : mapping of str to str, optional
        This process's own without it.
    ends_last : bool
        Whether the others need it until they have ended.
    inherits : sequence of int
        Open file descriptors that it gets, a listening socket for example.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        ends_last: bool = False,
        inherits: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.ends_last = ends_last
        self._inherits = tuple(inherits)
        self._command = [word.replace("{parent}", str(os.getpid())) for word in command]
        self._environment = dict(environment) if environment is not None else None
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._next_start = 0.0
        self._delay = _FIRST_DELAY

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def keep(self) -> None:
        """Start it, or start it again once it has died and its delay is over."""
        now = time.monotonic()
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._process = None
            if now - self._started > _STEADY_SECONDS:
                self._delay = _FIRST_DELAY
            self._next_start = now + self._delay
            log.error("child ended", child=self.name, code=code, again_in_seconds=round(self._delay, 1))
            self._delay = min(2 * self._delay, _LONGEST_DELAY)
        if now >= self._next_start:
            # A session of its own: Ctrl-C at a terminal reaches the parent alone, which ends its children in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=self._inherits,
            )
            self._started = now

    def ask_to_end(self) -> None:
        """Ask it to end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def await_end(self, seconds: float) -> None:
        """Wait until it has ended, and kill it if it does not in time."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.warning("child killed", child=self.name)
            process.kill()
            process.wait()


class Children:
    """Children that are kept running by a thread.

    The kernel ends a child with the *thread* that started it (``PR_SET_PDEATHSIG``), so that one thread starts them
    all and lives as long as they do.
    """

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._end_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="children", daemon=True)

    def add(self, child: Child) -> None:
        """Start a child and keep it running."""
        with self._lock:
            self._children.append(child)
        if not self._thread.is_alive():
            self._thread.start()

    def pid(self, name: str) -> int | None:
        """Process id of the running child of that name."""
        with self._lock:
            return next((child.pid for child in self._children if child.name == name), None)

    def stop(self, seconds: float) -> None:
        """End all; each has so many seconds before it is killed."""
        self._end_seconds = seconds
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            with self._lock:
                for child in self._children:
                    try:
                        child.keep()
                    except OSError as error:
                        log.error("child not started", child=child.name, reason=error.strerror)
        with self._lock:
            for last in (False, True):
                wave = [child for child in self._children if child.ends_last is last]
                for child in wave:
                    child.ask_to_end()
                for child in wave:
                    child.await_end(self._end_seconds)


def tethered(command: Sequence[str]) -> list[str]:
    """A command whose process dies with its parent from its first moment on, before it has loaded anything."""
    return [sys.executable, "-m", "dicom_node.process", "{parent}", *command]
