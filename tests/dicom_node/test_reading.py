"""The reading worker, in this process, with a scripted model."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from node_bench import Clock, image, name_again, node_settings, script, wait_until, written
from pydicom import dcmread
from pydicom.uid import EncapsulatedPDFStorage, RLELossless
from queued import queue_complete

from dicom_node.ledger import DeliveryState, Ledger, State
from dicom_node.ledger.models import Lease
from dicom_node.ledger.part import run_key
from dicom_node.ledger.records import Outcome, ReceivedInstance, RunRecord
from dicom_node.reading.reader import Reader
from dicom_node.reading.results import output_profiles
from dicom_node.reading.watch import HANGING_EXIT_CODE, DeadlineError, Watch
from dicom_node.settings import Destination, Settings
from dicom_node.spool import Spool, SpoolError, SpoolFullError
from engine.errors import SettingsError
from engine.findings import RunState, StudyReading
from engine.runtime import load_runtime


class NoDispatcher:
    """Stands where messages are sent: deliveries are looked up in the ledger."""

    def dispatch_deliveries(self) -> None:
        """Send nothing."""


class Bench:
    """A reader with its ledger and spool, and a way to put studies into its queue."""

    def __init__(self, folder: Path, ledger: Ledger, clock: Clock, **changes: Any) -> None:
        self.folder, self.ledger, self.clock = folder, ledger, clock
        self.settings: Settings = node_settings(folder, **changes)
        self.spool = Spool(self.settings.data.path)
        self.reader = Reader(self.settings, ledger, self.spool, NoDispatcher(), clock)  # type: ignore[arg-type]

    def queue(self, *datasets: Any, raw: bytes | None = None) -> str:
        study = datasets[0].StudyInstanceUID if datasets else "1.2.3"
        for dataset in datasets:
            relative = f"studies/{study}/{dataset.SOPInstanceUID}.dcm"
            path = self.spool.path(relative)
            written(path.parent, dataset)
            self.enter(study, dataset.SeriesInstanceUID, dataset.SOPInstanceUID, relative)
        if raw is not None:
            path = self.spool.path(f"studies/{study}/9.9.dcm")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(raw)
            self.enter(study, "9", "9.9", f"studies/{study}/9.9.dcm")
        run = next(run for run in self.ledger.intake.receiving() if run.study_instance_uid == study)
        self.ledger.intake.complete(run.id, run.last_image_at, "quiet")
        queue_complete(self.ledger)
        return run.id

    def enter(self, study: str, series: str, sop: str, path: str) -> None:
        self.ledger.intake.record(ReceivedInstance(study, series, sop, "1.2", "1.2.840.10008.1.2.1", "CT1", path))

    def run(self, study: str) -> RunRecord:
        return self.ledger.study(study).runs[-1]


@pytest.fixture
def bench(tmp_path: Path, ledger: Ledger, clock: Clock) -> Iterator[Bench]:
    bench = Bench(tmp_path, ledger, clock, destinations=[{"name": "pacs", "aet": "PACS", "port": 4242}])
    yield bench
    bench.reader.close()


def test_a_study_is_read_stored_written_and_ready_to_be_delivered(bench: Bench) -> None:
    dataset = image()
    run_id = bench.queue(dataset)
    bench.reader.read(run_id)
    record = bench.ledger.study(dataset.StudyInstanceUID)
    assert record.runs[0].state is State.DELIVERING
    reading = StudyReading.from_json(bench.spool.reading(run_id))
    assert reading.digest == record.runs[0].reading_digest
    assert reading.state is RunState.FINDINGS
    assert {result.kind for result in record.results} >= {"sr", "seg"}
    assert {delivery.destination for delivery in record.deliveries} == {"pacs"}
    for result in record.results:
        assert bench.spool.sha256(result.path) == result.sha256
        stored = dcmread(bench.spool.path(result.path))
        assert (stored.StudyInstanceUID, stored.PatientID) == (dataset.StudyInstanceUID, "P1")


def test_the_engine_gets_every_setting_of_its_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def load(kind: str, model: str, **options: Any) -> Any:
        given.update(options)
        return load_runtime(kind, model)

    monkeypatch.setattr("dicom_node.reading.reader.load_runtime", load)
    engine = bench.settings.engine.model_copy(update={"threads": 3, "device": "cuda:1", "dtype": "float16"})
    settings = bench.settings.model_copy(update={"engine": engine})
    reader = Reader(settings, bench.ledger, bench.spool, NoDispatcher(), bench.clock)  # type: ignore[arg-type]
    reader.read(bench.queue(image()))
    reader.close()
    assert given == {"threads": 3, "device": "cuda:1", "dtype": "float16"}


def test_results_of_a_study_without_a_time_zone_are_in_local_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = image()
    run_id = bench.queue(dataset)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-8")  # POSIX counts the other way round: eight hours east
        time.tzset()
        bench.reader.read(run_id)
    time.tzset()
    record = bench.ledger.study(dataset.StudyInstanceUID)
    result = dcmread(bench.spool.path(record.results[0].path))
    local = bench.clock() + timedelta(hours=8)
    assert (result.ContentDate, result.ContentTime) == (local.strftime("%Y%m%d"), local.strftime("%H%M%S"))


def test_the_same_message_again_does_nothing(bench: Bench) -> None:
    dataset = image()
    run_id = bench.queue(dataset)
    bench.reader.read(run_id)
    before = bench.ledger.study(dataset.StudyInstanceUID)
    bench.reader.read(run_id)
    assert bench.ledger.study(dataset.StudyInstanceUID) == before


def test_each_distinct_choice_of_profile_and_languages_is_written_once(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    destinations = [
        {"name": "one", "aet": "A", "port": 1, "languages": ["en"]},
        {"name": "two", "aet": "B", "port": 2, "languages": ["zh"]},
        {"name": "three", "aet": "C", "port": 3, "languages": ["en"]},
        {"name": "four", "aet": "D", "port": 4, "profile": "ihe-air"},
        {"name": "five", "aet": "E", "port": 5, "profile": "minimal"},
    ]
    bench = Bench(tmp_path, ledger, clock, destinations=destinations)
    dataset = image()
    bench.reader.read(bench.queue(dataset))
    record = ledger.study(dataset.StudyInstanceUID)
    sent: dict[str, set[str]] = {}
    for delivery in record.deliveries:
        sent.setdefault(delivery.destination, set()).add(delivery.sop_instance_uid)
    assert sent["one"] == sent["three"]
    assert len(sent["one"] | sent["two"] | sent["four"]) == len(sent["one"]) + len(sent["two"]) + len(sent["four"])
    kinds: dict[str, list[str]] = {}
    for result in record.results:
        kinds.setdefault(result.path.split("/")[2], []).append(result.kind)
    assert set(kinds) == {"viewer-en", "viewer-zh", "ihe-air-en", "minimal-en-zh"}
    assert kinds["ihe-air-en"] == ["sr", "seg"]
    assert kinds["minimal-en-zh"] == ["sc"]


def test_profiles_of_one_name_that_differ_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.toml").write_text(f"pdf = {str(folder == 'a').lower()}", encoding="utf-8")
    destinations = [
        Destination(name=folder, aet="A", port=1, profile=str(tmp_path / folder / "mine.toml")) for folder in ("a", "b")
    ]
    assert output_profiles(destinations[:1])["a"].name == "mine"
    with pytest.raises(SettingsError, match="two output profiles have the name mine"):
        output_profiles(destinations)


def test_a_destination_whose_profile_is_wrong_holds_up_no_other_and_gets_its_results_once_it_is_right(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    profile = tmp_path / "mine.toml"
    tables = [{"name": "web", "aet": "A", "port": 1, "profile": str(profile)}, {"name": "pacs", "aet": "B", "port": 1}]
    bench = Bench(tmp_path, ledger, clock, destinations=tables)
    dataset = image()
    run_id = bench.queue(dataset)
    bench.reader.read(run_id)
    assert bench.run(dataset.StudyInstanceUID).state is State.DELIVERING

    def deliver(name: str) -> State:
        due = ledger.deliveries.claim(run_id, name, "elsewhere:1:1", 60)
        assert due
        return ledger.deliveries.finish(
            run_id, name, "elsewhere:1:1", [Outcome(item.id, DeliveryState.DELIVERED, 0, "") for item in due]
        )

    assert deliver("pacs") is State.FAILED
    assert bench.run(dataset.StudyInstanceUID).reason.startswith("not delivered to web: the output profile ")
    profile.write_text("pdf = true", encoding="utf-8")
    assert ledger.retry(dataset.StudyInstanceUID) is State.QUEUED
    bench.reader.read(run_id)
    bench.reader.close()
    waiting = {item.destination for item in ledger.study(dataset.StudyInstanceUID).deliveries if not item.delivered_at}
    assert waiting == {"web"}
    assert deliver("web") is State.DELIVERED


def test_a_stored_reading_is_never_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = image()
    run_id = bench.queue(dataset)

    def fail(*_arguments: object) -> None:
        raise OSError("disk")

    with monkeypatch.context() as broken:
        broken.setattr(bench.spool, "store_result", fail)
        bench.reader.read(run_id)
    assert bench.run(dataset.StudyInstanceUID).state is State.FAILED
    stored = bench.spool.reading(run_id)
    bench.reader.close()
    monkeypatch.setattr("dicom_node.reading.reader.load_runtime", fail)  # no model is needed any more
    assert bench.ledger.retry(dataset.StudyInstanceUID) is State.QUEUED
    bench.reader.read(run_id)
    assert bench.run(dataset.StudyInstanceUID).state is State.DELIVERING
    assert bench.spool.reading(run_id) == stored


def test_a_stored_reading_that_was_changed_is_not_used(bench: Bench) -> None:
    dataset = image()
    run_id = bench.queue(dataset)
    claim = bench.ledger.runs.claim(run_id, "elsewhere:1:1", 60)
    assert claim is not None
    bench.ledger.runs.reading_stored(claim, "d" * 64)
    bench.ledger.runs.give_back(claim, "test", attempt=False)
    bench.spool.store_reading(run_id, "{}")
    bench.reader.read(run_id)
    run = bench.run(dataset.StudyInstanceUID)
    assert run.state is State.FAILED
    assert "damaged" in run.reason


def test_the_results_of_a_later_run_name_those_they_supersede(bench: Bench) -> None:
    first = image()
    bench.reader.read(bench.queue(first))
    earlier = {result.sop_instance_uid for result in bench.ledger.study(first.StudyInstanceUID).results}
    second = image(first.StudyInstanceUID, first.SeriesInstanceUID)
    run_id = bench.queue(second)
    bench.reader.read(run_id)
    results = [result for result in bench.ledger.study(first.StudyInstanceUID).results if result.run_id == run_id]
    assert results
    assert not earlier & {result.sop_instance_uid for result in results}
    report = dcmread(bench.spool.path(next(result.path for result in results if result.kind == "sr")))
    named = str(report.PredecessorDocumentsSequence)
    assert any(uid in named for uid in earlier)


def test_a_study_without_an_image_is_ignored_with_a_reason(bench: Bench) -> None:
    document = image(SOPClassUID=EncapsulatedPDFStorage, Rows=None, Columns=None, PixelData=None)
    bench.reader.read(bench.queue(document))
    run = bench.run(document.StudyInstanceUID)
    assert run.state is State.IGNORED
    assert "image" in run.reason


def test_files_that_are_no_dicom_fail_the_study_with_a_reason(bench: Bench) -> None:
    bench.reader.read(bench.queue(raw=b"no dicom at all"))
    run = bench.run("1.2.3")
    assert run.state is State.FAILED
    assert "none of the study's 1 files can be read" in run.reason


def test_an_image_that_names_two_studies_is_left_aside(bench: Bench) -> None:
    images = [image("1.2.3", "1.2.3.4") for _ in range(2)]
    run_id = bench.queue(*images)
    name_again(bench.spool.path(f"studies/1.2.3/{images[1].SOPInstanceUID}.dcm"), "StudyInstanceUID", "1.2.3.99")
    bench.reader.read(run_id)
    reading = StudyReading.from_json(bench.spool.reading(run_id))
    assert reading.partial
    assert [item.reason for item in reading.not_read] == ["it names another study as well"]


def test_a_file_that_cannot_be_read_is_named_in_the_reading(bench: Bench) -> None:
    dataset = image()
    study = dataset.StudyInstanceUID
    path = bench.spool.path(f"studies/{study}/9.9.dcm")
    path.parent.mkdir()
    path.write_bytes(b"no dicom at all")
    bench.enter(study, "9", "9.9", f"studies/{study}/9.9.dcm")
    run_id = bench.queue(dataset)
    bench.reader.read(run_id)
    reading = StudyReading.from_json(bench.spool.reading(run_id))
    assert reading.partial
    assert [(item.series_instance_uid, item.sop_instance_uid) for item in reading.not_read] == [("9", "9.9")]
    assert bench.run(study).state is State.DELIVERING


def test_pixels_that_cannot_be_decoded_are_reported_as_not_read(bench: Bench) -> None:
    dataset = image(PixelData=b"\0" * 10)
    run_id = bench.queue(dataset)
    bench.reader.read(run_id)
    assert StudyReading.from_json(bench.spool.reading(run_id)).state is RunState.NOT_RUN
    record = bench.ledger.study(dataset.StudyInstanceUID)
    assert record.runs[0].state is State.DELIVERING
    assert "sr" in {result.kind for result in record.results}


def test_images_beyond_a_limit_are_named_and_the_worker_reads_on(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    bench = Bench(tmp_path, ledger, clock, limits={"decode_mib": 2, "value_kib": 1})
    script(tmp_path)
    big = image(Rows=2000, Columns=2000, PixelData=bytes(8_000_000), BitsAllocated=16, BitsStored=16, HighBit=15)
    big["PixelData"].VR = "OW"
    big.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    long = image(PatientComments="ZZTOP" * 500)
    good = image()
    for dataset in (big, long, good):
        bench.reader.read(bench.queue(dataset))
    eaten = StudyReading.from_json(bench.spool.reading(bench.run(big.StudyInstanceUID).id))
    assert eaten.state is RunState.NOT_RUN
    assert "decoding needs more memory than the limit of 2 MiB" in eaten.not_read[0].reason
    run = bench.run(long.StudyInstanceUID)
    assert run.state is State.FAILED
    assert "has 2500 bytes, more than the limit of 1024" in run.reason
    read = StudyReading.from_json(bench.spool.reading(bench.run(good.StudyInstanceUID).id))
    assert read.state is RunState.FINDINGS
    bench.reader.close()


def test_nonsense_from_the_engine_is_reported_as_unusable(bench: Bench) -> None:
    script(bench.folder, answers={}, default="<box>[[9999, -3, 1]]</box></ref>??")
    dataset = image()
    run_id = bench.queue(dataset)
    bench.reader.read(run_id)
    assert StudyReading.from_json(bench.spool.reading(run_id)).state is RunState.UNUSABLE
    record = bench.ledger.study(dataset.StudyInstanceUID)
    assert {result.kind for result in record.results} >= {"sr"}
    assert "seg" not in {result.kind for result in record.results}


def test_a_lost_engine_is_tried_again_later_and_given_up_in_the_end(bench: Bench) -> None:
    script(bench.folder, answers={}, default="!lost")
    dataset = image()
    run_id = bench.queue(dataset)
    for attempt in (1, 2):
        bench.reader.read(run_id)
        assert bench.run(dataset.StudyInstanceUID).state is State.QUEUED
        assert [run.id for run in bench.ledger.runs.to_dispatch(bench.clock())[0]] == []
        bench.clock.forward(10 * 2 ** (attempt - 1))
        assert [run.id for run in bench.ledger.runs.to_dispatch(bench.clock())[0]] == [run_id]
    bench.reader.read(run_id)
    run = bench.run(dataset.StudyInstanceUID)
    assert (run.state, run.attempts) == (State.FAILED, 3)
    assert "lost" in run.reason


def test_a_full_disk_costs_no_attempt_however_long_it_lasts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = image()
    run_id = bench.queue(dataset)

    def full(*_arguments: object) -> None:
        raise SpoolFullError("no space is left for the spool")

    with monkeypatch.context() as crowded:
        crowded.setattr(bench.spool, "store_result", full)
        for _ in range(4):
            bench.reader.read(run_id)
            run = bench.run(dataset.StudyInstanceUID)
            assert (run.state, run.attempts, run.reason) == (State.QUEUED, 0, "no space is left for the spool")
            assert [run.id for run in bench.ledger.runs.to_dispatch(bench.clock())[0]] == []
            bench.clock.forward(10)
    bench.reader.read(run_id)
    assert bench.run(dataset.StudyInstanceUID).state is State.DELIVERING


def test_a_model_that_is_not_there_fails_the_study_and_a_retry_heals_it(bench: Bench) -> None:
    (bench.folder / "script.json").unlink()
    dataset = image()
    run_id = bench.queue(dataset)
    bench.reader.read(run_id)
    assert bench.run(dataset.StudyInstanceUID).state is State.FAILED
    assert "no model" in bench.run(dataset.StudyInstanceUID).reason
    script(bench.folder)
    bench.ledger.retry(dataset.StudyInstanceUID)
    bench.reader.read(run_id)
    assert bench.run(dataset.StudyInstanceUID).state is State.DELIVERING


def test_a_refiner_that_is_not_there_fails_the_study(bench: Bench) -> None:
    engine = bench.settings.engine.model_copy(update={"refiner": "nowhere.toml"})
    settings = bench.settings.model_copy(update={"engine": engine})
    reader = Reader(settings, bench.ledger, bench.spool, NoDispatcher(), bench.clock)  # type: ignore[arg-type]
    dataset = image()
    reader.read(bench.queue(dataset))
    reader.close()
    assert bench.run(dataset.StudyInstanceUID).state is State.FAILED
    assert "nowhere.toml cannot be read" in bench.run(dataset.StudyInstanceUID).reason


def test_an_unexpected_error_ends_this_study_only_and_its_words_go_nowhere(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise KeyError("ZZTOP^PHI")

    monkeypatch.setattr("dicom_node.reading.reader.read_study", fail)
    dataset = image()
    bench.reader.read(bench.queue(dataset))
    assert bench.run(dataset.StudyInstanceUID).reason == "unexpected error KeyError"
    monkeypatch.undo()
    other = image()
    bench.reader.read(bench.queue(other))
    assert bench.run(other.StudyInstanceUID).state is State.DELIVERING


def slow(folder: Path, seconds: float) -> None:
    content = json.loads((folder / "script.json").read_text(encoding="utf-8"))
    (folder / "script.json").write_text(json.dumps(content | {"delay_seconds": seconds}), encoding="utf-8")


def test_a_cancelled_study_is_let_go_in_mid_reading(bench: Bench) -> None:
    slow(bench.folder, 60)
    dataset = image()
    run_id = bench.queue(dataset)
    worker = threading.Thread(target=bench.reader.read, args=(run_id,))
    worker.start()
    assert wait_until(lambda: bench.run(dataset.StudyInstanceUID).state is State.READING, 5)
    bench.ledger.cancel(dataset.StudyInstanceUID)
    worker.join(10)
    assert not worker.is_alive()
    assert bench.run(dataset.StudyInstanceUID).state is State.CANCELLED


def test_a_node_that_stops_puts_the_study_back_and_counts_no_attempt(bench: Bench) -> None:
    slow(bench.folder, 60)
    dataset = image()
    run_id = bench.queue(dataset)
    worker = threading.Thread(target=bench.reader.read, args=(run_id,))
    worker.start()
    assert wait_until(lambda: bench.run(dataset.StudyInstanceUID).state is State.READING, 5)
    bench.reader.stop()
    worker.join(10)
    assert not worker.is_alive()
    run = bench.run(dataset.StudyInstanceUID)
    assert (run.state, run.attempts) == (State.QUEUED, 0)
    assert [run.id for run in bench.ledger.runs.to_dispatch(bench.clock())[0]] == [run_id]


def test_a_reading_beyond_the_deadline_is_broken_off(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    bench = Bench(tmp_path, ledger, clock, reading={"deadline_seconds": 0.1, "attempts": 1})
    slow(tmp_path, 60)
    dataset = image()
    bench.reader.read(bench.queue(dataset))
    assert bench.run(dataset.StudyInstanceUID).reason == "the reading took longer than 0.1 s"


def test_the_lease_is_renewed_between_questions(
    tmp_path: Path, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, ledger, clock, reading={"lease_seconds": 0.001})
    slow(tmp_path, 0.01)
    renewals = []
    renew = ledger.runs.renew

    def counted(claim: Any, seconds: float) -> None:
        renewals.append(seconds)
        renew(claim, seconds)

    monkeypatch.setattr(ledger.runs, "renew", counted)
    bench.reader.read(bench.queue(image()))
    assert len(renewals) > 3


def test_who_sleeps_beyond_the_lease_leaves_the_reading_to_who_has_it_now(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = image()
    run_id = bench.queue(dataset)
    ask = bench.reader._ask

    def asleep(*arguments: Any) -> Any:
        reading = ask(*arguments)
        bench.clock.forward(3600)
        assert bench.ledger.runs.reclaim_lost(3, 0) == [run_id]
        assert bench.ledger.runs.claim(run_id, "elsewhere:1:1", 60) is not None
        return reading

    monkeypatch.setattr(bench.reader, "_ask", asleep)
    bench.reader.read(run_id)
    with pytest.raises(SpoolError, match="cannot be read"):
        bench.spool.reading(run_id)
    assert bench.run(dataset.StudyInstanceUID).state is State.READING


def test_a_worker_whose_engine_hangs_ends_itself(ledger: Ledger, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = bench.queue(image())
    claim = ledger.runs.claim(run_id, "elsewhere:1:1", 60)
    assert claim is not None
    ended = threading.Event()
    codes = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr("os._exit", end)
    stopping = threading.Event()
    watch = Watch(ledger, claim, stopping, lease_seconds=60, deadline_seconds=0, hanging_seconds=0.1)

    def read() -> None:
        with watch.watching():
            assert ended.wait(5)  # an engine that does not look at its token
            watch.token.check()

    with pytest.raises(DeadlineError):
        read()
    assert codes == [HANGING_EXIT_CODE]


def test_the_lease_is_kept_while_a_large_model_is_loaded(ledger: Ledger, bench: Bench, clock: Clock) -> None:
    run_id = bench.queue(image())
    claim = ledger.runs.claim(run_id, "elsewhere:1:1", 60)
    assert claim is not None
    watch = Watch(ledger, claim, threading.Event(), lease_seconds=1, deadline_seconds=60)
    clock.forward(50)
    with watch.watching(), watch.loading():
        # Renewed for a second from now: an end 10 s away becomes one a second away.
        assert wait_until(lambda: _expires(ledger, run_id) == clock() + timedelta(seconds=1), 5)


def _expires(ledger: Ledger, run_id: str) -> datetime:
    with ledger._database.read() as session:
        lease = session.get(Lease, run_key(run_id))
        assert lease is not None
        return lease.expires_at


def test_only_languages_that_a_destination_wants_are_asked_for(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    for number, languages in enumerate((["zh"], ["en"])):
        destinations = [{"name": "one", "aet": "A", "port": 1, "languages": languages}]
        bench = Bench(tmp_path, ledger, clock, destinations=destinations)
        run_id = bench.queue(image(InstanceNumber=number))
        bench.reader.read(run_id)
        reading = StudyReading.from_json(bench.spool.reading(run_id))
        assert set(reading.narrative) <= set(languages)
        assert {study.state for study in ledger.studies()} == {State.DELIVERING}


def test_one_model_is_loaded_for_all_threads_of_a_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def counted(*arguments: Any, **options: Any) -> Any:
        loads.append(arguments)
        return load_runtime(*arguments, **options)

    monkeypatch.setattr("dicom_node.reading.reader.load_runtime", counted)
    runs = [bench.queue(image()) for _ in range(3)]
    threads = [threading.Thread(target=bench.reader.read, args=(run_id,)) for run_id in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(loads) == 1
    assert {study.state for study in bench.ledger.studies()} == {State.DELIVERING}
