"""Decoding of compressed frames in a process of its own: a codec that crashes or eats memory takes nothing along.

::

    this process                                        its decoder, warm between frames
    ------------                                        --------------------------------
    the codestream, checked against the header  --->    engine.imaging.decoding: one frame to samples
    samples, checked against what was asked     <---    under a memory limit, and a time limit of both sides

A decoder that dies, or that is too slow and is killed, ends that one frame with its reason; the next frame gets a new
one. It knows neither header nor file name nor settings: what it is given are a codestream and how that is laid out.
Frames that are not compressed need none: their samples are bytes of the file, no more than it has.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from pydicom.uid import UID

from engine.errors import RuntimeLostError, UndecodableError
from engine.limits import Limits

HEAD: Final = struct.Struct("<IQ")
"""A message: the lengths of its two parts, JSON and bytes, which follow."""
_START_SECONDS: Final = 120
"""What a decoder may take to load its libraries, on a machine that has much else to do."""
_KEPT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
"""Of the environment: settings stand in it, passwords among them, and a codec needs none."""
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_LONGEST_ANSWER: Final = 1 << 12
_WIDEST: Final = 8
"""Bytes of a sample."""
_LAST_WORDS_SECONDS: Final = 2
_DTYPES: Final = frozenset(f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8))


T = TypeVar("T")


class _LostError(Exception):
    """The decoder has ended, or is no more to be trusted."""


class Decoder:
    """Decoders that wait for frames; called from several threads, each frame has one of its own.

    Parameters
    ----------
    seconds : float
        For a frame.
    memory : int
        Bytes for a frame.
    """

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds = seconds
        self._memory = memory
        self._idle: list[_Process] = []
        self._places = threading.BoundedSemaphore(os.cpu_count() or 1)

    @staticmethod
    def of(limits: Limits) -> Decoder:
        """The one of this process for these limits."""
        return _decoder(limits.decode_seconds, limits.decode_bytes)

    def decode(
        self, codestream: bytes, transfer_syntax_uid: str, options: Mapping[str, Any]
    ) -> tuple[npt.NDArray[Any], int]:
        """Decode one frame.

        Parameters
        ----------
        codestream : bytes
        transfer_syntax_uid : str
        options : mapping
            pydicom's for decoding, from ``rows`` to ``pixel_representation``.

        Returns
        -------
        samples : ndarray, [rows, columns] or [rows, columns, samples]
        bits : int
            Bits stored of each.

        Raises
        ------
        UndecodableError
            If it cannot be decoded within the limits.
        RuntimeLostError
            If this machine can start no process.
        """
        request = json.dumps({"syntax": transfer_syntax_uid, "options": dict(options)}).encode()
        largest = int(options["rows"]) * int(options["columns"]) * int(options["samples_per_pixel"]) * _WIDEST
        with self._places:
            process = self._ready()
            try:
                decoded = _decoded(*process.ask(request, codestream, largest), options)
            except _LostError:
                why = process.end()
            except BaseException:
                process.end()  # in the midst of its answer
                raise
            else:
                self._idle.append(process)
                if not isinstance(decoded, str):
                    return decoded
                why = decoded
                if why == MemoryError.__name__:
                    why = f"decoding needs more memory than the limit of {self._memory >> 20} MiB"
        raise UndecodableError(f"the pixels cannot be decoded ({why}, {UID(transfer_syntax_uid).name})")

    def _ready(self) -> _Process:
        while True:
            try:
                process = self._idle.pop()
            except IndexError:
                return _Process(self._seconds, self._memory)
            if process.lives:
                return process
            process.end()

    def close(self) -> None:
        """End those that wait."""
        while self._idle:
            self._idle.pop().end()


@cache
def _decoder(seconds: float, memory: int) -> Decoder:
    decoder = Decoder(seconds, memory)
    atexit.register(decoder.close)
    return decoder


class _Process:
    """One decoder."""

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds = seconds
        self._late = False
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _ONE_THREAD
        command = [sys.executable, "-m", "engine.imaging.decoding", str(seconds), str(memory)]
        try:
            self._child = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C at a terminal is its parent's
            )
        except OSError as error:
            raise RuntimeLostError(f"no process can be started to decode pixels ({error.strerror})") from error
        try:
            self._within(_START_SECONDS, lambda: self._read(1))
        except _LostError:
            raise RuntimeLostError(f"the process that decodes pixels does not start ({self.end()})") from None

    @property
    def lives(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def ask(self, request: bytes, codestream: bytes, largest: int) -> tuple[Any, bytearray]:
        """Have a frame decoded; its answer, and the samples, `largest` bytes at most."""

        def exchange() -> tuple[Any, bytearray]:
            self._write(HEAD.pack(len(request), len(codestream)) + request)
            self._write(codestream)
            told, size = HEAD.unpack(self._read(HEAD.size))
            if told > _LONGEST_ANSWER or size > largest:
                raise _LostError
            try:
                answer = json.loads(self._read(told))
            except ValueError:
                raise _LostError from None
            return answer, self._read(size)

        return self._within(self._seconds, exchange)

    def _within(self, seconds: float, exchange: Callable[[], T]) -> T:
        """Talk to it; it is killed if that takes too long, which ends the talk."""

        def kill() -> None:
            self._late = True
            self._child.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            spoken = exchange()
        finally:
            timer.cancel()
            timer.join()  # it may just be killing
        if self._late:
            raise _LostError
        return spoken

    def _write(self, data: bytes) -> None:
        assert self._child.stdin is not None  # noqa: S101 - a pipe
        left = memoryview(data)
        try:
            while left:
                left = left[self._child.stdin.write(left) :]
        except OSError:
            raise _LostError from None

    def _read(self, count: int) -> bytearray:
        assert self._child.stdout is not None  # noqa: S101 - a pipe
        data = bytearray(count)
        left = memoryview(data)
        while left:
            got = self._child.stdout.readinto(left)  # type: ignore[attr-defined]  # it is not buffered
            if not got:
                raise _LostError
            left = left[got:]
        return data

    def end(self) -> str:
        """Have it end, and say how it ended."""
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None  # noqa: S101 - a pipe
            pipe.close()
        died = self._child.poll()
        if died is None:
            try:
                died = self._child.wait(_LAST_WORDS_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                died = self._child.wait()
        if self._late or died == -signal.SIGALRM:
            return f"decoding takes longer than the limit of {self._seconds:g} s"
        name = signal.Signals(-died).name if died < 0 else f"exit status {died}"
        return f"the decoder ended on it with {name}"


def _decoded(answer: Any, samples: bytearray, options: Mapping[str, Any]) -> tuple[npt.NDArray[Any], int] | str:
    """What a decoder gave, or its error's name; it may be anything once a codestream has taken it over."""
    try:
        if "error" in answer:
            if not (kind := str(answer["error"])).isidentifier():
                raise _LostError
            return kind
        shape, dtype, bits = tuple(answer["shape"]), answer["dtype"], int(answer["bits"])
        if dtype not in _DTYPES or shape[:2] != (options["rows"], options["columns"]):
            raise _LostError
        return np.frombuffer(samples, dtype).reshape(shape), bits
    except (AttributeError, LookupError, TypeError, ValueError):
        raise _LostError from None
