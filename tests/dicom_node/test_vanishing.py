"""Studies whose files are moved or deleted while they are read end in a state that says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node_bench import Clock, image
from test_reading import Bench

from dicom_node.ledger import Ledger, State
from engine.findings import StudyReading
from engine.runtime import load_runtime


@pytest.fixture
def bench(tmp_path: Path, ledger: Ledger, clock: Clock) -> Iterator[Bench]:
    bench = Bench(tmp_path, ledger, clock, destinations=[{"name": "pacs", "aet": "PACS", "port": 4242}])
    yield bench
    bench.reader.close()


def when_loaded(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something after the headers were read, and before the first pixel is."""

    def load(kind: str, model: str, **_options: Any) -> Any:
        act()
        return load_runtime(kind, model)

    monkeypatch.setattr("dicom_node.reading.reader.load_runtime", load)


def test_a_study_that_is_gone_before_it_is_read_fails_and_says_so(bench: Bench) -> None:
    dataset = image()
    run_id = bench.queue(dataset)
    shutil.rmtree(bench.spool.path(f"studies/{dataset.StudyInstanceUID}"))
    bench.reader.read(run_id)
    run = bench.run(dataset.StudyInstanceUID)
    assert run.state is State.FAILED
    assert "none of the study's 1 files can be read" in run.reason


def two_images(bench: Bench) -> tuple[str, str, Path]:
    """A study's run and UID, and the file of its second image."""
    first, second = image(), image()
    second.StudyInstanceUID, second.SeriesInstanceUID = first.StudyInstanceUID, first.SeriesInstanceUID
    study = first.StudyInstanceUID
    return bench.queue(first, second), study, bench.spool.path(f"studies/{study}/{second.SOPInstanceUID}.dcm")


def test_a_study_that_is_moved_away_in_mid_reading_fails_and_heals_when_it_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, study, file = two_images(bench)
    elsewhere = file.parent.with_name("elsewhere")
    with monkeypatch.context() as patch:
        when_loaded(patch, lambda: file.parent.rename(elsewhere))
        bench.reader.read(run_id)
    run = bench.run(study)
    assert (run.state, run.reason) == (
        State.QUEUED,
        "2 of the study's files were moved or deleted while it was read",
    )
    for _ in range(bench.settings.reading.attempts - 1):
        bench.clock.forward(86400)
        bench.reader.read(run_id)
    run = bench.run(study)
    assert run.state is State.FAILED
    assert "none of the study's 2 files can be read" in run.reason
    assert not bench.ledger.study(study).results
    elsewhere.rename(file.parent)
    bench.ledger.retry(study)
    bench.reader.read(run_id)
    assert bench.run(study).state is State.DELIVERING


def test_an_image_that_is_deleted_in_mid_reading_is_named_and_the_others_are_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, study, file = two_images(bench)
    with monkeypatch.context() as patch:
        when_loaded(patch, file.unlink)
        bench.reader.read(run_id)
    assert bench.run(study).reason == "1 of the study's files were moved or deleted while it was read"
    bench.clock.forward(86400)
    bench.reader.read(run_id)
    assert bench.run(study).state is State.DELIVERING
    reading = StudyReading.from_json(bench.spool.reading(run_id))
    assert reading.partial
    assert [item.sop_instance_uid for item in reading.not_read] == [file.stem]
