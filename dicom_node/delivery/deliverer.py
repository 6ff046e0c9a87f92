"""Delivery: a run's results to one destination, in one association or request, tried again until they arrive.

Refusals of an object are its own; a destination that cannot be reached opens its circuit (`ledger.destinations`), and
then one question at intervals stands for all that waits.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Final

import structlog

from dicom_node.backoff import delay_after
from dicom_node.delivery.transport import Transport, open_transport
from dicom_node.dimse.scu import PeerError, SendResult, StoredFile
from dicom_node.ledger import DeliveryState, LeaseLostError, Ledger, State
from dicom_node.ledger.database import DatabaseError
from dicom_node.ledger.part import Clock
from dicom_node.ledger.records import Circuit, Contact, DueDelivery, Outcome
from dicom_node.process import new_owner
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.errors import MedregaError, NodeError, SettingsError

PERMANENT_ATTEMPTS: Final = 3
"""So often at least is tried what a peer refused for good, and until it says the same twice running: a peer that comes
back after hours, with its settings not loaded yet, gets another chance."""
_SLOWEST: Final = 1 << 16
"""Bytes in a second of the slowest line, on which a shipment stays one worker's."""

log = structlog.get_logger(__name__)


class Deliverer:
    """Delivers shipments; one for a worker process, called from several threads.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    spool : Spool
    clock : callable, optional
        The ledger's without one.
    """

    def __init__(self, settings: Settings, ledger: Ledger, spool: Spool, clock: Clock | None = None) -> None:
        self._settings = settings
        self._ledger = ledger
        self._spool = spool
        self._clock = clock or ledger.clock

    def deliver(self, run_id: str, destination: str) -> None:
        """Try a shipment, if it is still due. Every outcome is in the ledger; nothing is raised for it."""
        owner = new_owner()
        seconds = self._lease_seconds()
        due = self._ledger.deliveries.claim(run_id, destination, owner, seconds)
        if not due:
            return
        study = due[0].study_instance_uid
        with structlog.contextvars.bound_contextvars(run=run_id, study=study, destination=destination):
            try:
                try:
                    outcomes, contact = self._attempt(run_id, destination, owner, due)
                except (LeaseLostError, DatabaseError):
                    raise
                except Exception as error:  # the task's outermost edge: one odd object must not hold its run for ever
                    log.error("unexpected error", exc_info=error)
                    reason = f"unexpected error {type(error).__name__}"
                    outcomes, contact = [self._outcome(item, None, reason, retry=False) for item in due], None
                state = self._ledger.deliveries.finish(run_id, destination, owner, _together(outcomes), contact)
            except LeaseLostError as error:
                log.warning("delivery given up", reason=str(error))
                return
            arrived = sum(outcome.state is DeliveryState.DELIVERED for outcome in outcomes)
            log.info("delivery tried", arrived=arrived, of=len(due), state=state)
            self._tell_of_circuit(destination, contact, probe=due[0].probe)
            if state is State.FAILED:
                log.error("delivery failed for good", reason=next((o.reason for o in outcomes if o.reason), ""))

    def _tell_of_circuit(self, destination: str, contact: Contact | None, *, probe: bool) -> None:
        if contact is None or contact.answered != probe:
            return
        if probe:
            log.info("destination answers again; what waited for it is sent")
        elif self._ledger.destinations.circuit(destination) is not Circuit.CLOSED:
            log.error("destination was not reached several times; nothing is sent there until it answers")

    def _lease_seconds(self) -> float:
        """Above the longest silence of a peer, twice."""
        settings = self._settings.delivery
        return 2 * (settings.association_timeout_seconds + settings.dimse_timeout_seconds) + 60

    def _attempt(
        self, run_id: str, destination: str, owner: str, due: list[DueDelivery]
    ) -> tuple[list[Outcome], Contact | None]:
        """What became of each, and of the destination; deliveries that are left out wait as before."""
        try:
            with closing(open_transport(self._settings.destination(destination), self._settings)) as transport:
                return self._send(transport, run_id, destination, owner, due)
        except SettingsError as error:  # what has arrived by then is in the ledger, and stays so
            return [self._outcome(item, None, error.explained, retry=False) for item in due], None

    def _send(
        self, transport: Transport, run_id: str, destination: str, owner: str, due: list[DueDelivery]
    ) -> tuple[list[Outcome], Contact | None]:
        if due[0].probe:
            try:
                transport.probe()
            except PeerError as error:
                if not error.answered:
                    return [], self._unreached(error.explained)
        outcomes: list[Outcome] = []
        files: list[tuple[DueDelivery, StoredFile]] = []
        for item in due:
            try:
                files.append((item, self._open(item)))
            except MedregaError as error:
                outcomes.append(self._outcome(item, None, error.explained, retry=False))
        waiting = iter([item for item, _ in files])
        lost: list[str] = []
        answered = False

        def sent(result: SendResult) -> None:
            nonlocal answered
            item = next(waiting)
            outcome = self._outcome(item, result.status, result.reason, retry=result.retry, ok=result.ok)
            if result.ok:
                self._ledger.deliveries.arrived(outcome)
            outcomes.append(outcome)
            answered |= result.status is not None or not result.retry
            if result.status is None and result.retry:
                lost.append(result.reason)
            self._ledger.deliveries.renew(run_id, destination, owner, seconds)

        if not files:
            return outcomes, None
        seconds = self._lease_seconds() + sum(file.path.stat().st_size for _, file in files) / _SLOWEST
        self._ledger.deliveries.renew(run_id, destination, owner, seconds)
        try:
            transport.send([file for _, file in files], sent)
        except PeerError as error:
            outcomes += [self._outcome(item, None, error.explained, retry=error.retry) for item in waiting]
            if not (answered or error.answered):
                return outcomes, self._unreached(error.explained)
        return outcomes, Contact(answered=True) if answered or not lost else self._unreached(lost[0])

    def _unreached(self, reason: str) -> Contact:
        settings = self._settings.delivery
        return Contact(
            answered=False,
            reason=reason,
            opens_after=settings.breaker_failures,
            probe_seconds=settings.probe_seconds,
            give_up_before=self._clock() - timedelta(hours=settings.max_hours),
        )

    def _open(self, item: DueDelivery) -> StoredFile:
        """The stored object, if it is still the one that was made."""
        if self._spool.sha256(item.result.path) != item.result.sha256:
            raise NodeError("a stored result is not as it was made")
        return StoredFile.open(self._spool.path(item.result.path))

    def _outcome(self, item: DueDelivery, status: int | None, reason: str, *, retry: bool, ok: bool = False) -> Outcome:
        if ok:
            return Outcome(item.id, DeliveryState.DELIVERED, status, reason)
        settings, now = self._settings.delivery, self._clock()
        attempts = item.attempts + 1
        refused = not retry and attempts >= PERMANENT_ATTEMPTS and reason == item.reason
        if refused or now - item.since >= timedelta(hours=settings.max_hours):
            return Outcome(item.id, DeliveryState.FAILED, status, reason)
        return Outcome(item.id, DeliveryState.PENDING, status, reason, now + delay_after(attempts, settings))


def _together(outcomes: list[Outcome]) -> list[Outcome]:
    """What is tried again is so at one time, and so in one association."""
    latest = max((item.next_attempt_at for item in outcomes if item.next_attempt_at is not None), default=None)
    return [replace(item, next_attempt_at=latest) if item.next_attempt_at else item for item in outcomes]
