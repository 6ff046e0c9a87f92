"""Completion and sweeping: with a clock set by hand, a real broker, and messages that get lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from node_bench import Clock, node_settings, received
from structlog.testing import capture_logs

from dicom_node.children import Child, Children, tethered
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import StoredResult
from dicom_node.ledger.switches import Work
from dicom_node.queue.broker import (
    PRIORITY_STEPS,
    BrokerError,
    connect,
    queue_key,
    server_command,
    wait_until_up,
    waiting_tasks,
)
from dicom_node.queue.dispatch import DELIVERY, READING, Dispatcher, make_app, reading_queue
from dicom_node.queue.sweeper import Sweeper
from dicom_node.routing.decision import Decision, Priority
from dicom_node.settings import Settings

ROUTINE = PRIORITY_STEPS[2]


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
    return Sweeper(node, ledger, Dispatcher(node, ledger, make_app(node), clock))


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
        assert connection.llen(queue_key(READING, ROUTINE)) == 1


def test_a_message_that_was_lost_is_sent_again(ledger: Ledger, clock: Clock, empty_broker: Settings) -> None:
    run_id = ledger.intake.record(received())
    sweep = sweeper(empty_broker, ledger, clock).sweep
    clock.forward(61)
    sweep()
    with connect(empty_broker) as connection:
        connection.flushall()
    sweep()
    assert waiting_tasks(empty_broker, READING) == set()  # it is on its way
    clock.forward(6)
    sweep()
    assert waiting_tasks(empty_broker, READING) == set()  # a worker may have taken it this moment
    sweep()
    assert waiting_tasks(empty_broker, READING) == {f"read-{run_id}"}


def test_a_message_that_a_worker_has_just_taken_is_not_called_lost(
    ledger: Ledger, clock: Clock, empty_broker: Settings
) -> None:
    run_id = ledger.intake.record(received())
    sweep = sweeper(empty_broker, ledger, clock).sweep
    clock.forward(61)
    sweep()
    clock.forward(6)
    with connect(empty_broker) as connection:
        connection.delete(queue_key(READING, ROUTINE))
    with capture_logs() as logs:
        sweep()
        assert ledger.runs.claim(run_id, "elsewhere:1:1", 300) is not None
        sweep()
    assert waiting_tasks(empty_broker, READING) == set()
    assert not logs


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
    there = sweeper(empty_broker, ledger, clock)
    there.sweep()
    there.sweep()
    assert waiting_tasks(empty_broker, READING) == {f"read-{run_id}"}


def test_messages_hold_ids_only(ledger: Ledger, clock: Clock, empty_broker: Settings) -> None:
    run_id = ledger.intake.record(received(study="1.2.826.0.1.77"))
    clock.forward(61)
    sweeper(empty_broker, ledger, clock).sweep()
    with connect(empty_broker) as connection:
        message = connection.lindex(queue_key(READING, ROUTINE), 0)
    assert isinstance(message, bytes)
    assert b'"content-type": "application/json"' in message
    assert b"1.2.826.0.1.77" not in message
    assert run_id.encode() in message


def test_nothing_is_sent_for_while_work_is_paused(ledger: Ledger, clock: Clock, empty_broker: Settings) -> None:
    run_id = ledger.intake.record(received())
    sweep = sweeper(empty_broker, ledger, clock).sweep
    clock.forward(61)
    assert ledger.switches.pause(Work.READING)
    sweep()
    assert ledger.studies()[0].state is State.QUEUED
    assert waiting_tasks(empty_broker, READING) == set()
    assert ledger.runs.claim(run_id, "elsewhere:1:1", 300) is None
    assert ledger.switches.resume(Work.READING)
    sweep()
    assert waiting_tasks(empty_broker, READING) == {f"read-{run_id}"}
    claim = ledger.runs.claim(run_id, "elsewhere:1:1", 300)
    assert claim is not None
    assert ledger.switches.pause(Work.DELIVERY)
    ledger.runs.reading_stored(claim, "d" * 64)
    result = StoredResult("2.25.1", "1.2", "2.25.2", "sr", "0" * 64, "results/r/v/sr.dcm")
    ledger.runs.results_stored(claim, {"pacs": [result]})
    sweep()
    assert waiting_tasks(empty_broker, DELIVERY) == set()
    assert ledger.deliveries.claim(run_id, "pacs", "elsewhere:2:2", 300) == []
    assert ledger.switches.resume(Work.DELIVERY)
    sweep()
    assert waiting_tasks(empty_broker, DELIVERY) == {f"deliver-{run_id}-pacs"}


def test_a_window_of_messages_is_in_the_broker_and_what_is_urgent_has_its_own(
    ledger: Ledger, clock: Clock, empty_broker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = 10
    monkeypatch.setattr("dicom_node.queue.dispatch.WINDOW", window)
    priorities = [Priority.ROUTINE] * (window + 5) + [Priority.LOW, Priority.STAT]
    runs = []
    for number, priority in enumerate(priorities):
        study = f"1.2.{number}"
        runs.append(ledger.intake.record(received(study, f"{study}.1")))
        ledger.intake.close(study, "all there")
        ledger.runs.route(runs[-1], Decision(priority=priority, engine="gpu" if priority is Priority.LOW else None))
    sweep = sweeper(empty_broker, ledger, clock).sweep
    for _ in range(3):
        sweep()
        clock.forward(10)
    with connect(empty_broker) as connection:
        assert connection.llen(queue_key(READING, ROUTINE)) == window
        assert connection.llen(queue_key(READING, PRIORITY_STEPS[0])) == 1
        assert connection.llen(queue_key(reading_queue("gpu"), PRIORITY_STEPS[3])) == 1
    for run_id in runs[:8]:
        assert ledger.runs.claim(run_id, "elsewhere:1:1", 300) is not None
    sweep()
    assert f"read-{runs[window + 4]}" in waiting_tasks(empty_broker, READING)
    # A worker takes what is urgent before what has waited for longer.
    with make_app(empty_broker).connection_for_read() as connection, connection.SimpleQueue(READING) as queue:
        assert queue.get(timeout=5).headers["id"] == f"read-{runs[-1]}"
