"""Withdrawing what was delivered: a rejection note reaches every destination that has results, and the ledger tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_bench import Clock, Pacs, image, node_settings, written
from pydicom import dcmread
from pydicom.uid import KeyObjectSelectionDocumentStorage
from queued import queue_complete
from typer.testing import CliRunner

from dicom_node.cli.app import app
from dicom_node.delivery.deliverer import Deliverer
from dicom_node.delivery.retraction import retract
from dicom_node.ledger import DeliveryState, Ledger, State
from dicom_node.ledger.records import ReceivedInstance, StudyRecord
from dicom_node.reading.reader import Reader
from dicom_node.spool import Spool
from engine.errors import NodeError
from sr_writer import RejectionReason

NAMES = ("pacs", "archive")


class NoDispatcher:
    """Stands where messages are sent: the tests deliver by themselves."""

    def dispatch_deliveries(self) -> None:
        """Send nothing."""


class Bench:
    """A study that was read, and two destinations of which each gets other objects."""

    def __init__(self, folder: Path, ledger: Ledger, clock: Clock, pacs: Pacs) -> None:
        peer = {"aet": pacs.peer.aet, "host": pacs.peer.host, "port": pacs.peer.port}
        destinations: list[dict[str, Any]] = [
            {"name": "pacs", "languages": ["en"], **peer},
            {"name": "archive", "profile": "ihe-air", **peer},
        ]
        self.settings = node_settings(folder, destinations=destinations)
        self.ledger, self.clock, self.pacs = ledger, clock, pacs
        self.spool = Spool(self.settings.data.path)
        dataset = image()
        self.study = str(dataset.StudyInstanceUID)
        relative = f"studies/{self.study}/{dataset.SOPInstanceUID}.dcm"
        written(self.spool.path(relative).parent, dataset)
        uids = (self.study, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        self.run_id = ledger.intake.record(ReceivedInstance(*uids, "1.2", "1.2.840.10008.1.2.1", "CT1", relative))
        ledger.intake.complete(self.run_id, ledger.intake.receiving()[0].last_image_at, "quiet")
        queue_complete(ledger)
        reader = Reader(self.settings, ledger, self.spool, NoDispatcher(), clock)  # type: ignore[arg-type]
        reader.read(self.run_id)
        reader.close()

    def deliver(self, *destinations: str) -> None:
        deliverer = Deliverer(self.settings, self.ledger, self.spool, self.clock)
        for destination in destinations:
            deliverer.deliver(self.run_id, destination)

    def retract(self, reason: RejectionReason = RejectionReason.QUALITY) -> dict[str, int]:
        return retract(self.ledger, self.spool, self.study, reason, self.clock())

    @property
    def record(self) -> StudyRecord:
        return self.ledger.study(self.study)


@pytest.fixture
def bench(tmp_path: Path, ledger: Ledger, clock: Clock) -> Iterator[Bench]:
    with Pacs(tmp_path / "received") as pacs:
        yield Bench(tmp_path, ledger, clock, pacs)


def test_a_note_of_its_own_objects_goes_to_each_destination(bench: Bench, tmp_path: Path) -> None:
    bench.deliver("pacs", "archive")
    sent = {name: {d.sop_instance_uid for d in bench.record.deliveries if d.destination == name} for name in NAMES}
    assert bench.retract(RejectionReason.SAFETY) == {name: len(sent[name]) for name in NAMES}
    assert bench.record.runs[0].state is State.DELIVERING
    bench.deliver("pacs", "archive")
    assert bench.record.runs[0].state is State.DELIVERED
    notes = [dcmread(path) for path in sorted((tmp_path / "received").rglob("*.dcm"))]
    notes = [note for note in notes if note.SOPClassUID == KeyObjectSelectionDocumentStorage]
    named = [
        {
            str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
            for item in note.ContentSequence
            if "ReferencedSOPSequence" in item
        }
        for note in notes
    ]
    assert sorted(map(sorted, named)) == sorted(map(sorted, sent.values()))
    assert {note.ConceptNameCodeSequence[0].CodeValue for note in notes} == {"113037"}
    assert [event.reason for event in bench.record.events if event.kind == "retract"] == ["results withdrawn: safety"]


def test_the_command_says_what_is_withdrawn_where(bench: Bench, tmp_path: Path) -> None:
    bench.deliver("pacs")
    bench.ledger.cancel(bench.study)
    config = tmp_path / "medrega-pacs.toml"
    ledger = f'[ledger]\nurl = "sqlite:///{tmp_path / "ledger.sqlite3"}"\n'
    config.write_text(f'[data]\npath = "{bench.settings.data.path}"\n{ledger}', encoding="utf-8")
    ran = CliRunner().invoke(app, ["retract", bench.study, "--reason", "safety", "--config", str(config)])
    assert ran.exit_code == 0, ran.output
    count = sum(item.destination == "pacs" and item.kind != "retraction" for item in bench.record.deliveries)
    assert f"pacs: {count} results withdrawn" in ran.output
    assert [item.kind for item in bench.record.deliveries if item.state is DeliveryState.PENDING] == ["retraction"]


def test_what_is_withdrawn_is_not_withdrawn_again(bench: Bench) -> None:
    bench.deliver("pacs", "archive")
    bench.retract()
    with pytest.raises(NodeError, match="still on their way"):
        bench.retract()
    bench.deliver("pacs", "archive")
    with pytest.raises(NodeError, match="withdrawn already"):
        bench.retract()


def test_what_had_not_arrived_is_not_sent_any_more(bench: Bench) -> None:
    bench.deliver("pacs")
    with pytest.raises(NodeError, match="still on their way"):
        bench.retract()
    bench.ledger.cancel(bench.study)
    assert set(bench.retract()) == {"pacs"}
    bench.deliver("pacs", "archive")
    record = bench.record
    assert record.runs[0].state is State.DELIVERED
    assert {d.state for d in record.deliveries if d.destination == "archive"} == {DeliveryState.SUPERSEDED}


def test_a_study_of_which_nothing_was_delivered_has_nothing_to_withdraw(bench: Bench) -> None:
    with pytest.raises(NodeError, match="no result of the study"):
        bench.retract()
    with pytest.raises(NodeError, match="no result of the study"):
        retract(bench.ledger, bench.spool, "1.2.3", RejectionReason.QUALITY, bench.clock())
