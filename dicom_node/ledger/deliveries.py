"""Deliveries: each result to each destination, until all have arrived or one is given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import case, literal, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from dicom_node.ledger.destinations import circuit_of, enter_contact, health_of, waiting_for
from dicom_node.ledger.models import Delivery, DeliveryState, DestinationHealth, Lease, Result, Run
from dicom_node.ledger.part import Part, delivery_key, stored_result
from dicom_node.ledger.records import Circuit, Contact, DueDelivery, Outcome
from dicom_node.ledger.states import State
from dicom_node.ledger.switches import Work, is_paused
from dicom_node.ledger.tallies import Counted, count

Shipment = tuple[str, str]
"""Run id and name of the destination: what goes in one association."""
AT_ONCE: Final = 2
"""Shipments under way to one destination."""
DELIVERIES: Final = "deliveries"
"""Tally of attempts, by destination and outcome."""
ATTEMPT: Final = "attempt"
"""Kind of the event that tells what an attempt came to; its reason begins with the destination's name and a colon."""


class Deliveries(Part):
    """What is on its way."""

    def to_dispatch(self, sent_before: datetime) -> tuple[list[Shipment], list[Shipment]]:
        """Shipments that are due and that no message was sent for yet, and those whose message is older than a time.

        Runs of one study go to a destination in their order: a later one waits until the earlier one has arrived. At
        most `AT_ONCE` go to one destination at a time, so that one that answers slowly does not hold up the others;
        none to one that is paused or whose circuit is open, and a single one, due or not, to one that is to be asked
        whether it answers again.
        """
        now = self._clock()
        earlier, pending = aliased(Run), aliased(Delivery)
        overtakes = (
            select(pending.id)
            .join(earlier, earlier.id == pending.run_id)
            .where(
                earlier.study_instance_uid == Run.study_instance_uid,
                earlier.number < Run.number,
                earlier.state == State.DELIVERING,
                pending.destination == Delivery.destination,
                pending.state == DeliveryState.PENDING,
            )
            .exists()
        )
        with self._database.read() as session:
            if is_paused(session, Work.DELIVERY):
                return [], []
            health = session.scalars(select(DestinationHealth)).all()
            shut = [row.name for row in health if row.paused_at or circuit_of(row, now) is Circuit.OPEN]
            asked = [row.name for row in health if circuit_of(row, now) is Circuit.HALF_OPEN]
            rows = session.execute(
                select(Delivery.run_id, Delivery.destination, Delivery.dispatched_at)
                .join(Run, Run.id == Delivery.run_id)
                .where(
                    Run.state == State.DELIVERING,
                    Delivery.state == DeliveryState.PENDING,
                    Delivery.destination.not_in(shut),
                    (Delivery.next_attempt_at <= now) | Delivery.destination.in_(asked),
                    ~overtakes,
                )
                # What a destination is asked with is what was tried least: it may choke on one object alone.
                .order_by(
                    case((Delivery.destination.in_(asked), Delivery.attempts), else_=0), Run.priority, Delivery.id
                )
            ).all()
            held = {
                lease.key
                for lease in session.scalars(select(Lease).where(Lease.key.startswith("delivery:"))).all()
                if not self._lease_is_free(lease)
            }
        under_way = Counter(key.split(":", 2)[2] for key in held)
        due: dict[Shipment, datetime | None] = {}
        for run_id, destination, sent in rows:
            if delivery_key(run_id, destination) not in held:
                before = due.get((run_id, destination), sent)
                due[run_id, destination] = before and sent and max(before, sent)
        under_way.update(destination for (_, destination), sent in due.items() if sent is not None)
        new: list[Shipment] = []
        for (run_id, destination), sent in due.items():
            if sent is None and under_way[destination] < (1 if destination in asked else AT_ONCE):
                under_way[destination] += 1
                new.append((run_id, destination))
        return new, [shipment for shipment, sent in due.items() if sent is not None and sent <= sent_before]

    def dispatched(self, shipments: Collection[Shipment]) -> None:
        """Remember that messages for these shipments were sent."""
        if shipments:
            with self._database.write() as session:
                session.execute(
                    update(Delivery)
                    .where(
                        tuple_(Delivery.run_id, Delivery.destination).in_(list(shipments)),
                        Delivery.state == DeliveryState.PENDING,
                    )
                    .values(dispatched_at=self._clock())
                )

    def claim(self, run_id: str, destination: str, owner: str, seconds: float) -> list[DueDelivery]:
        """Start to deliver: take the lease; empty if there is nothing (more) to do or another worker is at it."""
        with self._database.write() as session:
            if is_paused(session, Work.DELIVERY):
                return []
            now = self._clock()
            health = health_of(session, destination)
            circuit = circuit_of(health, now)
            if health.paused_at is not None or circuit is Circuit.OPEN:
                return []
            probe = circuit is Circuit.HALF_OPEN
            run = session.scalar(select(Run).where(Run.id == run_id).with_for_update())
            if run is None or run.state is not State.DELIVERING:
                return []
            rows = session.execute(
                select(Delivery, Result)
                .join(Result, Result.id == Delivery.result_id)
                .where(
                    Delivery.run_id == run_id,
                    Delivery.destination == destination,
                    Delivery.state == DeliveryState.PENDING,
                    (Delivery.next_attempt_at <= now) | literal(probe),
                )
                .order_by(Delivery.id)
            ).all()
            key = delivery_key(run_id, destination)
            lease = session.get(Lease, key, with_for_update=True)
            if not rows or not self._lease_is_free(lease):
                return []
            expires = now + timedelta(seconds=seconds)
            if probe:
                health.retry_at = expires  # nobody else asks in the meantime
            if lease is None:
                session.add(Lease(key=key, owner=owner, expires_at=expires))
            else:
                lease.owner, lease.expires_at = owner, expires
            return [
                DueDelivery(
                    delivery.id,
                    run.study_instance_uid,
                    stored_result(result),
                    delivery.attempts,
                    delivery.created_at,
                    delivery.reason,
                    probe,
                )
                for delivery, result in rows
            ]

    def renew(self, run_id: str, destination: str, owner: str, seconds: float) -> None:
        """Keep the lease for longer.

        Raises
        ------
        LeaseLostError
            If another worker took it.
        """
        with self._database.write() as session:
            lease = self._hold(session, delivery_key(run_id, destination), owner)
            lease.expires_at = self._clock() + timedelta(seconds=seconds)

    def reclaim_lost(self) -> None:
        """End what workers that are gone have left: everything had arrived, and they did not come to say so.

        What still waits is sent for again, and its lease taken over.
        """
        with self._database.read() as session:
            leases = session.scalars(select(Lease).where(Lease.key.startswith("delivery:"))).all()
            free = [lease.key for lease in leases if self._lease_is_free(lease)]
        for key in free:
            run_id, destination = key.split(":", 2)[1:]
            with self._database.write() as session:
                run = self._lock_run(session, run_id)
                here = Delivery.run_id == run_id, *waiting_for(destination)
                lease = session.get(Lease, key, with_for_update=True)
                if lease is None or not self._lease_is_free(lease) or session.scalar(select(Delivery.id).where(*here)):
                    continue
                session.delete(lease)
                if run.state is State.DELIVERING:
                    self._settle(session, run)

    def arrived(self, outcome: Outcome) -> None:
        """Enter at once that a result has arrived, so that a crash a moment later does not send it again."""
        with self._database.write() as session:
            run_id = session.scalar(select(Delivery.run_id).where(Delivery.id == outcome.delivery_id))
            if run_id is not None:
                self._lock_run(session, run_id)  # before its deliveries, as everyone does
                self._enter(session, outcome)

    def finish(
        self, run_id: str, destination: str, owner: str, outcomes: Iterable[Outcome], contact: Contact | None = None
    ) -> State:
        """Enter the outcomes of an attempt, give the lease back, and end the run once nothing waits; its state.

        Parameters
        ----------
        run_id, destination, owner : str
        outcomes : iterable of Outcome
            What is not among them waits as it did.
        contact : Contact, optional
            Whether the destination was reached; nothing is known of that without one.
        """
        with self._database.write() as session:
            if contact is not None:
                enter_contact(session, health_of(session, destination), contact, self._clock())
            run = self._lock_run(session, run_id)
            lease = self._hold(session, delivery_key(run_id, destination), owner)
            outcomes = list(outcomes)
            for outcome in outcomes:
                self._enter(session, outcome)
            if outcomes:
                told = Counter(f"{one.state.lower()}{one.reason and ': '}{one.reason}" for one in outcomes)
                summary = "; ".join(f"{count} {words}" for words, count in told.items())
                self._note(session, run.study_instance_uid, ATTEMPT, f"{destination}: {summary}", run_id)
            session.execute(
                update(Delivery).where(Delivery.run_id == run_id, *waiting_for(destination)).values(dispatched_at=None)
            )
            session.delete(lease)
            session.flush()
            if run.state is State.DELIVERING:
                self._settle(session, run)
            if contact is not None and contact.give_up_before is not None:
                self._give_up(session, destination, contact.give_up_before)
            return run.state

    def _give_up(self, session: Session, destination: str, before: datetime) -> None:
        """End what has waited too long for a destination that does not answer; some of it was never tried itself."""
        session.flush()
        late = select(Delivery.run_id).where(*waiting_for(destination), Delivery.created_at <= before).distinct()
        for run_id in session.scalars(late).all():
            run = self._lock_run(session, run_id)
            for row in session.scalars(select(Delivery).where(Delivery.run_id == run_id, *waiting_for(destination))):
                self._enter(session, Outcome(row.id, DeliveryState.FAILED, row.status, row.reason))
            session.flush()
            if run.state is State.DELIVERING:
                self._settle(session, run)

    def _enter(self, session: Session, outcome: Outcome) -> None:
        delivery = session.get(Delivery, outcome.delivery_id, with_for_update=True)
        if delivery is None:
            return
        # What arrived in the moment in which it was cancelled is there all the same, and can be withdrawn.
        stopped = delivery.state in (DeliveryState.CANCELLED, DeliveryState.SUPERSEDED)
        arrived = stopped and outcome.state is DeliveryState.DELIVERED
        if delivery.state is not DeliveryState.PENDING and not arrived:
            return
        # A destination that is down for a day is one line in the audit record, not one an attempt.
        told = outcome.state is DeliveryState.PENDING and outcome.reason == delivery.reason
        delivery.state, delivery.status, delivery.reason = outcome.state, outcome.status, outcome.reason
        delivery.attempts += 1
        came_to = "postponed" if outcome.state is DeliveryState.PENDING else outcome.state.lower()
        count(session, {Counted(DELIVERIES, delivery.destination, came_to): 1})
        delivery.next_attempt_at, delivery.dispatched_at = outcome.next_attempt_at, None
        if outcome.state is DeliveryState.DELIVERED:
            delivery.delivered_at = self._clock()
        if outcome.reason and not told:
            self._note(
                session,
                self._lock_run(session, delivery.run_id).study_instance_uid,
                "delivery",
                f"{delivery.destination}: {outcome.state.lower()}: {outcome.reason}",
                delivery.run_id,
            )

    def _settle(self, session: Session, run: Run) -> None:
        rows = session.scalars(select(Delivery).where(Delivery.run_id == run.id).order_by(Delivery.id)).all()
        if any(row.state is DeliveryState.PENDING for row in rows):
            return
        failed = [row for row in rows if row.state is DeliveryState.FAILED]
        if failed:
            where = ", ".join(dict.fromkeys(row.destination for row in failed))
            self._move(session, run, State.FAILED, f"not delivered to {where}: {failed[0].reason}")
        elif run.withheld:
            self._move(session, run, State.FAILED, f"not delivered to {run.withheld}")
        else:
            warned = sum(bool(row.reason) for row in rows)
            self._move(session, run, State.DELIVERED, f"{warned} with a warning" if warned else "")
