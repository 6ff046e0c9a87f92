"""Studies as a model beside a ledger: what may happen to them in any order, and what must hold after each step.

The ledger is the real one; listeners, workers and people are here reduced to the calls that they make of it. A process
that is killed makes no more calls, one that is stopped makes its next call much later.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from dicom_node.intake.completion import Completion
from dicom_node.ledger import DeliveryState, LeaseLostError, Ledger, State
from dicom_node.ledger.deliveries import Shipment
from dicom_node.ledger.keeping import Terms
from dicom_node.ledger.models import Base, Delivery, Event, Instance, Lease, Result, Run
from dicom_node.ledger.part import run_key
from dicom_node.ledger.records import Claim, Contact, DueDelivery, Outcome, ReceivedInstance, StoredResult
from dicom_node.ledger.retractions import KIND as NOTE
from dicom_node.ledger.states import ACTIVE, LEASED, TRANSITIONS
from dicom_node.ledger.switches import Work
from dicom_node.routing.decision import DEFAULT_ROUTE, Action, Decision
from dicom_node.settings import Settings

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
SR: Final = "1.2.840.10008.5.1.4.1.1.88.33"
DESTINATIONS: Final = ("ARCHIVE", "PACS")
LEASE_SECONDS: Final = 60
ATTEMPTS: Final = 3
NOTHING_KEPT: Final = Terms(frozenset(), keep_committed=False)
WAYS_BACK: Final = {
    State.CANCELLED: {"retry"},
    State.IGNORED: {"retry"},
    State.FAILED: {"retry", "cancel", "retract", "review", "commitment"},
    State.DELIVERED: {"transition", "retract", "review", "commitment"},
    State.COMMITTED: {"retract", "review"},
}
"""The kinds of event that may take a run from a state in which nothing is under way."""


@dataclass
class Time:
    """A clock that can be set, and one that cannot."""

    now: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC)
    up: float = 1000.0

    def forward(self, seconds: float) -> None:
        self.now, self.up = self.now + timedelta(seconds=seconds), self.up + seconds

    def jump(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Reading:
    """A worker in mid-reading."""

    claim: Claim
    sure_until: float
    """Until then nobody may take it for lost, by the clock that never jumps."""
    stored: bool = False


@dataclass
class Delivering:
    """A worker in mid-delivery; the first of what is due is in flight."""

    run_id: str
    destination: str
    owner: str
    due: list[DueDelivery]


@dataclass
class World:
    """A ledger, everyone who works with it, and what they know of it.

    Parameters
    ----------
    url : str
        Of an empty ledger, its tables made.
    folder : Path
        For the settings; nothing is written there.
    """

    url: str
    folder: Path
    time: Time = field(default_factory=Time)
    acknowledged: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Study and SOP class of every image whose sender heard Success, by its path."""
    purged: set[str] = field(default_factory=set)
    """Studies of which images were purged."""
    read: dict[str, set[str]] = field(default_factory=dict)
    """The paths that each run's stored reading is made of."""
    digest: dict[str, str] = field(default_factory=dict)
    void: set[str] = field(default_factory=set)
    """Results that were withdrawn or superseded by a review: no more of them is sent."""
    messages: list[tuple[str, ...]] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    shipments: list[Delivering] = field(default_factory=list)
    resent: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a destination has said of a result that it did not keep it."""

    def __post_init__(self) -> None:
        # Two listeners, and everyone else: what one of them remembers may be out of date.
        self.ledgers = [Ledger(self.url, lambda: self.time.now, lambda: self.time.up) for _ in range(2)]
        self.ledger = self.ledgers[0]
        settings = Settings.model_validate({"data": {"path": self.folder}, "completion": {"quiet_seconds": 30}})
        self._completion = Completion(settings, self.ledger)
        self._number = count(1)
        self._jumped = False
        self.ledger.intake.begin()
        self.ledger.clocks.steady()

    def set_clock(self, seconds: float) -> None:
        self.time.jump(seconds)
        self._jumped = True
        for reading in self.readings:  # two jumps in one sweep's interval can cost a lease
            reading.sure_until = 0

    def _sure_until(self) -> float:
        return 0 if self._jumped else self.time.up + LEASE_SECONDS

    def close(self) -> None:
        for ledger in self.ledgers:
            ledger.close()

    def owner(self) -> str:
        """A process of another host: it is gone once its lease has run out."""
        return f"elsewhere:1:1:{next(self._number)}"

    # What listeners do.

    def arrive(self, listener: int, study: str, number: int, sop_class: str, *, batched: bool) -> None:
        path = f"studies/{study}/{number}.dcm"
        image = ReceivedInstance(
            study, f"{study}.1", f"{study}.9.{number}", sop_class, "1.2.840.10008.1.2.1", "CT1", path
        )
        ledger = self.ledgers[listener]
        if path in ledger.intake.known_paths([path]):
            ledger.intake.touch([study])
        elif path in self.acknowledged or not batched:
            ledger.intake.record(image)
        else:
            ledger.arrivals.enter([image])
        self.acknowledged[path] = study, sop_class

    # What the sweeper does, in parts: it may be killed between any two.

    def sweep(self, owner: str = "elsewhere:1:1:sweeper", parts: int = 9, decision: Decision = Decision()) -> None:  # noqa: B008 - frozen
        now = self.ledger.clocks.steady()
        self._jumped = False
        if not self.ledger.leases.take("sweeper", owner, 30):
            return
        work = (
            lambda: self._completion.close(now),
            lambda: self._route(decision),
            self._reclaim,
            lambda: self.ledger.deliveries.reclaim_lost(),
            self._send_readings,
            self._send_deliveries,
        )
        for part in work[:parts]:
            part()

    def _route(self, decision: Decision) -> None:
        self.ledger.switches.enforce()
        for run in self.ledger.runs.to_route():
            self.ledger.runs.route(run.id, decision)

    def _reclaim(self) -> None:
        lost = self.ledger.runs.reclaim_lost(ATTEMPTS, 10)
        robbed = [one for one in self.readings if one.claim.run_id in lost and one.sure_until > self.time.up]
        assert not robbed, "a worker lost its run before its lease had run out"

    def _send_readings(self) -> None:
        new, old = self.ledger.runs.to_dispatch(self.time.now - timedelta(seconds=5))
        self._send([("read", run.id) for run in new], [("read", run.id) for run in old])
        self.ledger.runs.dispatched([run.id for run in [*new, *old]])

    def _send_deliveries(self) -> None:
        new, old = self.ledger.deliveries.to_dispatch(self.time.now - timedelta(seconds=5))
        self._send([("deliver", *item) for item in new], [("deliver", *item) for item in old])
        self.ledger.deliveries.dispatched([*new, *old])

    def _send(self, new: list[tuple[str, ...]], old: list[tuple[str, ...]]) -> None:
        self.messages += [*new, *(message for message in old if message not in self.messages)]

    # What workers do.

    def take(self, message: tuple[str, ...]) -> None:
        if message[0] == "read":
            self._begin_reading(message[1])
        else:
            self._begin_delivery((message[1], message[2]))

    def _begin_reading(self, run_id: str) -> None:
        claim = self.ledger.runs.claim(run_id, self.owner(), LEASE_SECONDS)
        if claim is None:
            return
        assert claim.reading_digest == self.digest.get(run_id), "a finished reading is not made again"
        self.readings.append(Reading(claim, self._sure_until()))

    def go_on_reading(self, reading: Reading) -> None:
        """Store the reading, or its results."""
        claim = reading.claim
        try:
            if reading.stored:
                self.readings.remove(reading)
                self.ledger.runs.results_stored(claim, dict.fromkeys(DESTINATIONS, results(self.digest[claim.run_id])))
                return
            digest = claim.reading_digest or f"{next(self._number):064}"
            self.ledger.runs.reading_stored(claim, digest)
            reading.stored = True
            self.digest[claim.run_id] = digest
            self.read[claim.run_id] = {instance.path for instance in claim.instances}
        except LeaseLostError:
            self.forget(reading)

    def renew(self, reading: Reading) -> None:
        try:
            self.ledger.runs.renew(reading.claim, LEASE_SECONDS)
            reading.sure_until = self._sure_until()
        except LeaseLostError:
            self.forget(reading)

    def break_off(self, reading: Reading, how: str) -> None:
        self.forget(reading)
        later, runs = self.time.now + timedelta(seconds=30), self.ledger.runs
        try:
            if how == "fails":
                runs.end(reading.claim, State.FAILED, "it cannot be read")
            elif how == "does not fit" and not reading.stored:
                runs.end(reading.claim, State.IGNORED, "no plan fits")
            elif how != "killed":
                runs.give_back(reading.claim, how, later, attempt=how == "error")
        except LeaseLostError:
            pass

    def forget(self, reading: Reading) -> None:
        if reading in self.readings:
            self.readings.remove(reading)

    def _begin_delivery(self, shipment: Shipment) -> None:
        owner = self.owner()
        due = self.ledger.deliveries.claim(*shipment, owner, LEASE_SECONDS)
        if due:
            self.shipments.append(Delivering(*shipment, owner, due))
            self._in_flight(self.shipments[-1])

    def _in_flight(self, shipment: Delivering) -> None:
        with self.ledger._database.read() as session:
            run, delivery = session.get_one(Run, shipment.run_id), session.get_one(Delivery, shipment.due[0].id)
            assert run.state is State.DELIVERING, f"sent although {run.state}"
            assert delivery.state is not DeliveryState.CANCELLED, "sent although cancelled"
        assert shipment.due[0].result.sop_instance_uid not in self.void, "sent although withdrawn or superseded"

    def go_on_delivering(self, shipment: Delivering) -> None:
        """What is in flight arrives, and the next one is sent."""
        deliveries = self.ledger.deliveries
        item = shipment.due.pop(0)
        deliveries.arrived(Outcome(item.id, DeliveryState.DELIVERED, 0, ""))
        try:
            deliveries.renew(shipment.run_id, shipment.destination, shipment.owner, LEASE_SECONDS)
            if shipment.due:
                self._in_flight(shipment)
            else:
                self.end_delivery(shipment, Contact(answered=True))
        except LeaseLostError:
            self.shipments.remove(shipment)

    def die_delivering(self, shipment: Delivering, *, arrived: bool) -> None:
        """The worker is killed, perhaps when the ledger has just heard that what was in flight has arrived."""
        self.shipments.remove(shipment)
        if arrived:
            self.ledger.deliveries.arrived(Outcome(shipment.due[0].id, DeliveryState.DELIVERED, 0, ""))

    def end_delivery(self, shipment: Delivering, contact: Contact | None, state: DeliveryState | None = None) -> None:
        self.shipments.remove(shipment)
        later = self.time.now + timedelta(seconds=60)
        outcomes = [Outcome(item.id, state, None, "no", later) for item in shipment.due] if state else []
        with suppress(LeaseLostError):
            self.ledger.deliveries.finish(shipment.run_id, shipment.destination, shipment.owner, outcomes, contact)

    def commit(self, run_id: str, destination: str, *, kept: bool) -> None:
        """A destination is asked to commit to what it has got of a run, and answers."""
        uid, ledger = f"2.25.{next(self._number)}", self.ledger
        request = ledger.commitments.request(run_id, destination, uid, self.time.now + timedelta(seconds=60))
        if request is None:
            return
        again = ledger.commitments.request(run_id, destination, f"{uid}.1", self.time.now)
        assert again is None, "asked twice for the same"
        uids = [result.sop_instance_uid for result in request.results]
        before = {d.sop_instance_uid for d in ledger.study(self.study_of(run_id)).deliveries if d.state == "DELIVERED"}
        ledger.commitments.report(uid, uids if kept else [], {} if kept else dict.fromkeys(uids, "gone"), DESTINATIONS)
        if not kept:
            self.resent.update((destination, one) for one in uids if one in before)

    def study_of(self, run_id: str) -> str:
        return self.ledger.standing.study_of(run_id)

    # What people do.

    def retract(self, study: str) -> None:
        run_id, delivered = self.ledger.retractions.delivered(study)
        note = result(f"{next(self._number):064}", 1, NOTE)
        self.ledger.retractions.enter(run_id, dict.fromkeys(delivered, note), "WRONG")
        self._void(run_id)

    def review(self, study: str) -> None:
        claim = self.ledger.reviews.claim(study)
        digest = f"{next(self._number):064}"
        self._void(claim.run_id)
        self.ledger.reviews.enter(claim, "ann", digest, [], dict.fromkeys(DESTINATIONS, results(digest)), {})

    def _void(self, run_id: str) -> None:
        with self.ledger._database.read() as session:
            these = select(Result.sop_instance_uid).where(Result.run_id == run_id, Result.kind != NOTE)
            self.void |= set(session.scalars(these))

    def purge(self, study: str) -> None:
        removed: list[str] = []
        if self.ledger.keeping.purge_images(study, NOTHING_KEPT, "by hand", removed.extend):
            self.purged.add(study)

    def purge_results(self, study: str) -> None:
        runs: list[str] = []
        self.ledger.keeping.purge_results(study, NOTHING_KEPT, "by hand", lambda _: None, runs.extend)
        for run_id in runs:
            self.digest.pop(run_id, None)

    # What must hold.

    def check(self) -> None:
        """After each step."""
        with self.ledger._database.read() as session:
            runs = {run.id: run for run in session.scalars(select(Run))}
            events = session.scalars(select(Event).where(Event.to_state.is_not(None)).order_by(Event.id)).all()
            images = session.scalars(select(Instance)).all()
            leases = {lease.key for lease in session.scalars(select(Lease))}
            deliveries = session.scalars(select(Delivery)).all()
        self._check_events(runs, events)
        self._check_images(runs, images)
        for run in runs.values():
            assert (run_key(run.id) in leases) == (run.state in LEASED), f"a run that is {run.state}, and its lease"
            if run.state in (State.DELIVERED, State.COMMITTED, State.FAILED, State.CANCELLED):
                waiting = [d for d in deliveries if d.run_id == run.id and d.state is DeliveryState.PENDING]
                assert not waiting, f"a run that is {run.state} and has results that wait"
        held = Counter(one.claim.run_id for one in self.readings if self.ledger.runs.is_held(one.claim))
        assert all(number == 1 for number in held.values()), "two have the same run"
        arrived = sum(
            value for name, value in self.ledger.tallies.all().items() if name[::2] == ("deliveries", "delivered")
        )
        there = sum(d.state is DeliveryState.DELIVERED for d in deliveries)
        assert arrived == there + sum(self.resent.values()), "a result arrived twice"

    def _check_events(self, runs: dict[str, Run], events: Any) -> None:
        state: dict[str, State] = {}
        for event in events:
            before, after = state.get(event.run_id), event.to_state
            assert event.from_state == before, "a transition without its event"
            if before is None:
                assert after in (State.RECEIVING, State.QUEUED)
            else:
                assert after in TRANSITIONS[before], f"{before} became {after}"
                assert event.kind in WAYS_BACK.get(before, {event.kind}), f"{event.kind} took a run from {before}"
            state[event.run_id] = after
        assert state == {run.id: run.state for run in runs.values()}, "a transition without its event"

    def _check_images(self, runs: dict[str, Run], images: Any) -> None:
        assert sorted(image.path for image in images) == sorted(self.acknowledged), "an image lost, or entered twice"
        gathering: dict[str, Run] = {}
        for run in runs.values():
            assert run.gathers == (run.state is State.RECEIVING) or run.state is State.CANCELLED
            latest = max(one.number for one in runs.values() if one.study_instance_uid == run.study_instance_uid)
            if run.gathers:
                assert gathering.setdefault(run.study_instance_uid, run) is run, "two runs gather images of a study"
                assert run.number == latest, "a run gathers images that a later one came after"
        for image in images:
            run = runs[image.run_id]
            if run.id in self.read and image.purged_at is None:
                assert image.path in self.read[run.id], "an image joined a run that was read without it"

    def unread(self) -> dict[str, str]:
        """Images that no results at their destinations are made of, with their studies."""
        with self.ledger._database.read() as session:
            ended = session.scalars(select(Run.id).where(Run.state.in_((State.DELIVERED, State.COMMITTED)))).all()
        read = set[str]().union(*(self.read.get(run_id, ()) for run_id in ended))
        return {path: study for path, (study, sop) in self.acknowledged.items() if path not in read and sop == CT}

    def settle(self, rounds: int = 40) -> None:
        """All that went wrong is mended: nothing may be left under way, whatever the state that it was left in."""
        self.readings.clear()
        self.shipments.clear()
        self.messages.clear()
        for study in {study for study, _ in self.acknowledged.values()}:
            if self.ledger.study(study).held_at is not None:
                self.ledger.intake.release(study)
        for work in Work:
            self.ledger.switches.resume(work)
        self.ledger.switches.set_route(DEFAULT_ROUTE, Action.READ)
        for _ in range(rounds):
            self.time.forward(LEASE_SECONDS)
            self.sweep("elsewhere:1:1:sweeper")
            while self.work():
                pass
            if not self._under_way():
                return
        raise AssertionError(f"at {self.time.now} nobody takes on {self._under_way()}")

    def work(self, refusing: str = "") -> bool:
        """The next step of work that was sent for; whether there was one."""
        if self.shipments and self.shipments[0].destination == refusing:
            self.end_delivery(self.shipments[0], Contact(answered=True), DeliveryState.FAILED)
        elif self.shipments:
            self.go_on_delivering(self.shipments[0])
        elif self.readings:
            self.go_on_reading(self.readings[0])
        elif self.messages:
            self.take(self.messages.pop(0))
        else:
            return False
        return True

    def _under_way(self) -> list[str]:
        with self.ledger._database.read() as session:
            runs = session.scalars(select(Run).where(Run.state.in_(ACTIVE) | Run.gathers)).all()
            leases = session.scalars(select(Lease)).all()
        waits = [
            f"the lease {lease.key} until {lease.expires_at}" for lease in leases if runs or lease.key != "sweeper"
        ]
        return [*(f"a run that is {run.state}: {run.reason}" for run in runs), *waits]


def result(digest: str, number: int, kind: str) -> StoredResult:
    uid = f"2.25.{number}{int(digest)}"
    return StoredResult(uid, SR, f"{uid}.1", kind, digest, f"{uid}.dcm")


def results(digest: str) -> list[StoredResult]:
    """The same of the same reading, as the writer makes them."""
    return [result(digest, number, f"sr-{number}") for number in (1, 2)]


def empty(ledger: Ledger) -> None:
    """Take everything out of it."""
    with ledger._database.write() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())
