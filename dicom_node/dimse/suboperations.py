"""Sub-operations of a retrieval (PS3.4 C.4.2, C.4.3): how they are counted and cancelled, and how they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from pydicom.dataset import Dataset
from pynetdicom.association import Association

from dicom_node.dimse.query import Server
from engine.errors import NodeError
from engine.study import READ_ERRORS

RETRIEVE_STATUS: Final[Mapping[int, tuple[str, str]]] = {
    0x0122: ("it does not take this SOP class", ""),
    0x0124: ("it does not allow this", "let this node's AE title retrieve at the peer"),
    0x0110: ("it failed to process the request", ""),
    0x0210: ("it takes the request for a duplicate", ""),
    0x0211: ("it does not know the operation", ""),
    0x0212: ("it takes an argument of the request for wrong", ""),
    0xA701: ("it is out of resources and cannot count the matches", ""),
    0xA702: ("it is out of resources and cannot send the images", ""),
    0xA801: (
        "it does not know the move destination",
        "enter this node's AE title, host and port at the peer",
    ),
    0xA900: ("the identifier does not match the SOP class", "is the peer a study root server?"),
    0xAA00: ("none of the frames asked for are in the object", ""),
    0xAA01: ("it cannot make a new object of the frames", ""),
    0xAA02: ("it cannot extract the frames", ""),
    0xAA03: ("frames were asked of an object that has none", ""),
    0xAA04: ("frames were asked for in two ways", ""),
    0xB000: ("some images could not be sent", ""),
    0xFE00: ("the retrieval was cancelled", ""),
}
"""In words, with advice: PS3.4 tables C.4-2, C.4-3 and Y.3.2, PS3.7 annex C; what is not here is unable to process."""
_TRANSIENT: Final = (0xA701, 0xA702)
_SUCCESS: Final = 0x0000
_WARNING: Final = 0xB000
_PENDING: Final = 0xFF00
_PATIENCE: Final = 30
"""So many message time-outs may pass while a peer says that it goes on and moves nothing; one once it is cancelled."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """The sub-operations of a retrieval, as the peer counts them.

    Parameters
    ----------
    remaining : int or None
        None where the peer does not say.
    """

    remaining: int | None = None
    completed: int = 0
    failed: int = 0
    warned: int = 0

    @property
    def done(self) -> int:
        """How many are over, however they ended."""
        return self.completed + self.failed + self.warned

    @property
    def total(self) -> int | None:
        """How many there are in all."""
        return None if self.remaining is None else self.remaining + self.done


@dataclass(frozen=True, slots=True)
class Retrieved:
    """How a retrieval ended.

    Parameters
    ----------
    completed, failed : int
        Objects that arrived, and that did not.
    status : int or None
        Of the final response; None where there is none, as in WADO-RS.
    reason : str
        In words; empty where everything arrived.
    advice : str
    retry : bool
        Whether the same may succeed later.
    cancelled : bool
    not_kept : int
        Of those that arrived, results of this node's own, which are not stored again.
    """

    completed: int
    failed: int = 0
    status: int | None = None
    reason: str = ""
    advice: str = ""
    retry: bool = False
    cancelled: bool = False
    not_kept: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything arrived."""
        return not self.reason and not self.failed

    @property
    def explained(self) -> str:
        """The reason, with the advice behind it where there is some."""
        return f"{self.reason} ({self.advice})" if self.advice else self.reason


class Cancel:
    """The wish to end a retrieval; it may come from another thread, once and for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._tell: Callable[[], None] | None = None

    @property
    def asked(self) -> bool:
        """Whether it was asked for."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask for it: the peer is told at once."""
        with self._lock:
            if not self._asked.is_set():
                self._asked.set()
                if self._tell is not None:
                    self._tell()

    def bind(self, tell: Callable[[], None]) -> None:
        """Say how the peer is told."""
        with self._lock:
            self._tell = tell
            if self._asked.is_set():
                tell()


OnProgress = Callable[[Progress], None]


def follow(
    server: Server,
    association: Association,
    responses: Iterator[tuple[Dataset, Dataset | None]],
    model: str,
    message: int,
    on_progress: OnProgress,
    cancel: Cancel,
) -> Retrieved:
    """Follow the responses of a C-MOVE or C-GET to the final one."""
    peer = server.peer
    seen = Progress()

    def tell() -> None:
        if association.is_established:
            with suppress(RuntimeError, ValueError):  # it ended in this moment
                association.send_c_cancel(message, query_model=model)

    cancel.bind(tell)
    reason = f"{peer} broke off or went silent for longer than {server.timeouts.dimse:g} s"
    since, most, asked = time.monotonic(), 0, False
    try:
        for response, _failed in responses:
            if "Status" not in response:
                break
            seen = _progress(response, seen)
            on_progress(seen)
            code = int(response.Status)
            if code != _PENDING:
                return _conclusion(server, code, seen, cancelled=cancel.asked)
            if seen.done > most or cancel.asked != asked:
                since, most, asked = time.monotonic(), max(most, seen.done), cancel.asked
            elif time.monotonic() - since > server.timeouts.dimse * (1 if asked else _PATIENCE):
                association.abort()
                reason = f"{peer} says that it goes on, and nothing comes"
                break
    except (*READ_ERRORS, RuntimeError) as error:  # the library's, where a peer breaks off within a message
        if isinstance(error, NodeError):
            raise
        log.debug("retrieval broken off", error=type(error).__name__)
    return Retrieved(seen.completed + seen.warned, seen.failed, None, reason, retry=True, cancelled=cancel.asked)


def _progress(response: Dataset, before: Progress) -> Progress:
    def count(name: str, otherwise: int | None) -> int | None:
        value = response.get(f"NumberOf{name}Suboperations")
        return int(value) if value is not None else otherwise

    final = int(response.Status) != _PENDING
    return Progress(
        # PS3.7 9.1.4.1.6: absent in final responses, but for cancelled ones
        count("Remaining", 0 if final else before.remaining),
        count("Completed", before.completed) or 0,
        count("Failed", before.failed) or 0,
        count("Warning", before.warned) or 0,
    )


def _conclusion(server: Server, code: int, seen: Progress, *, cancelled: bool) -> Retrieved:
    arrived = seen.completed + seen.warned
    if code == _SUCCESS and not seen.failed:
        return Retrieved(arrived, 0, code)
    words, advice = RETRIEVE_STATUS.get(code, ("it is unable to process the request", ""))
    if code in (_WARNING, _SUCCESS):
        if not seen.failed:
            return Retrieved(arrived, 0, code)  # a warning of sub-operations that only warned: everything is there
        words, advice = f"{seen.failed} of {arrived + seen.failed} images could not be sent", ""
    reason = f"status 0x{code:04X} of {server.peer}: {words}"
    return Retrieved(
        arrived,
        seen.failed,
        code,
        reason,
        advice,
        retry=code in _TRANSIENT or code == _WARNING,
        cancelled=cancelled or code == 0xFE00,
    )
