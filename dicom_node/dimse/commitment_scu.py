"""The storage commitment SCU (PS3.4 J.3.2.1): destinations are asked to keep what was delivered to them.

The request is in the ledger before it is made. The report is taken on the same association or on a new one to the
listener, and counts by its transaction, however late it comes.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Final

import structlog
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt

from dicom_node.backoff import delay_after
from dicom_node.dimse.commitment import (
    ALL_KEPT,
    REQUEST,
    SOME_NOT_KEPT,
    SOP_CLASS,
    SOP_INSTANCE,
    Report,
    Request,
    StatementError,
    context,
    legible,
    reason_in_words,
)
from dicom_node.dimse.scu import SUCCESS, Peer, PeerError, Timeouts, associate
from dicom_node.dimse.tls import client_context
from dicom_node.ledger import Ledger
from dicom_node.ledger.records import CommitmentRequest
from dicom_node.settings import Destination, Settings
from engine.errors import NodeError

_PROCESSING_FAILURE: Final = 0x0110
_NO_SUCH_EVENT: Final = 0x0113
_INVALID_ARGUMENT: Final = 0x0115

log = structlog.get_logger(__name__)


class CommitmentScu:
    """Asks destinations; one for a process, called from several threads.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._destinations = tuple(item.name for item in settings.destinations if item.commitment)

    def equip(self, entity: AE) -> list[evt.EventHandlerType]:
        """Have a listener take reports; returns its handlers."""
        if not self._destinations:
            return []
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        entity.add_supported_context(SOP_CLASS, syntaxes, scu_role=True, scp_role=True)
        return [(evt.EVT_N_EVENT_REPORT, self._reported)]

    def due(self) -> list[tuple[str, str]]:
        """Runs and destinations that are to be asked now."""
        self._ledger.commitments.settle(self._destinations)
        return self._ledger.commitments.to_request(self._destinations)

    def request(self, run_id: str, destination: str) -> None:
        """Ask a destination, if that is still to be done. Every outcome is in the ledger."""
        settings, now = self._settings.commitment, self._ledger.clock()
        # A 2.25 UID (PS3.5 B.2) of 122 random bits: who did not hear it cannot report on it.
        transaction_uid = str(generate_uid(prefix=None))
        due = now + timedelta(seconds=settings.timeout_seconds)
        request = self._ledger.commitments.request(run_id, destination, transaction_uid, due)
        if request is None or not request.results:
            return
        try:
            if self._is_late(request):
                raise PeerError("it has not reported in time")
            self._request(request, self._settings.destination(destination))
        except NodeError as error:
            self._again(request, destination, error)

    def _request(self, request: CommitmentRequest, destination: Destination) -> None:
        statement = Request(
            request.transaction_uid,
            tuple((result.sop_class_uid, result.sop_instance_uid) for result in request.results),
        )
        taken, answered = threading.Event(), threading.Event()

        def take(event: evt.Event) -> tuple[int, None]:
            taken.set()
            return self._reported(event)

        def sent(_event: evt.Event) -> None:
            if taken.is_set():  # what goes out next is the answer; a release before it would cut it off
                answered.set()

        peer = Peer.of(destination)
        settings = self._settings.delivery
        timeouts = Timeouts(settings.association_timeout_seconds, settings.dimse_timeout_seconds)
        with associate(
            peer,
            [context()],
            self._settings.listener.aet,
            timeouts,
            handlers=[(evt.EVT_N_EVENT_REPORT, take), (evt.EVT_PDU_SENT, sent)],
            tls=client_context(destination.tls) if destination.tls is not None else None,
        ) as association:
            answer, _ = association.send_n_action(statement.to_dataset(), REQUEST, SOP_CLASS, SOP_INSTANCE)
            status = answer.get("Status")
            if status is None:
                raise PeerError(f"{peer} did not answer the request to commit")
            if status != SUCCESS:
                raise PeerError(f"{peer} answered the request to commit with status 0x{status:04X}")
            log.info("commitment requested", destination=destination.name, transaction=request.transaction_uid)
            until = time.monotonic() + self._settings.commitment.wait_seconds
            while not answered.wait(0.05) and association.is_established:
                if time.monotonic() >= until and not taken.is_set():
                    break

    def _reported(self, event: evt.Event) -> tuple[int, None]:
        """Take a report; the answer's status is one of PS3.7 10.1.1.1.8."""
        try:
            if event.event_type not in (ALL_KEPT, SOME_NOT_KEPT):
                raise StatementError("no such event", _NO_SUCH_EVENT)
            with legible():
                report = Report.from_dataset(event.event_information)
            state = self._ledger.commitments.report(
                report.transaction_uid,
                {uid for _, uid in report.kept},
                {uid: reason_in_words(reason) for (_, uid), reason in report.not_kept.items()},
                self._destinations,
            )
            if state is None:
                raise StatementError("no such transaction", _INVALID_ARGUMENT)
        except NodeError as error:
            status = error.status if isinstance(error, StatementError) else _PROCESSING_FAILURE
            log.warning("commitment report refused", status=f"0x{status:04X}", reason=str(error))
            return status, None
        log.info(
            "commitment report",
            transaction=report.transaction_uid,
            kept=len(report.kept),
            not_kept=len(report.not_kept),
            state=state,
        )
        return SUCCESS, None

    def _is_late(self, request: CommitmentRequest) -> bool:
        hours = timedelta(hours=self._settings.commitment.max_hours)
        return request.number > 1 and self._ledger.clock() - request.since >= hours

    def _again(self, request: CommitmentRequest, destination: str, error: NodeError) -> None:
        settings, now = self._settings.commitment, self._ledger.clock()
        given_up = self._is_late(request)
        at = None if given_up else now + delay_after(request.number, settings)
        self._ledger.commitments.not_requested(request.transaction_uid, error.explained, at)
        (log.error if given_up else log.warning)(
            "commitment given up" if given_up else "commitment not requested",
            destination=destination,
            reason=error.explained,
        )
