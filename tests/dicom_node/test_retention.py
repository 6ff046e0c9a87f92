"""Retention: what goes, what never does, and a disk that is never full (a small one of its own, if root may mount)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fronts import radiograph, stored
from node_bench import Clock, node_settings, received
from pydicom import dcmwrite
from queued import queue_complete
from sqlalchemy import update

from dicom_node.dimse.association import PeerError
from dicom_node.dimse.commitment import Report
from dicom_node.dimse.commitment_scp import CommitmentScp
from dicom_node.intake.adoption import adopt
from dicom_node.intake.storage import Storage
from dicom_node.ledger import DeliveryState, Ledger, State
from dicom_node.ledger.holdings import Selection
from dicom_node.ledger.models import Instance
from dicom_node.ledger.records import Outcome
from dicom_node.retention import Retention, Verdict
from dicom_node.spool import Spool, SpoolError, Stored

DAY = 86400.0


class Bench:
    """A ledger, a spool and retention on a clock set by hand."""

    def __init__(self, folder: Path, ledger: Ledger, clock: Clock, **changes: Any) -> None:
        self.settings = node_settings(folder, **changes)
        self.ledger, self.clock = ledger, clock
        self.spool = Spool(self.settings.data.path)
        self.retention = Retention(self.settings, self.spool, ledger)

    def study(self, uid: str, *destinations: str, size: int = 1000) -> str:
        """A study of one image whose results are stored and due at destinations; its run."""
        run_id, _ = stored(self.ledger, self.spool, destinations, uid)
        path = self.spool.root / f"studies/{uid}/x.dcm"
        path.parent.mkdir()
        path.write_bytes(bytes(size))
        return run_id

    def deliver(self, run_id: str, destination: str) -> None:
        due = self.ledger.deliveries.claim(run_id, destination, "elsewhere:1:2", 60)
        outcomes = [Outcome(item.id, DeliveryState.DELIVERED, 0, "") for item in due]
        self.ledger.deliveries.finish(run_id, destination, "elsewhere:1:2", outcomes)

    def purge(self) -> tuple[int, int]:
        return self.retention.purge(self.retention.plan())

    def verdict(self, uid: str) -> Verdict:
        return next(item for item in self.retention.plan() if item.holding.study_instance_uid == uid)

    def files(self) -> set[str]:
        found = (path for name in ("studies", "results", "readings") for path in self.spool.root.glob(f"{name}/**/*"))
        return {str(path.relative_to(self.spool.root)) for path in found if path.is_file()}


def test_only_what_is_delivered_goes_and_its_record_stays(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    bench = Bench(
        tmp_path,
        ledger,
        clock,
        retention={"images_days": 10, "results_days": 20},
        destinations=[{"name": "pacs", "aet": "PACS", "port": 104}],
    )
    delivered = bench.study("1.2.1", "pacs")
    bench.study("1.2.2", "pacs")
    bench.study("1.2.3")
    ledger.intake.record(received("1.2.4", "1.2.4.1"))
    held = bench.study("1.2.5", "pacs")
    failed = bench.study("1.2.6", "pacs")
    bench.spool.store_reading(delivered, "{}")
    for run_id in (delivered, held):
        bench.deliver(run_id, "pacs")
    ledger.intake.hold("1.2.5")
    due = ledger.deliveries.claim(failed, "pacs", "elsewhere:1:2", 60)
    refused = [Outcome(item.id, DeliveryState.FAILED, 0xA900, "refused") for item in due]
    assert ledger.deliveries.finish(failed, "pacs", "elsewhere:1:2", refused) is State.FAILED

    clock.forward(10 * DAY - 1)
    assert bench.purge() == (0, 0)
    clock.forward(1)
    assert bench.purge() == (2, 0)  # of the study that was delivered, and of the one that goes nowhere
    clock.forward(10 * DAY)
    before = bench.files()
    assert bench.purge() == (0, 2)
    assert {path.split("/")[0] for path in before - bench.files()} == {"results", "readings"}
    assert not any(delivered in path or "1.2.1/" in path for path in bench.files())
    assert not (bench.spool.root / "studies" / "1.2.1").exists()

    assert bench.verdict("1.2.2").stays == "it is DELIVERING"
    assert bench.verdict("1.2.3").stays == "nobody else has them"
    assert bench.verdict("1.2.4").stays == "it is RECEIVING"
    assert bench.verdict("1.2.5").stays == "it is held by hand"
    assert bench.verdict("1.2.6").stays == "its results have not arrived"
    record = ledger.study("1.2.1")
    assert [event.reason for event in record.events if event.kind == "purge"] == [
        "1 image removed: older than 10 days",
        "2 results removed: older than 20 days",
    ]
    assert all(ledger.intake.is_own_result(result.sop_instance_uid) for result in record.results)


def test_what_a_destination_has_to_commit_to_stays_until_it_has(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    destinations = [{"name": "pacs", "aet": "PACS", "port": 104, "commitment": True}]
    limits = {"images_days": 1, "results_days": 1}
    bench = Bench(tmp_path, ledger, clock, retention=limits, destinations=destinations)
    run_id = bench.study("1.2.1", "pacs")
    bench.deliver(run_id, "pacs")
    clock.forward(2 * DAY)
    assert bench.purge() == (0, 0)
    assert bench.verdict("1.2.1").stays == "pacs has not committed to its results"
    request = ledger.commitments.request(run_id, "pacs", "1.2.9", clock())
    assert request is not None
    uids = {result.sop_instance_uid for result in request.results}
    assert ledger.commitments.report("1.2.9", uids, {}, ["pacs"]) is State.COMMITTED
    assert bench.purge() == (0, 0)  # it has changed just now
    clock.forward(2 * DAY)
    assert bench.purge() == (1, 2)


def test_what_a_sender_was_told_is_kept_stays_unless_settings_say_otherwise(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    bench = Bench(tmp_path, ledger, clock, retention={"images_days": 1})
    bench.study("1.2.1")
    assert ledger.commitments.owe("1.2.9", [("1.2", "1.2.1.5")], "CT1", "MEDREGA", clock())
    assert ledger.commitments.promise(["1.2.1.5"]) == {"1.2.1.5"}
    ledger.commitments.told("1.2.9", ["1.2.1.5"], "CT1")
    clock.forward(2 * DAY)
    assert bench.purge() == (0, 0)
    assert "their sender was told that they are kept" in bench.verdict("1.2.1").stays
    other = Bench(tmp_path, ledger, clock, retention={"images_days": 1, "keep_committed": False})
    assert other.purge() == (1, 0)
    assert ledger.commitments.kept(["1.2.1.5"]) == {}
    assert ledger.commitments.promise(["1.2.1.5"]) == set()


def test_what_a_sender_is_being_told_is_kept_stays_already(
    tmp_path: Path, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, ledger, clock, retention={"images_days": 1})
    bench.study("1.2.1")
    clock.forward(2 * DAY)
    told: list[Report] = []
    assert ledger.commitments.owe("1.2.9", [("1.2", "1.2.1.5")], "CT1", "MEDREGA", clock())
    scp = CommitmentScp(bench.settings, bench.spool, ledger)
    monkeypatch.setattr(scp, "_is_whole", lambda _path, _uid: True)

    def tell(report: Report, _owed: object) -> None:
        assert bench.purge() == (0, 0)  # retention looks while the report is on its way, and its answer is lost
        told.append(report)
        raise PeerError("the peer did not answer")

    monkeypatch.setattr(scp, "_tell", tell)
    scp.report("1.2.9")
    assert told[0].kept == (("1.2", "1.2.1.5"),)
    assert bench.purge() == (0, 0)


def test_what_was_purged_a_moment_ago_is_not_told_as_kept(
    tmp_path: Path, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, ledger, clock, retention={"images_days": 1})
    bench.study("1.2.1")
    clock.forward(2 * DAY)
    told: list[Report] = []
    assert ledger.commitments.owe("1.2.9", [("1.2", "1.2.1.5")], "CT1", "MEDREGA", clock())
    scp = CommitmentScp(bench.settings, bench.spool, ledger)
    monkeypatch.setattr(scp, "_is_whole", lambda _path, _uid: bench.purge() == (1, 0))
    monkeypatch.setattr(scp, "_tell", lambda report, _owed: told.append(report))
    scp.report("1.2.9")
    assert (told[0].kept, list(told[0].not_kept)) == ((), [("1.2", "1.2.1.5")])


def test_beyond_a_size_the_oldest_go_first_and_no_more_than_needed(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    bench = Bench(tmp_path, ledger, clock, retention={"images_max_gib": 2500 / (1 << 30)})
    for number in range(1, 5):
        bench.study(f"1.2.{number}", size=1000)
        clock.forward(60)
    went = [verdict.holding.study_instance_uid for verdict in bench.retention.plan() if verdict.images_go]
    assert went == ["1.2.1", "1.2.2"]


def test_a_study_that_is_being_read_by_then_is_left_alone(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    bench = Bench(tmp_path, ledger, clock, retention={"images_days": 1})
    run_id = bench.study("1.2.1")
    clock.forward(2 * DAY)
    plan = bench.retention.plan()
    assert plan[0].images_go
    late = ledger.intake.record(received("1.2.1", "1.2.1.6"))  # another image comes, and a worker takes the study
    (run,) = (run for run in ledger.intake.receiving() if run.id == late)
    ledger.intake.complete(late, run.last_image_at, "quiet")
    queue_complete(ledger)
    claim = ledger.runs.claim(late, "elsewhere:1:1", 60)
    assert claim is not None
    assert run_id != late
    assert len(claim.instances) == 2
    assert bench.retention.purge(plan) == (0, 0)
    assert bench.verdict("1.2.1").stays == "it is READING"


def test_a_repeat_of_what_was_purged_is_kept_and_not_read_again(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    bench = Bench(tmp_path, ledger, clock, retention={"images_days": 1})
    bench.study("1.2.1")
    clock.forward(2 * DAY)
    assert bench.purge() == (1, 0)
    known = received("1.2.1", "1.2.1.5", path="studies/1.2.1/x.dcm")
    again = replace(known, series_instance_uid="1.2.1.77", transfer_syntax_uid="1.2.840.10008.1.2")
    ledger.intake.record(again)
    assert len(ledger.study("1.2.1").runs) == 1
    assert ledger.study("1.2.1").events[-1].reason == "1.2.1.5 arrived again"
    assert list(ledger.commitments.kept(["1.2.1.5"])) == ["1.2.1.5"]
    (held,) = ledger.holdings.instances(Selection("1.2.1"))
    assert (held.series_instance_uid, held.transfer_syntax_uid) == ("1.2.1.77", "1.2.840.10008.1.2"), "what lies there"
    assert bench.purge() == (0, 0)  # for as long as before
    clock.forward(2 * DAY)
    assert bench.purge() == (1, 0)


def test_a_repeat_in_the_moment_of_a_purge_is_not_taken_for_kept(tmp_path: Path, ledger: Ledger) -> None:
    storage = Storage(Spool(tmp_path / "spool"), ledger)
    ledger.intake.record(received())
    with ledger._database.write() as session:
        session.execute(update(Instance).values(purged_at=ledger.clock()))
    file = storage.spool.incoming(b"head")
    with pytest.raises(SpoolError, match="purged"):  # it was found to be the same as a file that has gone since
        storage.enter(Stored.SAME, received(), file)
    file.discard()


def test_a_repeat_while_a_purge_is_at_work_is_not_taken_for_kept(tmp_path: Path, ledger: Ledger) -> None:
    storage = Storage(Spool(tmp_path / "spool"), ledger)
    ledger.intake.record(received())  # its entry does not say yet that the file is gone
    file = storage.spool.incoming(b"head")
    with pytest.raises(SpoolError, match="purged"):
        storage.enter(Stored.SAME, received(), file)
    file.discard()


def test_a_late_image_of_a_purged_study_is_not_read_without_the_others(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    bench = Bench(tmp_path, ledger, clock, retention={"images_days": 1})
    bench.study("1.2.1")
    clock.forward(2 * DAY)
    bench.purge()
    late = ledger.intake.record(received("1.2.1", "1.2.1.6"))
    (run,) = ledger.intake.receiving()
    ledger.intake.complete(late, run.last_image_at, "quiet")
    queue_complete(ledger)
    assert ledger.runs.claim(late, "elsewhere:1:1", 60) is None
    assert ledger.study("1.2.1").runs[-1].reason == "1 of its images were purged; send them, then retry it"
    ledger.intake.record(received("1.2.1", "1.2.1.5", path="studies/1.2.1/x.dcm"))
    assert ledger.retry("1.2.1") is State.QUEUED
    claim = ledger.runs.claim(late, "elsewhere:1:1", 60)
    assert claim is not None
    assert len(claim.instances) == 2


def test_a_purge_that_a_crash_broke_off_is_finished_by_the_next(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    bench = Bench(tmp_path, ledger, clock, retention={"images_days": 1})
    bench.study("1.2.1")
    clock.forward(2 * DAY)

    class Crash(BaseException):
        pass

    def remove_and_die(paths: Any) -> None:
        bench.spool.remove(paths)
        raise Crash

    verdict = bench.verdict("1.2.1")
    with pytest.raises(Crash):
        ledger.keeping.purge_images("1.2.1", bench.retention._terms, "why", remove_and_die)
    assert bench.verdict("1.2.1").holding == verdict.holding
    assert adopt(bench.spool, ledger) == 0
    assert bench.purge() == (1, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a disk of its own")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_is_refused_before_it_is_full_and_used_again_after_a_purge(small_disk: Path, tmp_path: Path) -> None:
    from fronts import Front

    from dicom_node.dimse import scu

    front = Front(
        tmp_path,
        data={"path": small_disk / "data", "minimum_free_mib": 1},
        retention={"refuse_above_percent": 80, "purge_above_percent": 40},
    )
    try:
        front.spool.space._highest_percent = front.settings.retention.refuse_above_percent
        files = []
        for number in range(20):
            dataset = radiograph(f"1.2.{number + 1}")
            dataset.Rows = dataset.Columns = 1024
            dataset.PixelData = bytes(1 << 20)
            dcmwrite(tmp_path / f"{number}.dcm", dataset, enforce_file_format=True)
            files.append(scu.StoredFile.open(tmp_path / f"{number}.dcm"))

        results = scu.send(files, front.peer)
        statuses = [result.status for result in results]
        assert statuses == sorted(statuses, key=bool), "refused ones came first"
        assert set(statuses) == {0, 0xA700}
        assert all(result.retry for result in results if not result.ok)
        used, usable = front.spool.space.fullness
        assert 0.75 < used / usable < 0.9

        retention = Retention(front.settings, front.spool, front.ledger)
        assert not any(verdict.images_go for verdict in retention.plan())  # all of them are on their way
        for study in front.ledger.studies():
            front.ledger.cancel(study.study_instance_uid)
        retention.purge(retention.plan())
        used, usable = front.spool.space.fullness
        assert 0.25 < used / usable <= 0.4
        assert scu.send(files[-1:], front.peer)[0].status == 0
    finally:
        front.stop()


def test_ages_in_words(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    bench = Bench(tmp_path, ledger, clock)
    bench.study("1.2.1")
    clock.forward(2 * 3600)
    (verdict,) = bench.retention.plan(timedelta(minutes=90))
    assert verdict.images_go == "older than 1.5 h"
    assert verdict.stays == "nobody else has them"
