"""Destinations: how each does, its circuit breaker, and those that a person holds back.

The circuit opens after failures in a row to reach a destination; then nothing is sent there, and at intervals one
worker asks whether it answers again. It closes with the first delivery after that, and all that waits is due at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.ledger.models import Delivery, DeliveryState, DestinationHealth, Run
from dicom_node.ledger.part import Part
from dicom_node.ledger.records import Circuit, Contact, DestinationRecord
from dicom_node.ledger.states import State
from engine.errors import NodeError


class Destinations(Part):
    """How destinations do."""

    def all(self, names: Iterable[str]) -> list[DestinationRecord]:
        """The destinations of these names, and those beyond them that something still waits for."""
        now = self._clock()
        with self._database.read() as session:
            health = {row.name: row for row in session.scalars(select(DestinationHealth))}
            waiting = {
                name: (count, oldest)
                for name, count, oldest in session.execute(
                    select(Delivery.destination, func.count(), func.min(Delivery.created_at))
                    .join(Run, Run.id == Delivery.run_id)
                    .where(Delivery.state == DeliveryState.PENDING, Run.state == State.DELIVERING)
                    .group_by(Delivery.destination)
                )
            }
            failed = (
                select(Delivery.destination, func.count())
                .join(Run, Run.id == Delivery.run_id)
                .where(Delivery.state == DeliveryState.FAILED, Run.state == State.FAILED)
                .group_by(Delivery.destination)
            )
            given_up = {row[0]: row[1] for row in session.execute(failed)}
            names = list(dict.fromkeys((*names, *waiting)))
            delivered = select(func.max(Delivery.delivered_at)).where(Delivery.state == DeliveryState.DELIVERED)
            last = {name: session.scalar(delivered.where(Delivery.destination == name)) for name in names}
        records = []
        for name in names:
            row = health.get(name) or DestinationHealth(name=name, failures=0, reason="")
            count, oldest = waiting.get(name, (0, None))
            records.append(
                DestinationRecord(
                    name=name,
                    paused_at=row.paused_at,
                    circuit=circuit_of(row, now),
                    failures=row.failures,
                    retry_at=row.retry_at,
                    reason=row.reason,
                    failed_at=row.failed_at,
                    answered_at=row.answered_at,
                    waiting=count,
                    oldest=oldest,
                    delivered_at=last.get(name),
                    given_up=given_up.get(name, 0),
                )
            )
        return records

    def pause(self, name: str) -> bool:
        """Send nothing there until `resume`; False if it is so already."""
        with self._database.write() as session:
            row = health_of(session, name)
            if row.paused_at is not None:
                return False
            row.paused_at = self._clock()
            return True

    def resume(self, name: str) -> int:
        """Send there again, at once; how many results wait. The hours that they are tried for begin anew.

        Raises
        ------
        NodeError
            If it is not paused.
        """
        with self._database.write() as session:
            row = health_of(session, name)
            if row.paused_at is None:
                raise NodeError(f"the destination {name} is not paused")
            row.paused_at, row.failures, row.retry_at = None, 0, None
            now = self._clock()
            session.execute(update(Delivery).where(*waiting_for(name)).values(created_at=now))
            return make_due(session, name, now)

    def circuit(self, name: str) -> Circuit:
        """Whether anything is sent there."""
        with self._database.read() as session:
            row = session.get(DestinationHealth, name)
            return Circuit.CLOSED if row is None else circuit_of(row, self._clock())

    def probed(self, name: str, contact: Contact) -> int:
        """A person asked whether it answers; if it does, all that waits is due, and its circuit is closed."""
        with self._database.write() as session:
            row, now = health_of(session, name), self._clock()
            if contact.answered:
                row.failures, row.retry_at, row.answered_at = 0, None, now
                return make_due(session, name, now)
            row.reason, row.failed_at = contact.reason, now
            return 0


def health_of(session: Session, name: str) -> DestinationHealth:
    """A destination's row, locked; made where there is none.

    Whoever locks a run or its deliveries as well locks this one first.
    """
    row = session.get(DestinationHealth, name, with_for_update=True)
    if row is not None:
        return row
    try:
        with session.begin_nested():
            session.add(DestinationHealth(name=name, failures=0, reason=""))
    except IntegrityError:  # another one was quicker
        pass
    row = session.get(DestinationHealth, name, with_for_update=True)
    assert row is not None  # noqa: S101 - it is there now, whoever made it
    return row


def circuit_of(row: DestinationHealth, now: datetime) -> Circuit:
    """Where a circuit stands."""
    if row.retry_at is None:
        return Circuit.CLOSED
    return Circuit.OPEN if row.retry_at > now else Circuit.HALF_OPEN


def waiting_for(name: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The deliveries that wait for a destination."""
    return Delivery.destination == name, Delivery.state == DeliveryState.PENDING


def make_due(session: Session, name: str, now: datetime) -> int:
    """Let everything that waits for a destination be sent at once; how many results there are."""
    done = session.execute(update(Delivery).where(*waiting_for(name)).values(next_attempt_at=now, dispatched_at=None))
    return cast("CursorResult[Any]", done).rowcount


def enter_contact(session: Session, row: DestinationHealth, contact: Contact, now: datetime) -> None:
    """Count a contact, and open or close the circuit."""
    if contact.answered:
        closes = row.retry_at is not None
        row.failures, row.retry_at, row.answered_at = 0, None, now
        if closes:
            make_due(session, row.name, now)
        return
    row.failures += 1
    row.reason, row.failed_at = contact.reason, now
    if row.retry_at is not None or row.failures >= contact.opens_after:
        row.retry_at = now + timedelta(seconds=contact.probe_seconds)
        # What has not been tried itself waits for the same reason.
        session.execute(
            update(Delivery).where(*waiting_for(row.name), Delivery.reason == "").values(reason=contact.reason)
        )
