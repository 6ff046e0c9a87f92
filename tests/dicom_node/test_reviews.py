"""Reviews: the superseding results, where they go, and what stands in their way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from node_bench import Clock, Pacs, node_settings
from pydicom import dcmread
from pydicom.dataset import Dataset
from study_bench import StudyBench, corners, finding, reading_of
from typer.testing import CliRunner

from dicom_node.cli.app import app
from dicom_node.delivery.deliverer import Deliverer
from dicom_node.ledger import Ledger, State
from dicom_node.reading.results import addressed, store_results
from dicom_node.reading.review import Reviewable, finish_review
from dicom_node.routing.decision import Action, Decision
from dicom_node.spool import Spool
from engine.errors import NodeError
from engine.findings import StudyReading
from engine.review import Decision as Said
from engine.review import Reason, Verdict, changed
from engine.study import load_studies

ACCEPT, REJECT = Verdict(Said.ACCEPT), Verdict(Said.REJECT, Reason.NOT_THERE)


class Bench(StudyBench):
    """A study with a reading of two findings, its real results, and a destination."""

    def __init__(self, folder: Path, ledger: Ledger, clock: Clock, pacs: Pacs | None) -> None:
        where: list[dict[str, Any]] = []
        if pacs is not None:
            peer = {"aet": pacs.peer.aet, "host": pacs.peer.host, "port": pacs.peer.port}
            where = [{"name": "pacs", "languages": ["en"], **peer}]
        review = {"organization": "Hospital", "names": {"li": "Wang^Li"}}
        self.settings = node_settings(folder, destinations=where, review=review)
        super().__init__(ledger, Spool.of(self.settings))
        self.clock = clock
        self.image = corners(48, 64)
        self.study = self.receive(self.image)
        found = finding(self.image, (8, 16, 12, 20)), finding(self.image, (20, 20, 40, 40))
        model = reading_of([self.image], *found)
        self.reading = replace(model, model=replace(model.model, commissioning=False))

    def write(self, decision: Decision = Decision()) -> None:  # noqa: B008 - frozen
        """Enter the reading and its results, as a worker does."""
        (run,) = self.ledger.runs.to_route()
        self.ledger.runs.route(run.id, decision)
        claim = self.ledger.runs.claim(run.id, "elsewhere:1:1", 60)
        assert claim is not None
        self.run_id = claim.run_id
        self.spool.store_reading(claim.run_id, self.reading.to_json())
        self.ledger.runs.reading_stored(claim, self.reading.digest, "phantom", len(self.reading.findings))
        with self.spool.files(claim, lambda: None) as files:
            (study,), _ = load_studies(files)
            destinations, withheld = addressed(claim.decision, self.settings)
            results, _ = store_results(self.spool, claim, self.reading, study, destinations)
        self.ledger.runs.results_stored(claim, results, withheld)

    def deliver(self) -> State:
        Deliverer(self.settings, self.ledger, self.spool, self.clock).deliver(self.run_id, "pacs")
        return self.ledger.study(self.study).runs[0].state

    def begin(self) -> Reviewable:
        return Reviewable.of(self.settings, self.ledger, self.spool, self.study)

    def finish(self, *verdicts: Verdict, begun: Reviewable | None = None, account: str = "li") -> StudyReading:
        now = self.clock()
        begun = begun or self.begin()
        return finish_review(self.settings, self.ledger, self.spool, begun, verdicts, account, now, keep_report=False)

    def moved(self, number: int = 0) -> Verdict:
        known = self.reading.findings[number]
        other = changed(known, concept=known.concept, names=known.names, text=known.text, boxes=[(1, 2, 30, 40)])
        return Verdict(Said.MODIFY, changed=other)


@pytest.fixture
def bench(tmp_path: Path, ledger: Ledger, clock: Clock, pacs: Pacs) -> Bench:
    return Bench(tmp_path, ledger, clock, pacs)


def documents(folder: Path) -> Iterator[Dataset]:
    for path in sorted(folder.rglob("*.dcm")):
        dataset = dcmread(path)
        if dataset.Modality == "SR":
            yield dataset


def superseded(document: Dataset) -> set[str]:
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in document.get("PredecessorDocumentsSequence") or []
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def test_each_review_supersedes_the_version_before_it_where_that_went(bench: Bench, tmp_path: Path) -> None:
    bench.write()
    assert bench.deliver() is State.DELIVERED
    first = {str(one.SOPInstanceUID) for one in documents(tmp_path / "pacs")}
    left = bench.finish(bench.moved(), REJECT)
    assert [region.box for region in left.regions] == [(1, 2, 30, 40)]
    assert bench.deliver() is State.DELIVERED
    second = [one for one in documents(tmp_path / "pacs") if str(one.SOPInstanceUID) not in first]
    assert {one.VerificationFlag for one in second} == {"VERIFIED"}
    observer = second[0].VerifyingObserverSequence[0]
    assert (observer.VerifyingObserverName, observer.VerifyingOrganization) == ("Wang^Li", "Hospital")
    assert all(superseded(one) == first for one in second)
    bench.finish(ACCEPT, ACCEPT, account="somebody.else")
    assert bench.deliver() is State.DELIVERED
    seen = first | {str(one.SOPInstanceUID) for one in second}
    third = [one for one in documents(tmp_path / "pacs") if str(one.SOPInstanceUID) not in seen]
    assert third
    assert all(superseded(one) == seen - first for one in third)
    assert str(third[0].VerifyingObserverSequence[0].VerifyingObserverName) == "somebody.else^"
    told = bench.ledger.reviews.of(bench.study)
    assert [(one.number, one.account) for one in told] == [(1, "li"), (2, "somebody.else")]
    moved, rejected = told[0].verdicts
    assert (moved["decision"], moved["regions"][0]["box_after"]) == ("modify", [1, 2, 30, 40])
    assert (rejected["decision"], rejected["reason"]) == ("reject", "not there")
    stored = bench.settings.data.path / "readings" / bench.run_id
    assert StudyReading.from_json((stored / "reading.json").read_text("utf-8")) == bench.reading
    assert len(list(stored.glob("review-*.json"))) == 2


def test_of_two_reviewers_at_once_the_second_is_told(bench: Bench) -> None:
    bench.write()
    bench.deliver()
    begun = bench.begin()
    bench.finish(ACCEPT, ACCEPT, begun=begun)
    bench.deliver()
    kept = set(bench.settings.data.path.glob("results/*/*/*"))
    with pytest.raises(NodeError, match="somebody else has finished"):
        bench.finish(REJECT, REJECT, begun=begun, account="other")
    assert set(bench.settings.data.path.glob("results/*/*/*")) == kept
    assert len(bench.ledger.reviews.of(bench.study)) == 1


def test_a_study_that_is_read_again_meanwhile_is_not_reviewed(bench: Bench) -> None:
    bench.write()
    with pytest.raises(NodeError, match="the study is DELIVERING"):
        bench.begin()
    bench.deliver()
    begun = bench.begin()
    bench.ledger.rereadings.open(bench.study, "phantom")
    with pytest.raises(NodeError, match="the study is QUEUED"):
        bench.finish(ACCEPT, ACCEPT, begun=begun)
    bench.ledger.cancel(bench.study)
    bench.finish(ACCEPT, ACCEPT, begun=begun)  # nothing superseded it


def test_nothing_of_a_route_in_shadow_is_sent(bench: Bench) -> None:
    bench.write(Decision(route="trial", action=Action.SHADOW))
    assert bench.ledger.study(bench.study).runs[0].state is State.DELIVERED
    bench.finish(ACCEPT, REJECT)
    record = bench.ledger.study(bench.study)
    assert (record.runs[0].state, record.deliveries) == (State.DELIVERED, ())
    (told,) = [event.reason for event in record.events if event.kind == "review"]
    assert told.startswith("review 1 by li; shadow")


def test_what_was_withdrawn_or_says_nothing_is_not_reviewed(bench: Bench) -> None:
    from dicom_node.delivery.retraction import retract
    from sr_writer import RejectionReason

    with pytest.raises(NodeError, match="the study is COMPLETE"):
        bench.begin()
    bench.write()
    bench.deliver()
    bench.finish(REJECT, REJECT)
    bench.deliver()
    withdrawn = retract(bench.ledger, bench.spool, bench.study, RejectionReason.QUALITY, datetime.now().astimezone())
    assert withdrawn["pacs"] == len(bench.ledger.study(bench.study).deliveries) - 1  # both versions
    bench.deliver()
    with pytest.raises(NodeError, match="have been withdrawn"):
        bench.begin()


def test_verdicts_are_exported_a_line_each_without_the_reviewers_words(bench: Bench, tmp_path: Path) -> None:
    bench.write()
    bench.deliver()
    known = bench.reading.findings[1]
    boxes = [region.box for region in known.regions]
    words = changed(known, concept=known.concept, names=known.names, text={"en": "As Mr Smith said."}, boxes=boxes)
    bench.finish(REJECT, Verdict(Said.MODIFY, changed=words))
    config = tmp_path / "medrega-pacs.toml"
    ledger = f'[ledger]\nurl = "sqlite:///{tmp_path / "ledger.sqlite3"}"\n'
    config.write_text(f'[data]\npath = "{bench.settings.data.path}"\n{ledger}', encoding="utf-8")
    ran = CliRunner().invoke(app, ["reviews", "export", "--jsonl", "--config", str(config)])
    assert ran.exit_code == 0, ran.output
    first, second = (json.loads(line) for line in ran.stdout.splitlines())
    assert (first["decision"], first["reason"], first["account"]) == ("reject", "not there", "li")
    assert (second["decision"], second["text_changed"], second["superseded"]) == ("modify", True, False)
    assert "Smith" not in ran.stdout
