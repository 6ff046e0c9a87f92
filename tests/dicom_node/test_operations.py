"""What a person does to a study, and what comes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_bench import Clock, image, node_settings, written
from pydicom import dcmread
from queued import queue_complete

from dicom_node.audit import Trail
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.models import Instance
from dicom_node.ledger.records import ReceivedInstance, StudyRecord
from dicom_node.operations import Operations
from dicom_node.reading.reader import Reader
from dicom_node.routing.decision import Action, Decision
from dicom_node.spool import Spool
from engine.errors import NodeError, PlanError
from engine.findings import StudyReading
from engine.plan.files import SHIPPED


class NoDispatcher:
    """Stands where messages are sent."""

    def dispatch_deliveries(self) -> None:
        """Send nothing."""


class Bench:
    """A study that was read by the plan that fits best, and what a person can do to it."""

    def __init__(self, folder: Path, ledger: Ledger, clock: Clock) -> None:
        plans = folder / "plans"
        plans.mkdir()
        text = (SHIPPED / "phantom.toml").read_text("utf-8").replace('name = "phantom"', 'name = "site"')
        (plans / "site.toml").write_text(text, "utf-8")
        self.settings = node_settings(folder)
        self.settings = node_settings(folder, engine=dict(self.settings.engine) | {"plans": plans})
        self.ledger, self.spool = ledger, Spool(self.settings.data.path)
        self.operations = Operations(self.settings, ledger)
        self.reader = Reader(self.settings, ledger, self.spool, NoDispatcher(), clock)  # type: ignore[arg-type]
        self.dataset = image()
        self.study = str(self.dataset.StudyInstanceUID)

    def receive(self) -> str:
        relative = f"studies/{self.study}/{self.dataset.SOPInstanceUID}.dcm"
        written(self.spool.path(relative).parent, self.dataset)
        uids = (self.study, self.dataset.SeriesInstanceUID, self.dataset.SOPInstanceUID)
        run = self.ledger.intake.record(ReceivedInstance(*uids, "1.2", "1.2.840.10008.1.2.1", "CT1", relative))
        self.ledger.intake.complete(run, self.ledger.intake.receiving()[0].last_image_at, "quiet")
        return run

    def read(self) -> None:
        self.receive()
        (run,) = queue_complete(self.ledger)
        self.reader.read(run)

    @property
    def record(self) -> StudyRecord:
        return self.ledger.study(self.study)


@pytest.fixture
def bench(tmp_path: Path, ledger: Ledger, clock: Clock) -> Iterator[Bench]:
    bench = Bench(tmp_path, ledger, clock)
    yield bench
    bench.reader.close()


def test_a_study_is_read_again_by_another_plan_and_supersedes_its_results(bench: Bench) -> None:
    bench.read()
    assert {"site", "phantom"} < set(bench.operations.plans())
    assert bench.operations.reread(bench.study, "phantom") == 2
    first, second = bench.record.runs
    assert (first.plan, second.plan, second.state) == ("site", "phantom", State.QUEUED)
    assert (second.supersedes, second.route, second.instances) == (first.id, first.route, 1)
    assert bench.record.events[-1].kind == "reread"
    bench.reader.read(second.id)
    assert bench.record.runs[-1].state is State.DELIVERED
    assert StudyReading.from_json(bench.spool.reading(second.id)).plan == "phantom"
    results = [result for result in bench.record.results if result.run_id == second.id and result.kind.startswith("sr")]
    named = dcmread(bench.spool.path(results[0].path)).PredecessorDocumentsSequence
    assert named[0].StudyInstanceUID == bench.study


def test_a_late_image_after_it_was_asked_for_is_a_run_of_its_own(bench: Bench) -> None:
    bench.read()
    bench.operations.reread(bench.study, "phantom")
    late = image(bench.study)
    path = f"studies/{bench.study}/{late.SOPInstanceUID}.dcm"
    uids = (bench.study, late.SeriesInstanceUID, late.SOPInstanceUID)
    bench.ledger.intake.record(ReceivedInstance(*uids, "1.2", "1.2.840.10008.1.2.1", "CT1", path))
    assert [run.state for run in bench.record.runs] == [State.DELIVERED, State.QUEUED, State.RECEIVING]


def test_what_cannot_be_read_again_says_why(bench: Bench, ledger: Ledger) -> None:
    with pytest.raises(PlanError, match="no plan 'x-ray'") as refused:
        bench.operations.reread(bench.study, "x-ray")
    assert "chest-xray" in refused.value.advice
    with pytest.raises(NodeError, match="no image of the study"):
        bench.operations.reread(bench.study, "phantom")
    run = bench.receive()
    with pytest.raises(NodeError, match="the study is COMPLETE"):
        bench.operations.reread(bench.study, "phantom")
    ledger.runs.undecided(run, "the rules are wrong")
    with pytest.raises(NodeError, match="no rule has looked"):
        bench.operations.reread(bench.study, "phantom")
    bench.operations.retry(bench.study)
    ledger.runs.route(run, Decision(route="night", action=Action.OFF))
    with pytest.raises(NodeError, match="route night is off"):
        bench.operations.reread(bench.study, "phantom")
    bench.operations.retry(bench.study)
    ledger.runs.route(run, Decision(route="night"))
    bench.operations.cancel(bench.study)
    ledger.switches.set_route("night", Action.OFF, "new model")
    with pytest.raises(NodeError, match="new model"):
        bench.operations.reread(bench.study, "phantom")
    ledger.switches.set_route("night", Action.READ)
    with ledger._database.write() as session:
        session.query(Instance).one().purged_at = ledger.clock()
    with pytest.raises(NodeError, match="1 of the study's images were purged"):
        bench.operations.reread(bench.study, "phantom")


def test_what_a_person_does_is_audited_with_who_and_whether_it_was_done(bench: Bench) -> None:
    bench.receive()
    person = Operations(bench.settings, bench.ledger, "anna", "10.0.0.7")
    person.hold(bench.study, "wrong patient")
    person.release(bench.study)
    with pytest.raises(NodeError):
        person.retry(bench.study)
    person.cancel(bench.study)
    folder = Trail.of(bench.settings).folder
    messages = [json.loads(line)["message"] for line in next(folder.glob("*.jsonl")).read_text("utf-8").splitlines()]
    told = [
        (re.search(r'csd-code="(study-\w+)"', text), re.search(r'OutcomeIndicator="(\d)"', text)) for text in messages
    ]
    assert [(action and action[1], outcome and outcome[1]) for action, outcome in told] == [
        ("study-held", "0"),
        ("study-released", "0"),
        ("study-retried", "4"),
        ("study-cancelled", "0"),
    ]
    assert all('UserID="anna"' in text and "10.0.0.7" in text and bench.study in text for text in messages)
    assert "wrong patient" not in str(messages)
