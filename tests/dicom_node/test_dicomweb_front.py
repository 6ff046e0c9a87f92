"""A reading worker without the spool: images come over WADO-RS, the reading and its results go home, nothing stays."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_bench import image, node_settings
from ports import free_port
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from queued import queue_complete
from web_bench import Web, encoded

from dicom_node.dicomweb.front import Front
from dicom_node.ledger import State
from dicom_node.ledger.records import Claim
from dicom_node.reading.home import HomeLostError
from dicom_node.reading.reader import Reader
from dicom_node.settings.dicomweb import FrontSettings
from engine.errors import NodeError
from engine.findings import StudyReading

TOKEN = "a token that only workers know 123"  # noqa: S105 - the test's own


class NoDispatcher:
    """Stands where messages are sent: deliveries are looked up in the ledger."""

    def dispatch_deliveries(self) -> None:
        """Send nothing."""


class Worker:
    """A worker on "another host": it shares the ledger with the front, and no folder."""

    def __init__(self, web: Web, folder: Path, **front: Any) -> None:
        self.web = web
        folder.mkdir()
        (folder / "token").write_text(TOKEN, encoding="ascii")
        self.settings = FrontSettings(**{"url": web.url, "token_file": folder / "token"} | front)
        self.cache = folder / "cache"
        self.front = Front(self.settings, self.cache)
        settings = node_settings(folder, destinations=[{"name": "pacs", "aet": "PACS", "port": 4242}])
        self.reader = Reader(settings, web.ledger, self.front, NoDispatcher())  # type: ignore[arg-type]

    @property
    def cached(self) -> list[Path]:
        return [path for path in self.cache.rglob("*") if path.suffix == ".dcm"]

    def queue(self, *datasets: Dataset) -> str:
        for dataset in datasets:
            kept = self.web.ask(
                "POST", "/studies", *[_body(dataset)], Content_Type=_TYPE, Authorization=f"Bearer {TOKEN}"
            )
            assert kept.status == 200
        return self.complete(datasets[0].StudyInstanceUID)

    def complete(self, study: str) -> str:
        ledger = self.web.ledger
        run = next(run for run in ledger.intake.receiving() if run.study_instance_uid == study)
        assert ledger.intake.complete(run.id, run.last_image_at, "quiet")
        queue_complete(ledger)
        return run.id

    def claim(self, run_id: str, owner: str = "worker") -> Claim:
        claim = self.web.ledger.runs.claim(run_id, owner, 60)
        assert claim is not None
        return claim


_TYPE = 'multipart/related; type="application/dicom"; boundary=b'


def _body(dataset: Dataset) -> bytes:
    return b"--b\r\nContent-Type: application/dicom\r\n\r\n" + encoded(dataset) + b"\r\n--b--"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    secret = tmp_path / "token"
    secret.write_text(TOKEN, encoding="ascii")
    web = Web(tmp_path, users=[{"name": "GPU1", "token_file": secret, "rights": ["store", "retrieve", "work"]}])
    yield web
    web.close()


@pytest.fixture
def worker(web: Web, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(web, tmp_path / "worker")
    yield worker
    worker.reader.close()


def test_a_study_is_read_from_afar_and_everything_of_it_is_at_home(worker: Worker, web: Web) -> None:
    first = image()
    run_id = worker.queue(first, image(first.StudyInstanceUID, first.SeriesInstanceUID))
    worker.reader.read(run_id)
    record = web.ledger.study(first.StudyInstanceUID)
    assert record.runs[0].state is State.DELIVERING, record.runs[0].reason
    assert StudyReading.from_json(web.spool.reading(run_id)).digest == record.runs[0].reading_digest
    for result in record.results:
        assert web.spool.sha256(result.path) == result.sha256
    assert {delivery.destination for delivery in record.deliveries} == {"pacs"}
    assert list(worker.cache.rglob("*.dcm")) == []


def test_files_are_the_front_s_own_and_go_with_the_block(worker: Worker, web: Web) -> None:
    datasets = [image(study) for study in [generate_uid()] * 3]
    claim = worker.claim(worker.queue(*datasets))
    renewed: list[int] = []
    with worker.front.files(claim, lambda: renewed.append(1)) as files:
        assert {path.read_bytes() for path in files} == {path.read_bytes() for path in web.files}
        assert [instance.sop_instance_uid for instance in files.values()] == [d.SOPInstanceUID for d in datasets]
        worker.front.store_reading(claim.run_id, '{"a": "王"}')
        assert worker.front.reading(claim.run_id) == '{"a": "王"}'
    assert worker.cached == []
    with pytest.raises(RuntimeError, match="reader failed"), worker.front.files(claim, lambda: None):
        raise RuntimeError("reader failed")
    assert worker.cached == []


def test_a_front_that_is_away_costs_no_attempt(worker: Worker, web: Web, tmp_path: Path) -> None:
    dataset = image()
    run_id = worker.queue(dataset)
    away = Worker(web, tmp_path / "away", url=f"http://127.0.0.1:{free_port()}")
    for _ in range(5):
        away.reader.read(run_id)
        run = web.ledger.study(dataset.StudyInstanceUID).runs[0]
        assert (run.state, run.attempts) == (State.QUEUED, 0)
        assert "cannot be reached" in run.reason
    new, _ = web.ledger.runs.to_dispatch(web.ledger.clock())
    assert not new, "it waits before it is tried again"


def test_a_front_that_refuses_ends_the_run_with_its_reason(worker: Worker, web: Web, tmp_path: Path) -> None:
    dataset = image()
    run_id = worker.queue(dataset)
    secret = tmp_path / "other"
    secret.write_text("another token that nobody knows of", encoding="ascii")
    Worker(web, tmp_path / "stranger", token_file=secret).reader.read(run_id)
    run = web.ledger.study(dataset.StudyInstanceUID).runs[0]
    assert run.state is State.FAILED
    assert "401" in run.reason
    assert "token" in run.reason


def test_the_cache_is_bounded(worker: Worker, web: Web, tmp_path: Path) -> None:
    large = image(PixelData=bytes(2 << 20), Rows=1024, Columns=2048)
    claim = worker.claim(worker.queue(large))
    small = Worker(web, tmp_path / "small", cache_mib=1)
    with pytest.raises(NodeError, match="larger than") as error, small.front.files(claim, lambda: None):
        pass
    assert not error.value.retry
    assert small.cached == []
    study = generate_uid()
    other = worker.claim(worker.queue(image(study, PixelData=bytes(700 << 10), Rows=700, Columns=1024)), "another")
    with small.front.files(other, lambda: None):
        with pytest.raises(HomeLostError, match="other studies fill"), small.front.files(other, lambda: None):
            pass
        assert len(small.cached) == 1
    with small.front.files(other, lambda: None):
        pass


def test_an_image_that_is_gone_leaves_a_partial_reading(worker: Worker, web: Web) -> None:
    first = image()
    second = image(first.StudyInstanceUID)
    run_id = worker.queue(first, second)
    next(path for path in web.files if path.stem == second.SOPInstanceUID).unlink()
    worker.reader.read(run_id)
    assert web.ledger.study(first.StudyInstanceUID).runs[0].state is State.DELIVERING
    assert json.loads(web.spool.reading(run_id))["partial"] is True


def test_a_run_that_was_taken_over_puts_nothing(worker: Worker, web: Web) -> None:
    dataset = image()
    claim = worker.claim(worker.queue(dataset), "first")
    with worker.front.files(claim, lambda: None):
        web.ledger.cancel(dataset.StudyInstanceUID)
        with pytest.raises(NodeError, match="not this worker's"):
            worker.front.store_reading(claim.run_id, "{}")
        with pytest.raises(NodeError, match="not this worker's"):
            worker.front.store_result(claim.run_id, "viewer", "sr", b"x")
    assert list((web.spool.root / "readings").iterdir()) == []
    assert list((web.spool.root / "results").iterdir()) == []


def test_what_a_killed_worker_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    program = (
        "import sys, pathlib, time\n"
        "from dicom_node.dicomweb.front import _Cache\n"
        "with _Cache(pathlib.Path(sys.argv[1]), 1).folder() as folder:\n"
        "    (folder.path / '0.dcm').write_bytes(b'x')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    workers = []
    try:
        for _ in range(2):
            workers.append(
                subprocess.Popen([sys.executable, "-c", program, str(cache)], stdout=subprocess.PIPE, text=True)
            )
            assert workers[-1].stdout is not None
            assert workers[-1].stdout.readline() == "ready\n"
        assert len(list(cache.rglob("*.dcm"))) == 2
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        Front(FrontSettings(url="http://127.0.0.1:1"), cache)
        assert len(list(cache.rglob("*.dcm"))) == 1
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()


def test_the_lease_is_kept_while_images_come(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.dicomweb.front._RENEW_SECONDS", 0)
    claim = worker.claim(worker.queue(image()))
    renewed: list[int] = []
    with worker.front.files(claim, lambda: renewed.append(1)):
        assert renewed
