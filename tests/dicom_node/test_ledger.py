"""The ledger: states, runs, leases, deliveries, and the way back in."""

import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_bench import Clock, received, wait_until
from postgresql import cluster
from queued import queue_complete
from sqlalchemy import MetaData, create_engine, text, update

from dicom_node.ledger import DeliveryState, LeaseLostError, Ledger, State
from dicom_node.ledger.database import upgrade
from dicom_node.ledger.expectations import HEADERS
from dicom_node.ledger.keeping import Terms
from dicom_node.ledger.models import Base, Instance
from dicom_node.ledger.part import run_key
from dicom_node.ledger.records import Claim, Outcome, StoredResult
from dicom_node.ledger.states import ACTIVE, TRANSITIONS, TransitionError, check_transition
from dicom_node.ledger.switches import Work
from dicom_node.process import new_owner, owner_is_gone
from dicom_node.routing.decision import Priority
from engine.errors import NodeError, SettingsError


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """URL of an empty ledger in PostgreSQL."""
    with cluster() as running:
        yield running.url()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger on that clock, in each of the databases."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    else:
        url = request.getfixturevalue("postgresql")
    ledger = Ledger(url, clock)
    ledger.migrate()
    yield ledger
    ledger.close()
    if request.param == "postgresql":
        empty(url)


def empty(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        names = ", ".join(table.name for table in Base.metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    engine.dispose()


def result(number: int = 1, run: str = "r") -> StoredResult:
    return StoredResult(
        f"2.25.{number}", "1.2.840.1", f"2.25.9{number}", f"sr-{number}", "0" * 64, f"{run}/v/{number}.dcm"
    )


def completed(ledger: Ledger, study: str = "1.2.3", sop: str = "1.2.3.4") -> str:
    """A run in the queue."""
    run_id = ledger.intake.record(received(study, sop))
    open_run = next(run for run in ledger.intake.receiving() if run.id == run_id)
    assert ledger.intake.complete(run_id, open_run.last_image_at, "quiet")
    assert run_id in queue_complete(ledger)
    return run_id


def claimed(ledger: Ledger, run_id: str, owner: str = "elsewhere:1:1") -> Claim:
    claim = ledger.runs.claim(run_id, owner, 60)
    assert claim is not None
    return claim


def delivering(ledger: Ledger, *destinations: str, study: str = "1.2.3", sop: str = "1.2.3.4", number: int = 1) -> str:
    run_id = completed(ledger, study, sop)
    claim = claimed(ledger, run_id)
    ledger.runs.reading_stored(claim, "d" * 64)
    ledger.runs.results_stored(claim, {name: [result(number)] for name in destinations})
    return run_id


def state(ledger: Ledger, study: str = "1.2.3") -> State:
    return ledger.study(study).runs[-1].state


def test_only_the_table_of_transitions_is_allowed() -> None:
    assert set(TRANSITIONS) == set(State)
    for current, wanted in TRANSITIONS.items():
        for other in State:
            if other in wanted:
                check_transition(current, other)
            else:
                with pytest.raises(TransitionError):
                    check_transition(current, other)
    assert all(State.CANCELLED in TRANSITIONS[active] for active in ACTIVE)


def test_a_study_lives_from_its_first_image_to_delivery_with_an_event_for_each_transition(ledger: Ledger) -> None:
    run_id = delivering(ledger, "pacs")
    due = ledger.deliveries.claim(run_id, "pacs", "elsewhere:1:1", 60)
    outcome = Outcome(due[0].id, DeliveryState.DELIVERED, 0, "")
    assert ledger.deliveries.finish(run_id, "pacs", "elsewhere:1:1", [outcome]) is State.DELIVERED
    everything = ledger.study("1.2.3").events
    assert [event.reason for event in everything if event.kind == "attempt"] == ["pacs: 1 delivered"]
    events = [event for event in everything if event.to_state is not None]
    assert [event.to_state for event in events] == [
        State.RECEIVING,
        State.COMPLETE,
        State.QUEUED,
        State.READING,
        State.WRITING,
        State.DELIVERING,
        State.DELIVERED,
    ]
    assert [event.from_state for event in events[1:]] == [event.to_state for event in events[:-1]]


def test_a_late_image_opens_a_run_that_supersedes_and_reads_everything(ledger: Ledger) -> None:
    first = delivering(ledger, "pacs")
    second = ledger.intake.record(received(sop="1.2.3.5"))
    assert second != first
    run = ledger.study("1.2.3").runs[-1]
    assert (run.number, run.supersedes, run.state, run.instances) == (2, first, State.RECEIVING, 2)
    open_run = ledger.intake.receiving()[0]
    ledger.intake.complete(second, open_run.last_image_at, "quiet")
    queue_complete(ledger)
    claim = claimed(ledger, second)
    assert len(claim.instances) == 2
    assert [item.sop_instance_uid for item in claim.predecessors] == ["2.25.1"]


def test_who_waits_for_a_run_that_is_superseded_meanwhile_gets_the_one_after_it(ledger: Ledger) -> None:
    completed(ledger)
    engine = ledger._database.engine
    pushed: list[State] = []
    thread = threading.Thread(target=lambda: pushed.append(ledger.intake.push("1.2.3")))
    with ledger._database.write() as session:
        late = ledger.intake._receiving_run(session, "1.2.3").id
        thread.start()
        if engine.dialect.name == "postgresql":
            with engine.connect() as connection:
                locks = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                assert wait_until(lambda: connection.execute(locks).scalar_one() > 0)
    thread.join(30)
    assert pushed == [State.COMPLETE]
    assert {run.id: run.state for run in ledger.study("1.2.3").runs}[late] is State.COMPLETE


def test_a_superseding_run_waits_until_the_one_before_has_results(ledger: Ledger, clock: Clock) -> None:
    first = completed(ledger)
    second = completed(ledger, sop="1.2.3.5")
    assert [run.id for run in ledger.runs.to_dispatch(clock())[0]] == [first]
    claim = claimed(ledger, first)
    assert [run.id for run in ledger.runs.to_dispatch(clock())[0]] == []
    ledger.runs.reading_stored(claim, "d" * 64)
    ledger.runs.results_stored(claim, {"pacs": [result()]})
    assert [run.id for run in ledger.runs.to_dispatch(clock())[0]] == [second]


def test_an_image_between_look_and_close_keeps_the_run_open(ledger: Ledger, clock: Clock) -> None:
    run_id = ledger.intake.record(received())
    seen = ledger.intake.receiving()[0].last_image_at
    clock.forward(1)
    ledger.intake.record(received(sop="1.2.3.5"))
    assert not ledger.intake.complete(run_id, seen, "quiet")
    assert state(ledger) is State.RECEIVING


def test_a_second_delivery_of_a_message_finds_nothing_to_do(ledger: Ledger) -> None:
    run_id = completed(ledger)
    assert ledger.runs.claim(run_id, "elsewhere:1:1", 60) is not None
    assert ledger.runs.claim(run_id, "elsewhere:2:2", 60) is None
    assert ledger.runs.claim("0" * 32, "elsewhere:2:2", 60) is None


def test_a_run_whose_lease_ran_out_goes_back_and_its_old_worker_can_enter_nothing(ledger: Ledger, clock: Clock) -> None:
    run_id = completed(ledger)
    old = claimed(ledger, run_id)
    assert ledger.runs.reclaim_lost(3) == []
    clock.forward(61)
    assert ledger.runs.reclaim_lost(3) == [run_id]
    new = claimed(ledger, run_id, "elsewhere:2:2")
    assert new.attempt == 2
    for call in (
        lambda: ledger.runs.renew(old, 60),
        lambda: ledger.runs.reading_stored(old, "a" * 64),
        lambda: ledger.runs.end(old, State.FAILED, "late"),
    ):
        with pytest.raises(LeaseLostError):
            call()
    assert not ledger.runs.is_held(old)
    assert ledger.runs.is_held(new)


def test_a_study_that_loses_its_worker_again_and_again_fails_and_does_not_block(ledger: Ledger, clock: Clock) -> None:
    run_id = completed(ledger)
    for _ in range(3):
        claimed(ledger, run_id)
        clock.forward(61)
        ledger.runs.reclaim_lost(3)
    assert state(ledger) is State.FAILED
    assert "lost" in ledger.study("1.2.3").runs[-1].reason


def test_what_is_lost_with_a_study_that_takes_its_worker_along_is_lost_once(ledger: Ledger, clock: Clock) -> None:
    runs = [completed(ledger, f"1.2.{number}", f"1.2.{number}.1") for number in range(4)]
    poison = runs[0]
    read: list[str] = []
    for _ in range(20):
        due = [run.id for run in ledger.runs.to_dispatch(clock())[0]]
        claims = [ledger.runs.claim(run_id, f"elsewhere:{run_id}:1", 300) for run_id in due]
        taken = [claim for claim in claims if claim is not None]
        if any(claim.run_id == poison for claim in taken):
            clock.forward(300)  # the one process that reads them all is gone
            ledger.runs.reclaim_lost(3, 10)
        else:
            for claim in taken:
                ledger.runs.reading_stored(claim, "d" * 64)
                ledger.runs.results_stored(claim, {"": [result(int(claim.run_id[:6], 16))]})
                read.append(claim.run_id)
        clock.forward(1)
    assert sorted(read) == sorted(runs[1:])
    assert [ledger.study(f"1.2.{number}").runs[0].attempts for number in range(4)] == [3, 2, 2, 2]
    assert state(ledger, "1.2.0") is State.FAILED


def test_completion_and_what_is_done_by_hand(ledger: Ledger, clock: Clock) -> None:
    """As the tests of completion, on each of the databases."""
    run_id = ledger.intake.record(received())
    ledger.sendings.heard("elsewhere:1:1", [("a", "1.2.3")], ["1.2.3"])
    assert ledger.expectations.to_ask({"CT1"}, 5) == [run_id]
    ledger.expectations.answered("1.2.3", "archive", 1)
    clock.forward(5)
    assert ledger.expectations.to_ask({"CT1"}, 5) == [run_id]
    ledger.expectations.answered("1.2.3", "archive", 1)
    assert ledger.expectations.met(5) == []
    assert ledger.sendings.ended("elsewhere:1:1", "a", ["1.2.3"], "1.2.3", released=True)
    ((run, _),) = ledger.expectations.met(5)
    assert ledger.intake.hold("1.2.3") is State.RECEIVING
    assert ledger.expectations.met(5) == ledger.intake.receiving(clock()) == []
    assert ledger.intake.release("1.2.3") is State.RECEIVING
    assert ledger.intake.receiving(clock()) == [run]
    assert ledger.clocks.steady() == clock()
    assert ledger.intake.push("1.2.3") is State.COMPLETE
    queue_complete(ledger)
    assert ledger.switches.pause(Work.READING)
    assert ledger.runs.to_dispatch(clock()) == ([], [])
    assert ledger.switches.resume(Work.READING)
    assert [run.priority for run in ledger.runs.to_dispatch(clock())[0]] == [0]


def test_the_lease_of_a_dead_process_of_this_machine_is_free_at_once(ledger: Ledger) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        owner = pool.apply(new_owner)
        assert not owner_is_gone(owner)
        pool.terminate()
        pool.join()
    assert owner_is_gone(owner)
    assert not owner_is_gone(new_owner())
    assert not owner_is_gone("elsewhere:1:1")
    run_id = completed(ledger)
    claimed(ledger, run_id, owner)
    assert ledger.runs.reclaim_lost(3) == [run_id]


def test_a_lease_is_held_by_one_and_renewed_by_it(ledger: Ledger, clock: Clock) -> None:
    assert ledger.leases.take("sweeper", "elsewhere:1:1", 10)
    assert not ledger.leases.take("sweeper", "elsewhere:2:2", 10)
    clock.forward(9)
    assert ledger.leases.take("sweeper", "elsewhere:1:1", 10)
    clock.forward(11)
    assert ledger.leases.take("sweeper", "elsewhere:2:2", 10)
    ledger.leases.drop("sweeper", "elsewhere:1:1")
    assert not ledger.leases.take("sweeper", "elsewhere:3:3", 10)


def test_a_run_is_delivered_when_every_destination_has_everything(ledger: Ledger) -> None:
    run_id = delivering(ledger, "pacs", "archive")
    for name, expected in (("pacs", State.DELIVERING), ("archive", State.DELIVERED)):
        due = ledger.deliveries.claim(run_id, name, "elsewhere:1:1", 60)
        outcomes = [Outcome(item.id, DeliveryState.DELIVERED, 0xB000, "status 0xB000") for item in due]
        assert ledger.deliveries.finish(run_id, name, "elsewhere:1:1", outcomes) is expected
    assert ledger.study("1.2.3").runs[-1].reason == "2 with a warning"


def test_a_destination_that_refuses_fails_the_run_and_retry_sends_only_what_is_missing(ledger: Ledger) -> None:
    run_id = delivering(ledger, "pacs", "archive")
    due = ledger.deliveries.claim(run_id, "pacs", "elsewhere:1:1", 60)
    ledger.deliveries.finish(run_id, "pacs", "elsewhere:1:1", [Outcome(due[0].id, DeliveryState.DELIVERED, 0, "")])
    due = ledger.deliveries.claim(run_id, "archive", "elsewhere:1:1", 60)
    refused = Outcome(due[0].id, DeliveryState.FAILED, 0x0122, "status 0x0122")
    assert ledger.deliveries.finish(run_id, "archive", "elsewhere:1:1", [refused]) is State.FAILED
    assert ledger.study("1.2.3").runs[-1].reason == "not delivered to archive: status 0x0122"
    assert [record.given_up for record in ledger.destinations.all(["pacs", "archive"])] == [0, 1]
    assert ledger.retry("1.2.3") is State.DELIVERING
    assert [record.given_up for record in ledger.destinations.all(["pacs", "archive"])] == [0, 0]
    assert ledger.deliveries.claim(run_id, "pacs", "elsewhere:1:1", 60) == []
    assert len(ledger.deliveries.claim(run_id, "archive", "elsewhere:1:1", 60)) == 1


def test_runs_of_a_study_reach_a_destination_in_their_order(ledger: Ledger, clock: Clock) -> None:
    first = delivering(ledger, "pacs")
    second = delivering(ledger, "pacs", sop="1.2.3.5", number=2)
    assert ledger.deliveries.to_dispatch(clock()) == ([(first, "pacs")], [])
    due = ledger.deliveries.claim(first, "pacs", "elsewhere:1:1", 60)
    assert ledger.deliveries.to_dispatch(clock()) == ([], [])
    ledger.deliveries.finish(first, "pacs", "elsewhere:1:1", [Outcome(due[0].id, DeliveryState.DELIVERED, 0, "")])
    assert ledger.deliveries.to_dispatch(clock()) == ([(second, "pacs")], [])


def test_a_delivery_that_failed_for_now_is_due_again_later_and_noted_once(ledger: Ledger, clock: Clock) -> None:
    run_id = delivering(ledger, "pacs")
    for _ in range(3):
        due = ledger.deliveries.claim(run_id, "pacs", "elsewhere:1:1", 60)
        later = clock.now.replace(minute=clock.now.minute + 1)
        ledger.deliveries.finish(
            run_id, "pacs", "elsewhere:1:1", [Outcome(due[0].id, DeliveryState.PENDING, None, "unreachable", later)]
        )
        assert ledger.deliveries.to_dispatch(clock()) == ([], [])
        assert ledger.deliveries.claim(run_id, "pacs", "elsewhere:1:1", 60) == []
        clock.forward(60)
        assert ledger.deliveries.to_dispatch(clock()) == ([(run_id, "pacs")], [])
    assert sum(event.kind == "delivery" for event in ledger.study("1.2.3").events) == 1
    assert ledger.study("1.2.3").deliveries[0].attempts == 3


def test_cancel_stops_every_run_and_the_worker_hears_it(ledger: Ledger) -> None:
    delivering(ledger, "pacs")
    second = completed(ledger, sop="1.2.3.5")
    claim = claimed(ledger, second)
    ledger.cancel("1.2.3")
    assert {run.state for run in ledger.study("1.2.3").runs} == {State.CANCELLED}
    assert not ledger.runs.is_held(claim)
    with pytest.raises(LeaseLostError):
        ledger.runs.reading_stored(claim, "d" * 64)
    with pytest.raises(NodeError, match="nothing is under way"):
        ledger.cancel("1.2.3")
    assert ledger.retry("1.2.3") is State.QUEUED


def test_cancel_takes_a_delivery_from_its_worker(ledger: Ledger) -> None:
    run_id = delivering(ledger, "pacs")
    due = ledger.deliveries.claim(run_id, "pacs", "elsewhere:1:1", 60)
    ledger.cancel("1.2.3")
    with pytest.raises(LeaseLostError):
        ledger.deliveries.renew(run_id, "pacs", "elsewhere:1:1", 60)
    ledger.deliveries.arrived(Outcome(due[0].id, DeliveryState.DELIVERED, 0, ""))
    assert ledger.study("1.2.3").deliveries[0].state is DeliveryState.DELIVERED


def test_a_study_that_failed_can_be_given_up_and_then_purged(ledger: Ledger) -> None:
    claim = claimed(ledger, completed(ledger))
    ledger.runs.end(claim, State.FAILED, "no model")
    terms = Terms(frozenset(), keep_committed=True)
    assert ledger.keeping.kept(terms)[0].images_needed == "its results have not arrived"
    ledger.cancel("1.2.3")
    assert state(ledger) is State.CANCELLED
    assert not ledger.keeping.kept(terms)[0].images_needed
    assert ledger.retry("1.2.3") is State.QUEUED


def test_an_arrival_and_a_cancel_do_not_lock_each_other_out(ledger: Ledger) -> None:
    run_id = delivering(ledger, "pacs")
    due = ledger.deliveries.claim(run_id, "pacs", "elsewhere:1:1", 60)
    outcome = Outcome(due[0].id, DeliveryState.DELIVERED, 0xB000, "coerced")
    thread = threading.Thread(target=ledger.deliveries.arrived, args=(outcome,))
    with ledger._database.write() as session:
        run = ledger.runs._lock_run(session, run_id)
        thread.start()
        thread.join(0.5)
        ledger.runs._stop(session, run, State.CANCELLED, "", "cancel")
    thread.join()
    assert ledger.study("1.2.3").deliveries[0].state is DeliveryState.DELIVERED


def test_retry_keeps_a_reading_and_refuses_what_is_under_way(ledger: Ledger) -> None:
    run_id = completed(ledger)
    with pytest.raises(NodeError, match="QUEUED"):
        ledger.retry("1.2.3")
    claim = claimed(ledger, run_id)
    ledger.runs.reading_stored(claim, "d" * 64)
    ledger.runs.end(claim, State.FAILED, "cannot be written")
    assert ledger.retry("1.2.3") is State.QUEUED
    again = claimed(ledger, run_id)
    assert (again.attempt, again.reading_digest) == (1, "d" * 64)


def test_an_unknown_study_is_refused_with_advice(ledger: Ledger) -> None:
    for call in (ledger.study, ledger.retry, ledger.cancel):
        with pytest.raises(NodeError, match=r"9\.9\.9") as caught:
            call("9.9.9")
        assert caught.value.advice


def test_the_list_shows_each_study_once_with_its_latest_run(ledger: Ledger, clock: Clock) -> None:
    delivering(ledger, "pacs")
    ledger.intake.record(received(sop="1.2.3.5", aet="CT2"))
    clock.forward(30)
    ledger.intake.record(received("4.5.6", "4.5.6.1"))
    newest, oldest = ledger.studies()
    assert (newest.study_instance_uid, newest.instances, newest.age_seconds) == ("4.5.6", 1, 0)
    assert (oldest.run_number, oldest.state, oldest.instances, oldest.age_seconds) == (2, State.RECEIVING, 2, 30)
    assert oldest.calling_aets == ("CT1", "CT2")
    assert ledger.studies(State.DELIVERED) == []


def test_results_without_a_destination_stay_and_the_run_is_done(ledger: Ledger) -> None:
    delivering(ledger, "")
    assert state(ledger) is State.DELIVERED
    assert ledger.study("1.2.3").results
    assert ledger.intake.is_own_result("2.25.1")
    assert not ledger.intake.is_own_result("1.2.3.4")


def test_conflicting_content_is_entered_apart_and_read_by_no_run(ledger: Ledger) -> None:
    run_id = completed(ledger)
    ledger.intake.record_conflict(received(path="studies/1.2.3/1.2.3.4_2.dcm"))
    record = ledger.study("1.2.3")
    assert (record.conflicts, len(record.runs)) == (1, 1)
    assert record.events[-1].kind == "conflict"
    assert len(claimed(ledger, run_id).instances) == 1


def _migrate(path: str) -> str:
    ledger = Ledger(f"sqlite:///{path}")
    ledger.migrate()
    run_id = ledger.intake.record(received())
    ledger.close()
    return run_id


def test_conflicting_content_that_was_purged_is_kept_again(ledger: Ledger) -> None:
    copy = received(path="studies/1.2.3/1.2.3.4_2.dcm")
    ledger.intake.record(received())
    ledger.intake.record_conflict(copy)
    with ledger._database.write() as session:
        session.execute(update(Instance).values(purged_at=ledger.clock()))
    ledger.intake.record_conflict(copy)
    assert ledger.intake.known_paths([copy.path]) == {copy.path}
    assert ledger.study("1.2.3").conflicts == 1


def test_a_study_held_in_the_moment_in_which_it_would_be_complete_stays_open(ledger: Ledger, clock: Clock) -> None:
    run_id = ledger.intake.record(received())
    ledger.intake.hold("1.2.3")
    assert not ledger.intake.complete(run_id, clock(), "quiet")
    assert state(ledger) is State.RECEIVING


def test_several_processes_may_start_and_enter_the_same_study_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.sqlite3"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        runs = pool.map(_migrate, [str(path)] * 8)
        pool.close()
        pool.join()
    assert len(set(runs)) == 1
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("SELECT count(*) FROM instance").fetchone() == (1,)
    connection.close()


def test_migrations_make_the_tables_that_the_models_describe(ledger: Ledger) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with ledger._database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [item for item in compare_metadata(context, Base.metadata) if item[0] != "modify_type"]
    assert differences == []


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_a_ledger_of_the_first_version_keeps_what_it_holds(
    backend: str, tmp_path: Path, clock: Clock, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    if backend == "postgresql":
        url = request.getfixturevalue("postgresql")
        server = create_engine(url, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text("CREATE DATABASE first"))
        server.dispose()
        url = url.removesuffix("postgres") + "first"
    engine = create_engine(url)
    tables = MetaData()
    with engine.begin() as connection:
        upgrade(connection, "0001")
        tables.reflect(connection)
    at, old = clock(), {name: table.insert() for name, table in tables.tables.items()}
    states = [one for one in State if one is not State.COMMITTED]
    with engine.begin() as connection:
        for number, one in enumerate(states):
            study, run = f"1.2.{number}", f"{number:032x}"
            row = {"study_instance_uid": study, "run_id": run, "reason": "", "attempts": 2, "created_at": at}
            uids = dict.fromkeys(("series_instance_uid", "sop_class_uid", "transfer_syntax_uid"), "1.3")
            times = dict.fromkeys(("changed_at", "last_image_at", "received_at", "at"), at)
            row |= uids | times | {"sop_instance_uid": f"{study}.4", "calling_aet": "CT", "called_aet": "US"}
            row |= {"kind": "sr", "sha256": "", "path": study, "result_id": number + 1}
            row |= {"destination": "pacs", "number": 1, "state": one}
            for name in ("study", "run", "instance", "event", "result", "delivery"):
                own = {"run": {"id": run}, "delivery": {"state": "PENDING"}}.get(name, {})
                known = {key: value for key, value in (row | own).items() if key in tables.tables[name].columns}
                connection.execute(old[name], known)
    engine.dispose()
    ledger = Ledger(url, clock)
    ledger.migrate()
    for number, one in enumerate(states):
        record = ledger.study(f"1.2.{number}")
        (run,) = record.runs
        assert (run.state, run.attempts, run.instances, len(record.results)) == (one, 2, 1, 1)
        assert (run.priority, len(record.deliveries), len(record.events)) == (Priority.ROUTINE, 1, 1)
    assert [run.study_instance_uid for run in ledger.intake.receiving()] == ["1.2.0"]
    assert len(ledger.runs.reclaim_lost(3)) == 2
    assert ledger.retry(f"1.2.{states.index(State.FAILED)}") is State.DELIVERING
    ledger.close()


def test_a_url_that_cannot_be_used_is_refused_without_showing_it() -> None:
    for url in ("nonsense", "nosuch://user:secret@host/db", "sqlite://"):
        with pytest.raises(SettingsError) as caught:
            Ledger(url)
        assert "secret" not in str(caught.value)


def test_of_two_numbers_that_headers_say_at_the_same_moment_the_larger_counts(ledger: Ledger) -> None:
    studies = [f"1.2.{number}" for number in range(20)]
    for study in studies:
        ledger.intake.record(received(study, f"{study}.4"))
    barrier, failed = threading.Barrier(2), list[NodeError]()

    def say(images: int) -> None:
        for study in studies:
            barrier.wait()
            try:
                ledger.expectations.answered(study, HEADERS, images)
            except NodeError as error:
                failed.append(error)

    threads = [threading.Thread(target=say, args=(images,)) for images in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert {ledger.study(study).expected for study in studies} == {3}


def test_run_keys_name_runs() -> None:
    assert run_key("a") == "run:a"


def test_processes_that_hear_of_the_same_studies_do_not_lock_each_other_out(ledger: Ledger, clock: Clock) -> None:
    studies = [f"1.2.{number}" for number in (3, 1, 2, 5, 4)]
    for number, study in enumerate(studies):
        ledger.intake.record(received(study, f"{study}.{number}"))
    failed: list[NodeError] = []

    def enter(owner: str) -> None:
        try:
            for number in range(60):
                ledger.arrivals.enter([received(study, f"{study}.{owner}.{number}") for study in studies])
        except NodeError as error:
            failed.append(error)

    def hear(owner: str) -> None:
        try:
            for _ in range(60):
                clock.forward(1)
                ledger.sendings.heard(owner, [], set(studies))
        except NodeError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(2) for work in (enter, hear)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
