"""A study's life in every order: the real ledger under steps drawn at random, and a model that says what must hold."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from postgresql import cluster
from study_life import CT, DESTINATIONS, LEASE_SECONDS, SR, World, empty

from dicom_node.ledger import DeliveryState, Ledger, State
from dicom_node.ledger.records import Contact
from dicom_node.ledger.states import TRANSITIONS
from dicom_node.ledger.switches import Work
from dicom_node.routing.decision import DEFAULT_ROUTE, Action, Decision
from engine.errors import NodeError

EXPLORE = os.environ.get("HYPOTHESIS_PROFILE") == "explore"
STUDIES = st.sampled_from(("1.2.1", "1.2.2"))
ANY = st.integers(0, 7)
DECISIONS = st.sampled_from(
    (
        Decision(),
        Decision(),
        Decision(engine="gpu"),
        Decision(action=Action.SHADOW),
        Decision(action=Action.OFF),
        Decision(route=None),
    )
)


class StudyLife(RuleBasedStateMachine):
    """What may happen, each a step."""

    def __init__(self, make: Callable[[], World]) -> None:
        super().__init__()
        self.world = make()

    def teardown(self) -> None:
        world = self.world
        try:
            world.settle()
            world.check()
            self._all_is_read_once_people_ask_for_it()
        finally:
            world.close()

    def _all_is_read_once_people_ask_for_it(self) -> None:
        """Where nothing is done, a person can have it done."""
        world = self.world
        for _ in range(3):  # a run that only reports were added by leads back to the one before
            for study in {study for study in world.unread().values() if study not in world.purged}:
                world.ledger.retry(study)
                world.settle()
                world.check()
        left = {path: study for path, study in world.unread().items() if study not in world.purged}
        assert not left, f"nobody can have {left} read"

    @rule(listener=st.integers(0, 1), study=STUDIES, number=st.integers(1, 3), batched=st.booleans())
    def image_arrives(self, listener: int, study: str, number: int, batched: bool) -> None:
        self.world.arrive(listener, study, number, CT, batched=batched)

    @rule(listener=st.integers(0, 1), study=STUDIES)
    def report_arrives(self, listener: int, study: str) -> None:
        self.world.arrive(listener, study, 4, SR, batched=True)

    @rule(listener=st.integers(0, 1), study=STUDIES, ended=st.booleans(), released=st.booleans())
    def transfer(self, listener: int, study: str, ended: bool, released: bool) -> None:
        ledger, transfer = self.world.ledgers[listener], f"{listener}-{study}"
        ledger.sendings.heard("elsewhere:1:1:listener", [(transfer, study)], [study])
        if ended:
            ledger.sendings.ended("elsewhere:1:1:listener", transfer, [study], study, released=released)

    @rule(study=STUDIES, number=st.integers(1, 4))
    def source_counts(self, study: str, number: int) -> None:
        if any(of == study for of, _ in self.world.acknowledged.values()):
            self.world.ledger.expectations.answered(study, "archive", number)

    @rule(seconds=st.sampled_from((1, 6, 31, 61, 700)))
    def time_passes(self, seconds: int) -> None:
        self.world.time.forward(seconds)

    @rule(seconds=st.sampled_from((-86400, -3600, -5, 5, 3600, 86400)))
    def clock_is_set(self, seconds: int) -> None:
        self.world.set_clock(seconds)

    @rule(sweeper=st.integers(0, 1), parts=st.integers(0, 9), decision=DECISIONS)
    def sweep(self, sweeper: int, parts: int, decision: Decision) -> None:
        self.world.sweep(f"elsewhere:1:1:sweeper{sweeper}", parts, decision)

    @rule(
        steps=st.sampled_from((1, 2, 3, 4, 6, 12, 12)),
        decision=DECISIONS,
        refusing=st.sampled_from(("", *DESTINATIONS)),
    )
    def work_goes_on(self, steps: int, decision: Decision, refusing: str) -> None:
        self.world.time.forward(31)
        self.world.sweep(decision=decision)
        for _ in range(steps):
            if not self.world.work(refusing):
                self.world.sweep(decision=decision)

    @precondition(lambda self: self.world.messages)
    @rule(which=ANY)
    def message_is_lost(self, which: int) -> None:
        self.world.messages.pop(which % len(self.world.messages))

    @precondition(lambda self: self.world.messages)
    @rule(which=ANY, again=st.booleans())
    def worker_takes_message(self, which: int, again: bool) -> None:
        messages = self.world.messages
        message = messages[which % len(messages)] if again else messages.pop(which % len(messages))
        self.world.take(message)

    @precondition(lambda self: self.world.readings)
    @rule(which=ANY, steps=st.integers(1, 2))
    def reading_goes_on(self, which: int, steps: int) -> None:
        reading = self.world.readings[which % len(self.world.readings)]
        for _ in range(steps):
            if reading in self.world.readings:
                self.world.go_on_reading(reading)

    @precondition(lambda self: self.world.readings)
    @rule(which=ANY)
    def reader_renews(self, which: int) -> None:
        self.world.renew(self.world.readings[which % len(self.world.readings)])

    @precondition(lambda self: self.world.readings)
    @rule(which=ANY, how=st.sampled_from(("killed", "killed", "stopped", "error", "fails", "does not fit")))
    def reading_breaks_off(self, which: int, how: str) -> None:
        self.world.break_off(self.world.readings[which % len(self.world.readings)], how)

    @precondition(lambda self: self.world.shipments)
    @rule(which=ANY)
    def delivery_goes_on(self, which: int) -> None:
        self.world.go_on_delivering(self.world.shipments[which % len(self.world.shipments)])

    @precondition(lambda self: self.world.shipments)
    @rule(which=ANY, how=st.sampled_from(("killed after it arrived", "killed", "refused", "odd", "unreachable")))
    def delivery_breaks_off(self, which: int, how: str) -> None:
        world = self.world
        shipment = world.shipments[which % len(world.shipments)]
        if how == "refused":
            world.end_delivery(shipment, Contact(answered=True), DeliveryState.FAILED)
        elif how == "odd":
            world.end_delivery(shipment, None, DeliveryState.PENDING)
        elif how == "unreachable":
            gone = Contact(answered=False, reason="no answer", opens_after=2, probe_seconds=60)
            world.end_delivery(shipment, gone, DeliveryState.PENDING)
        else:
            world.die_delivering(shipment, arrived=how != "killed")

    @rule(study=STUDIES, which=ANY, destination=st.sampled_from(DESTINATIONS), kept=st.booleans())
    def destination_commits(self, study: str, which: int, destination: str, kept: bool) -> None:
        runs = [run.id for run in self._runs(study)]
        if runs:
            self.world.commit(runs[which % len(runs)], destination, kept=kept)

    @rule(
        study=STUDIES,
        what=st.sampled_from(("cancel", "retry", "push", "hold", "release", "reread", "retract", "review")),
    )
    def person(self, study: str, what: str) -> None:
        ledger = self.world.ledger
        steps: dict[str, Callable[[str], object]] = {
            "cancel": ledger.cancel,
            "retry": ledger.retry,
            "push": ledger.intake.push,
            "hold": ledger.intake.hold,
            "release": ledger.intake.release,
            "reread": lambda uid: ledger.rereadings.open(uid, "other"),
            "retract": self.world.retract,
            "review": self.world.review,
        }
        with suppress(NodeError):  # refused; that nothing has changed is part of what is checked
            steps[what](study)

    @rule(work=st.sampled_from(Work), paused=st.booleans())
    def work_is_paused(self, work: Work, paused: bool) -> None:
        switches = self.world.ledger.switches
        if paused:
            switches.pause(work)
        else:
            switches.resume(work)

    @rule(action=st.sampled_from(Action))
    def route_is_switched(self, action: Action) -> None:
        self.world.ledger.switches.set_route(DEFAULT_ROUTE, action)

    @rule(study=STUDIES, images=st.booleans())
    def purge(self, study: str, images: bool) -> None:
        if images:
            self.world.purge(study)
        else:
            self.world.purge_results(study)

    @invariant()
    def all_holds(self) -> None:
        self.world.check()

    def _runs(self, study: str):
        return (
            self.world.ledger.study(study).runs if any(s == study for s, _ in self.world.acknowledged.values()) else ()
        )


def walk(make: Callable[[], World], examples: int) -> None:
    steps = settings(
        max_examples=examples,
        stateful_step_count=40,
        phases=set(Phase)
        - {Phase.shrink},  # which takes minutes; the steps that failed are printed, and few of them matter
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: StudyLife(make), settings=steps)


@pytest.mark.hypothesis
@pytest.mark.timeout(1800)
def test_no_order_of_steps_loses_doubles_or_forgets_anything(tmp_path: Path) -> None:
    file, unused = tmp_path / "ledger.sqlite3", tmp_path / "unused.sqlite3"
    ledger = Ledger(f"sqlite:///{unused}")
    ledger.migrate()
    ledger.close()

    def make() -> World:
        for old in tmp_path.glob("ledger.*"):
            old.unlink()
        shutil.copy(unused, file)
        return World(f"sqlite:///{file}", tmp_path)

    walk(make, 150 if EXPLORE else 12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_order_of_steps_does_so_in_postgresql(tmp_path: Path) -> None:
    with cluster() as running:
        ledger = Ledger(running.url())
        ledger.migrate()

        def make() -> World:
            empty(ledger)
            return World(running.url(), tmp_path)

        walk(make, int(os.environ.get("EXAMPLES", "5")))
        ledger.close()


def test_the_guide_for_administrators_has_the_table_of_transitions() -> None:
    guide = (Path(__file__).parents[2] / "deploy" / "OPERATING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z]+)` \| [^|]+ \| ([A-Z` ]+) \|$", guide, re.MULTILINE)
    assert {before: set(re.findall("[A-Z]+", after)) for before, after in rows} == TRANSITIONS


# What the machine has found, in as few steps as show it.


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    ledger = Ledger(url)
    ledger.migrate()
    ledger.close()
    world = World(url, tmp_path)
    yield world
    world.close()


def arrive_and_sweep(world: World, sop_class: str = CT, number: int = 1, decision: Decision = Decision()) -> None:  # noqa: B008 - frozen
    world.arrive(0, "1.2.1", number, sop_class, batched=True)
    world.time.forward(31)
    world.sweep(decision=decision)


def states(world: World) -> list[State]:
    return [run.state for run in world.ledger.study("1.2.1").runs]


def test_deliverers_that_are_killed_after_the_last_arrival_leave_nothing_under_way(world: World) -> None:
    arrive_and_sweep(world)
    for _ in DESTINATIONS:
        while not world.shipments:
            assert world.work() or world.sweep() is None
        world.go_on_delivering(world.shipments[0])
        world.die_delivering(world.shipments[0], arrived=True)
    assert states(world) == [State.DELIVERING]
    world.settle()
    assert states(world) == [State.DELIVERED]


@pytest.mark.parametrize("seconds", [86400, -86400])
def test_a_lease_taken_before_a_jump_is_discovered_keeps_its_length(world: World, seconds: int) -> None:
    arrive_and_sweep(world)
    world.time.jump(seconds)
    world.work()
    world.sweep()
    assert states(world) == [State.READING], "the jump took a living reader's lease"
    world.break_off(world.readings[0], "killed")
    world.time.forward(2 * LEASE_SECONDS)
    world.sweep()
    assert states(world) == [State.QUEUED], "the jump lengthened the lease"


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_results_entered_before_a_jump_is_discovered_are_sent_at_once(world: World, seconds: int) -> None:
    arrive_and_sweep(world)
    world.time.jump(seconds)
    while states(world) != [State.DELIVERING]:
        assert world.work()
    world.time.forward(0.2)
    world.sweep()
    while not world.shipments:
        assert world.work(), "nothing is due"


def test_a_circuit_opens_no_longer_because_the_clock_is_set_back(world: World) -> None:
    arrive_and_sweep(world)
    while not world.shipments:
        assert world.work() or world.sweep() is None
    gone = Contact(answered=False, reason="no answer", probe_seconds=60)
    world.end_delivery(world.shipments[0], gone, DeliveryState.PENDING)
    world.time.jump(-86400)
    world.settle(rounds=4)
    assert states(world) == [State.DELIVERED]


def test_a_report_that_is_added_to_a_study_that_failed_does_not_hide_it(world: World) -> None:
    arrive_and_sweep(world)
    world.work()
    world.break_off(world.readings[0], "fails")
    arrive_and_sweep(world, SR, 4)
    assert states(world) == [State.FAILED, State.IGNORED]
    (summary,) = world.ledger.studies(State.FAILED)
    assert summary.run_number == 1
    assert world.ledger.overview.standings().keys() == {State.FAILED}
    world.ledger.retry("1.2.1")
    world.settle()
    assert states(world) == [State.DELIVERED, State.IGNORED]


@pytest.mark.parametrize("newer", ["retract", "review"])
def test_what_was_withdrawn_or_reviewed_before_it_arrived_is_not_sent_by_a_retry(world: World, newer: str) -> None:
    arrive_and_sweep(world)
    while states(world) != [State.FAILED]:
        assert world.work(refusing="ARCHIVE") or world.sweep() is None
    world.retract("1.2.1") if newer == "retract" else world.review("1.2.1")
    while states(world) != [State.FAILED]:
        assert world.work(refusing="PACS") or world.sweep() is None
    world.ledger.retry("1.2.1")
    world.settle()
    old = [one for one in world.ledger.study("1.2.1").deliveries if one.sop_instance_uid in world.void]
    assert {one.state for one in old if one.destination == "ARCHIVE"} == {DeliveryState.SUPERSEDED}
    assert states(world) == [State.DELIVERED]


def test_a_suspect_whose_queue_has_no_worker_holds_up_no_other_queue(world: World) -> None:
    for study, engine in (("1.2.1", "gpu"), ("1.2.2", None)):
        world.arrive(0, study, 1, CT, batched=True)
        world.time.forward(31)
        world.sweep(decision=Decision(engine=engine))
    while world.messages:
        world.work()
        world.break_off(world.readings[0], "killed")
    world.time.forward(LEASE_SECONDS + 1)
    world.sweep()
    assert len(world.messages) == 2


def test_a_request_to_commit_is_made_once_although_the_clock_was_set_back(world: World) -> None:
    arrive_and_sweep(world)
    world.settle()
    world.time.jump(-3600)
    world.commit(world.ledger.study("1.2.1").runs[0].id, "PACS", kept=True)


def test_results_that_were_purged_are_not_sent_again(world: World) -> None:
    arrive_and_sweep(world)
    while not world.shipments:
        assert world.work() or world.sweep() is None
    shipment = world.shipments[0]
    while shipment in world.shipments:
        world.go_on_delivering(shipment)
    world.ledger.cancel("1.2.1")
    world.purge_results("1.2.1")
    with pytest.raises(NodeError, match="purged"):
        world.ledger.retry("1.2.1")
