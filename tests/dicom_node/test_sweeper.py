"""Completion and sweeping: with a clock set by hand, a real broker, and messages that get lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_bench import Clock, node_settings, received

from dicom_node.children import Child, Children, tethered
from dicom_node.intake.completion import close_complete, is_complete, quiet_time
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import OpenRun, StoredResult
from dicom_node.queue.broker import BrokerError, connect, server_command, wait_until_up, waiting_tasks
from dicom_node.queue.dispatch import DELIVERY, READING, Dispatcher, make_app
from dicom_node.queue.sweeper import Sweeper
from dicom_node.settings import CompletionSettings, Settings

QUIET = CompletionSettings(quiet_seconds=60, per_calling_aet={"CT1": 120})


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    node = node_settings(tmp_path_factory.mktemp("broker"), completion={"quiet_seconds": 60})
    children = Children()
    children.add(Child("broker", tethered(server_command(node)), ends_last=True))
    wait_until_up(node)
    yield node
    children.stop(5)


@pytest.fixture
def empty_broker(broker: Settings) -> Settings:
    with connect(broker) as connection:
        connection.flushall()
    return broker


def sweeper(node: Settings, ledger: Ledger, clock: Clock) -> Sweeper:
    return Sweeper(node, ledger, Dispatcher(node, ledger, make_app(node), clock), clock)


def test_the_quiet_time_is_the_longest_of_the_senders_and_reset_by_each_image(ledger: Ledger, clock: Clock) -> None:
    ledger.intake.record(received(aet="MR1"))
    clock.forward(59)
    assert close_complete(ledger, QUIET, clock()) == []
    ledger.intake.record(received(sop="1.2.3.5", aet="CT1"))
    clock.forward(119)
    assert close_complete(ledger, QUIET, clock()) == []
    clock.forward(1)
    assert len(close_complete(ledger, QUIET, clock())) == 1
    assert ledger.study("1.2.3").events[-1].reason == "no image for 120 s"


@given(st.lists(st.floats(min_value=0.01, max_value=200), min_size=1, max_size=30))
def test_a_study_is_never_closed_within_the_quiet_time(gaps: list[float]) -> None:
    clock = Clock()
    for gap in gaps:
        run = OpenRun("a", "1.2", clock(), ("MR1",))
        clock.forward(gap)
        assert is_complete(run, QUIET, clock()) == (gap >= 60)
        assert quiet_time(run, QUIET) == 60


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(min_value=0.1, max_value=90, allow_nan=False)), min_size=1, max_size=25
    )
)
def test_interleaved_studies_are_closed_once_for_each_completed_set(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[tuple[int, float]]
) -> None:
    clock = Clock()
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('simulated') / 'ledger.sqlite3'}", clock)
    ledger.migrate()
    last: dict[int, float] = {}
    expected: dict[int, int] = {}
    now = 0.0
    for number, (study, gap) in enumerate(arrivals):
        if study not in last or now - last[study] >= 60:
            expected[study] = expected.get(study, 0) + 1
        last[study] = now
        ledger.intake.record(received(f"1.{study}", f"1.{study}.{number + 1}", aet="MR1"))
        clock.forward(gap)
        now += gap
        # Time passes in microseconds in the ledger; a gap at the very limit counts as either.
        close_complete(ledger, QUIET, clock())
        ledger.runs.queue_complete()
    clock.forward(61)
    close_complete(ledger, QUIET, clock())
    for study, runs in expected.items():
        record = ledger.study(f"1.{study}")
        assert len(record.runs) == runs
        assert all(run.state is not State.RECEIVING for run in record.runs)
        assert record.runs[-1].instances == sum(arrived == study for arrived, _ in arrivals)
    ledger.close()


def test_a_quiet_study_gets_one_message_however_often_is_swept(
    ledger: Ledger, clock: Clock, empty_broker: Settings
) -> None:
    run_id = ledger.intake.record(received())
    sweep = sweeper(empty_broker, ledger, clock).sweep
    sweep()
    assert waiting_tasks(empty_broker, READING) == set()
    clock.forward(61)
    for _ in range(5):
        sweep()
        clock.forward(10)
    assert waiting_tasks(empty_broker, READING) == {f"read-{run_id}"}
    with connect(empty_broker) as connection:
        assert connection.llen("medrega:reading") == 1


def test_a_message_that_was_lost_is_sent_again(ledger: Ledger, clock: Clock, empty_broker: Settings) -> None:
    run_id = ledger.intake.record(received())
    sweep = sweeper(empty_broker, ledger, clock).sweep
    clock.forward(61)
    sweep()
    with connect(empty_broker) as connection:
        connection.flushall()
    sweep()
    assert waiting_tasks(empty_broker, READING) == set()  # a worker may just have taken it
    clock.forward(6)
    sweep()
    assert waiting_tasks(empty_broker, READING) == {f"read-{run_id}"}


def test_work_of_a_lost_worker_is_sent_again_and_deliveries_too(
    ledger: Ledger, clock: Clock, empty_broker: Settings
) -> None:
    run_id = ledger.intake.record(received())
    sweep = sweeper(empty_broker, ledger, clock).sweep
    clock.forward(61)
    sweep()
    assert ledger.runs.claim(run_id, "elsewhere:1:1", 300) is not None
    with connect(empty_broker) as connection:
        connection.flushall()
    clock.forward(301)
    sweep()
    assert waiting_tasks(empty_broker, READING) == {f"read-{run_id}"}
    claim = ledger.runs.claim(run_id, "elsewhere:2:2", 300)
    assert claim is not None
    ledger.runs.reading_stored(claim, "d" * 64)
    result = StoredResult("2.25.1", "1.2", "2.25.2", "sr", "0" * 64, "results/r/v/sr.dcm")
    ledger.runs.results_stored(claim, {"pacs": [result]})
    for _ in range(2):
        sweep()
        assert waiting_tasks(empty_broker, DELIVERY) == {f"deliver-{run_id}-pacs"}
        with connect(empty_broker) as connection:
            connection.flushall()
        clock.forward(6)


def test_of_two_sweepers_one_works(ledger: Ledger, clock: Clock, empty_broker: Settings) -> None:
    first, second = (sweeper(empty_broker, ledger, clock) for _ in range(2))
    first.sweep()
    ledger.intake.record(received())
    clock.forward(61)
    assert ledger.leases.take("sweeper", first._owner, 100)
    second.sweep()
    assert ledger.studies()[0].state is State.RECEIVING
    first.sweep()
    assert ledger.studies()[0].state is State.QUEUED


def test_a_broker_that_is_away_costs_nothing_but_time(
    ledger: Ledger, clock: Clock, empty_broker: Settings, tmp_path: Path
) -> None:
    away = node_settings(tmp_path, completion={"quiet_seconds": 60})
    run_id = ledger.intake.record(received())
    clock.forward(61)
    with pytest.raises(BrokerError):
        sweeper(away, ledger, clock).sweep()
    clock.forward(61)
    sweeper(empty_broker, ledger, clock).sweep()
    assert waiting_tasks(empty_broker, READING) == {f"read-{run_id}"}


def test_messages_hold_ids_only(ledger: Ledger, clock: Clock, empty_broker: Settings) -> None:
    run_id = ledger.intake.record(received(study="1.2.826.0.1.77"))
    clock.forward(61)
    sweeper(empty_broker, ledger, clock).sweep()
    with connect(empty_broker) as connection:
        message = connection.lindex("medrega:reading", 0)
    assert isinstance(message, bytes)
    assert b'"content-type": "application/json"' in message
    assert b"1.2.826.0.1.77" not in message
    assert run_id.encode() in message
