"""Transfers: what one sender brings in one go, by an association, a STOW-RS request or a C-GET.

A study is never closed while its next image is on its way, and one whose count is known is closed as soon as the last
transfer of it was released. Both need the ledger to know who sends what, and neither may cost an image any time: what
is heard is kept in memory, and told to the ledger by a thread; what is lost with the process costs a quiet time.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from dicom_node.ledger import Ledger
from dicom_node.ledger.expectations import HEADERS
from dicom_node.process import new_owner
from engine.errors import NodeError

_PULSE_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


class Transfers:
    """The transfers under way in this process.

    Parameters
    ----------
    ledger : Ledger
    on_evidence : callable, optional
        Called after the end of a transfer that may have completed a study.
    flush : callable, optional
        Has everything in the ledger that the transfers brought; raises `NodeError` where it cannot.
    """

    def __init__(
        self,
        ledger: Ledger,
        on_evidence: Callable[[], None] = lambda: None,
        *,
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self._flush = flush
        self._ledger = ledger
        self._on_evidence = on_evidence
        self._owner = new_owner()
        self._open: set[Transfer] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._pulse = threading.Thread(target=self._run, name="transfers", daemon=True)

    def start(self) -> None:
        """Tell the ledger regularly, from a thread of its own."""
        self._pulse.start()

    def stop(self) -> None:
        """Tell nothing more; transfers that are still open count as lost with the process."""
        self._stopping.set()
        if self._pulse.is_alive():
            self._pulse.join()

    def open(self) -> Transfer:
        """A transfer begins."""
        return Transfer(self)

    def tell(self) -> None:
        """Tell the ledger whose images are arriving."""
        with self._lock:
            now = time.monotonic()
            fresh = [transfer for transfer in list(self._open) if transfer.heard_at > transfer.told_at]
            if not fresh:
                return
            begun = [(transfer, study) for transfer in fresh for study in transfer.studies - transfer.told]
            try:
                self._flush()  # after `begun`: these studies are known then
                self._ledger.sendings.heard(
                    self._owner,
                    [(transfer.id, study) for transfer, study in begun],
                    {transfer.study for transfer in fresh},
                )
            except NodeError as error:
                log.warning("quiet time not reset", reason=str(error))
                return
            for transfer in fresh:
                transfer.told_at = now
            for transfer, study in begun:
                transfer.told.add(study)

    def expect(self, study_instance_uid: str, images: int) -> None:
        """A sender's headers say how many images a study has."""
        try:
            self._flush()
            self._ledger.expectations.answered(study_instance_uid, HEADERS, images)
        except NodeError as error:
            log.warning("number of a study's images not entered", reason=str(error))

    def joins(self, transfer: Transfer) -> None:
        """It has brought its first image; without the lock, whose holder may be waiting for the ledger."""
        self._open.add(transfer)

    def ended(self, transfer: Transfer) -> None:
        """Tell the ledger at once how a transfer ended."""
        with self._lock:  # what `tell` is about to say must not come after this
            if transfer not in self._open:
                return
            self._open.discard(transfer)
            try:
                self._flush()
                expected = self._ledger.sendings.ended(
                    self._owner, transfer.id, transfer.studies, transfer.study, released=transfer.released
                )
            except NodeError as error:
                log.warning("end of a transfer not entered", reason=str(error))
                return
        if expected and transfer.released:
            self._on_evidence()

    def _run(self) -> None:
        while not self._stopping.wait(_PULSE_SECONDS):
            try:
                self.tell()
            except Exception as error:  # the thread's outermost edge: without it studies would be closed early
                log.error("unexpected error in a pulse", exc_info=error)


class Transfer:
    """One transfer. As a context it is released at the end of the block, and aborted where an error ends it.

    Attributes
    ----------
    id : str
    study : str
        Study of its last image, empty before the first.
    studies, told : set of str
        Studies that it brought images of, and those of them that the ledger knows to be sent by this.
    heard_at, told_at : float
        When bytes came last, and when the ledger was told (monotonic).
    released : bool
        Whether its sender has said that it is done.
    """

    def __init__(self, transfers: Transfers) -> None:
        self.id = uuid.uuid4().hex
        self.study = ""
        self.studies: set[str] = set()
        self.heard_at = 0.0
        self.told_at = -1.0
        self.released = False
        self.told: set[str] = set()
        self._transfers = transfers

    def image(self, study_instance_uid: str, images_of_study: Callable[[], int | None] = lambda: None) -> None:
        """An image of this study is in place; the transfer's first one of a study is asked how many there are."""
        self.heard_at = time.monotonic()
        if study_instance_uid != self.study:
            if study_instance_uid not in self.studies and (number := images_of_study()) is not None:
                self._transfers.expect(study_instance_uid, number)
            first = not self.study
            self.study = study_instance_uid
            self.studies = {*self.studies, study_instance_uid}
            if first:
                self._transfers.joins(self)

    def heard(self) -> None:
        """Bytes came; most probably of the next image of the same study."""
        self.heard_at = time.monotonic()

    def end(self) -> None:
        """It is over, aborted unless `released` was set; without effect the second time."""
        self._transfers.ended(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released = kind is None
        self.end()
