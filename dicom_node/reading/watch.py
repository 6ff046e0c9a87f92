"""The watch over one reading: whether it is still wanted, and whether the engine still answers.

A worker's threads can be neither timed out nor ended from outside, so that both are cooperative: a token that the
engine checks, and, for one that hangs and checks nothing, the end of the process, which its supervisor starts anew.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from dicom_node.ledger import LeaseLostError, Ledger
from dicom_node.ledger.database import DatabaseError
from dicom_node.ledger.records import Claim
from engine.errors import MedregaError, NodeError, ReadingCancelledError
from engine.runtime import CancelToken

HANGING_EXIT_CODE: Final = 70
HANGING_SECONDS: Final = 60
_INTERVAL_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


class DeadlineError(NodeError):
    """The reading took too long."""

    retry = True


class StoppedError(NodeError):
    """The node stops."""


class Watch:
    """Looks after one reading from a thread of its own.

    Parameters
    ----------
    ledger : Ledger
    claim : Claim
    stopping : threading.Event
        Set when the node stops.
    lease_seconds, deadline_seconds : float
    hanging_seconds : float
        How long the engine may go on after it was told to stop, before the process ends itself.

    Attributes
    ----------
    token : CancelToken
        For the engine.
    """

    def __init__(
        self,
        ledger: Ledger,
        claim: Claim,
        stopping: threading.Event,
        *,
        lease_seconds: float,
        deadline_seconds: float,
        hanging_seconds: float = HANGING_SECONDS,
    ) -> None:
        self.token = CancelToken()
        self._ledger, self._claim, self._stopping = ledger, claim, stopping
        self._lease_seconds, self._deadline_seconds = lease_seconds, deadline_seconds
        self._hanging_seconds = hanging_seconds
        self._why: MedregaError | None = None
        self._renewed = time.monotonic()
        self._loading = False
        self._done = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs.

        Raises
        ------
        LeaseLostError, DeadlineError, StoppedError
            Why the reading was broken off, in place of `ReadingCancelledError`.
        """
        thread = threading.Thread(target=self._watch, name="reading-watch", daemon=True)
        thread.start()
        try:
            yield
        except ReadingCancelledError:
            raise self._why or LeaseLostError("the reading was cancelled") from None
        finally:
            self._done.set()
            thread.join()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Keep the lease while the model is loaded, which asks no questions and may take minutes."""
        self._loading = True
        try:
            yield
        finally:
            self._loading = False

    def progress(self, _asked: int = 0, _expected: int = 0) -> None:
        """Keep the lease, between questions: an engine that answers no more loses it.

        Raises
        ------
        LeaseLostError
            If the run was cancelled or taken over.
        """
        if time.monotonic() - self._renewed > self._lease_seconds / 4:
            try:
                self._ledger.runs.renew(self._claim, self._lease_seconds)
            except DatabaseError:
                # A database that is away for a moment costs no reading; one that stays away costs the lease.
                if time.monotonic() - self._renewed > self._lease_seconds:
                    raise
            else:
                self._renewed = time.monotonic()

    def _watch(self) -> None:
        end = time.monotonic() + self._deadline_seconds
        while not self._done.wait(_INTERVAL_SECONDS):
            try:
                if self._loading:
                    self.progress()
                self._why = self._reason(end)
            except LeaseLostError as error:
                self._why = error
            except NodeError:
                continue  # the ledger cannot be asked now; the lease's end decides
            if self._why is not None:
                self.token.cancel()
                break
        if not self._done.is_set() and not self._done.wait(self._hanging_seconds):
            log.critical("the engine hangs; the worker ends", reason=str(self._why))
            os._exit(HANGING_EXIT_CODE)

    def _reason(self, end: float) -> MedregaError | None:
        if self._stopping.is_set():
            return StoppedError("the node was stopped in mid-reading")
        if time.monotonic() > end:
            return DeadlineError(f"the reading took longer than {self._deadline_seconds:g} s")
        if not self._ledger.runs.is_held(self._claim):
            return LeaseLostError("the run was cancelled or taken over")
        return None
