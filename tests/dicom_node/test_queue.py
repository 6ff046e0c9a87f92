"""The queue in a running node: completion by evidence over real sockets, priorities, pauses, and studies that kill."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from node_bench import Pacs, RunningNode, image, script, wait_until, written
from ports import free_port
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from dicom_node.dimse.scu import Peer, StoredFile, send
from dicom_node.ledger import State
from dicom_node.ledger.switches import Work
from engine.errors import NodeError


class Archive:
    """A source: a C-FIND SCP that says how many images a study has."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.asked = 0
        self.port = free_port()
        entity = AE("ARCHIVE")
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_FIND, self._find)]
        )

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.asked += 1
        study = event.identifier.StudyInstanceUID
        if study in self.counts:
            match = Dataset()
            match.QueryRetrieveLevel = "STUDY"
            match.StudyInstanceUID = study
            match.NumberOfStudyRelatedInstances = self.counts[study]
            yield 0xFF00, match

    @property
    def source(self) -> dict[str, Any]:
        return {"name": "archive", "aet": "ARCHIVE", "port": self.port, "calling_aets": ["SCANNER"]}

    def stop(self) -> None:
        self._server.shutdown()


@pytest.fixture
def archive() -> Iterator[Archive]:
    archive = Archive()
    yield archive
    archive.stop()


def files(folder: Path, *datasets: Dataset) -> list[StoredFile]:
    return [StoredFile.open(written(folder, dataset)) for dataset in datasets]


def reading_began(node: RunningNode, study: str) -> datetime:
    return next(event.at for event in node.ledger.study(study).events if event.to_state is State.READING)


def test_studies_that_are_known_to_be_whole_are_read_at_once(tmp_path: Path, pacs: Pacs, archive: Archive) -> None:
    """Over eight associations at once, of storescu and of our own; the quiet time would not end within this test."""
    completion = {"quiet_seconds": 600, "settle_seconds": 0}
    node = RunningNode(tmp_path, pacs, completion=completion, sources=[archive.source])
    studies: dict[str, list[Path]] = {}
    for number in range(12):
        first = image()
        uid = str(first.StudyInstanceUID)
        rest = [image(uid, first.SeriesInstanceUID, InstanceNumber=2 + n) for n in range(number % 4)]
        studies[uid] = [written(tmp_path / f"study{number}", dataset) for dataset in (*rest, first)]
        archive.counts[uid] = len(studies[uid])
    halves = [part for paths in studies.values() for part in (paths[::2], paths[1::2]) if part]
    try:
        node.start()
        threads = [threading.Thread(target=_send_all, args=(node.peer, halves[n::8], n % 2)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wait_until(lambda: all(item.state is State.DELIVERED for item in node.ledger.studies()), 120)
        assert len(node.ledger.studies()) == len(studies)
        for uid, paths in studies.items():
            (run,) = node.ledger.study(uid).runs
            assert run.instances == len(paths)
            reasons = [event.reason for event in node.ledger.study(uid).events if event.to_state is State.COMPLETE]
            assert reasons == [f"{len(paths)} of {len(paths)} images arrived, as archive counts"]
        assert set(pacs.count.values()) == {1}
    finally:
        node.stop()


def _send_all(peer: Peer, parts: list[list[Path]], program: int) -> None:
    for paths in parts:
        if program:
            command = ["/usr/bin/storescu", "-aet", "SCANNER", "-aec", peer.aet, peer.host, str(peer.port)]
            subprocess.run([*command, *map(str, paths)], check=True, timeout=60)
        else:
            send([StoredFile.open(path) for path in paths], peer, "SCANNER")


def test_a_stat_study_overtakes_a_hundred_others_and_one_that_kills_its_worker_fails_alone(
    tmp_path: Path, pacs: Pacs
) -> None:
    node = RunningNode(
        tmp_path,
        pacs,
        entries=[{"aet": "STAT", "quiet_seconds": 0.2, "priority": "stat"}],
        reading={"attempts": 2, "first_delay_seconds": 0.1},
    )
    script(tmp_path, delay_seconds=0.5)  # long enough to be seen being read, however busy this machine is
    entry = Peer("STAT", node.peer.host, node.peer.port)
    routine = [image() for _ in range(100)]
    urgent, poison = image(), image()
    try:
        node.start()
        node.ledger.switches.pause(Work.READING, "a new model")
        assert {result.status for result in send(files(tmp_path / "routine", *routine), node.peer)} == {0}
        assert wait_until(lambda: len(node.ledger.studies(State.QUEUED)) == 100, 60)
        assert "reading is paused" in (tmp_path / "node.log").read_text()
        node.ledger.switches.resume(Work.READING)
        assert wait_until(lambda: bool(node.ledger.studies(State.DELIVERED)), 30)
        assert send(files(tmp_path / "urgent", urgent), entry)[0].status == 0
        study = urgent.StudyInstanceUID
        assert wait_until(lambda: _is(node, study, State.DELIVERED), 60)
        waiting = next(event.at for event in node.ledger.study(study).events if event.to_state is State.QUEUED)
        began = reading_began(node, study)
        unread = {item.study_instance_uid for item in node.ledger.studies(State.QUEUED)}
        others = {str(dataset.StudyInstanceUID) for dataset in routine} - unread
        assert unread, "the others were all read before it came"
        overtook = [uid for uid in others if waiting < reading_began(node, uid) < began]
        assert len(overtook) <= 1, "only what the worker was at came first"

        study = poison.StudyInstanceUID
        assert send(files(tmp_path / "poison", poison), entry)[0].status == 0
        for attempt in (1, 2):
            assert wait_until(lambda attempt=attempt: _is(node, study, State.READING, attempt), 30)
            os.kill(node.children()["reading"], signal.SIGSEGV)
        assert wait_until(lambda: _is(node, study, State.FAILED), 30)
        assert node.ledger.study(study).runs[0].reason == "the worker was lost in mid-reading 2 times"
        done = len(node.ledger.studies(State.DELIVERED))
        assert wait_until(lambda: len(node.ledger.studies(State.DELIVERED)) > done, 30), "it blocks the others"
    finally:
        node.stop()


def _is(node: RunningNode, study: str, state: State, attempt: int | None = None) -> bool:
    try:
        run = node.ledger.study(study).runs[0]
    except NodeError:
        return False  # its first image is on its way
    return run.state is state and attempt in (None, run.attempts)
