"""kill -9 of every process of a running node: nothing acknowledged is lost, and results arrive once.

The node is the real one, ``medrega-pacs up`` in a process of its own, with its own workers and broker.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import image, node_settings, script, wait_until, written

from dicom_node.broker import connect
from dicom_node.ledger import Ledger, State
from dicom_node.receiver import Receiver
from dicom_node.scu import Peer, SendResult, StoredFile, echo, send

MARKS = {"broker": "valkey-server", "reading": "tasks reading", "delivery": "tasks delivery"}


class Pacs(Receiver):
    """A receiver that counts how often each object arrives."""

    def __init__(self, folder: Path) -> None:
        self.count: Counter[str] = Counter()
        super().__init__(folder, on_stored=lambda path: self.count.update([path.stem]))


class RunningNode:
    """``medrega-pacs up``, and its processes by name."""

    def __init__(self, folder: Path, pacs: Receiver, **changes: Any) -> None:
        peer = pacs.peer
        destinations = [{"name": "pacs", "aet": peer.aet, "host": peer.host, "port": peer.port}]
        self.folder = folder
        self.settings = node_settings(folder, destinations=destinations, **changes)
        self.peer = Peer("MEDREGA", "127.0.0.1", self.settings.listener.port)
        self.ledger = Ledger.open(self.settings)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dicom_node.cli", "up"],
                cwd=self.folder,
                env={**os.environ, **self.settings.to_environment()},
                stdout=log,
                stderr=log,
            )
        assert wait_until(self.listens, 30), (self.folder / "node.log").read_text()

    def listens(self) -> bool:
        try:
            socket.create_connection((self.peer.host, self.peer.port), timeout=1).close()
        except OSError:
            return False
        return echo(self.peer) > 0

    def children(self) -> dict[str, int]:
        """Process ids of the broker and the workers."""
        assert self.process is not None
        found: dict[str, int] = {}
        for status in Path("/proc").glob("[0-9]*/status"):
            with suppress(OSError):
                if f"\nPPid:\t{self.process.pid}\n" not in status.read_text():
                    continue
                command = (status.parent / "cmdline").read_bytes().decode().replace("\0", " ")
                for name, mark in (
                    ("broker", "valkey-server"),
                    ("reading", "tasks reading"),
                    ("delivery", "tasks del"),
                ):
                    if mark in command:
                        found[name] = int(status.parent.name)
        return found

    def kill(self, name: str) -> None:
        before = self.children()[name]
        os.kill(before, signal.SIGKILL)
        assert wait_until(lambda: self.children().get(name, before) != before), f"{name} was not started again"

    def kill_all(self) -> None:
        """End the supervisor without warning; its children must go with it."""
        assert self.process is not None
        children = self.children().values()
        self.process.kill()
        self.process.wait()
        assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 5)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            finally:
                self.process.kill()
        self.ledger.close()

    def state(self, study: str) -> State | None:
        return next((s.state for s in self.ledger.studies() if s.study_instance_uid == study), None)

    def is_in(self, study: str, *states: State) -> Callable[[], bool]:
        return lambda: self.state(study) in states


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path / "pacs") as pacs:
        yield pacs


@pytest.fixture
def node(tmp_path: Path, pacs: Pacs) -> Iterator[RunningNode]:
    node = RunningNode(tmp_path, pacs)
    yield node
    node.stop()


def arrived_once(node: RunningNode, pacs: Pacs, study: str) -> bool:
    results = {result.sop_instance_uid for result in node.ledger.study(study).results}
    return bool(results) and {uid: pacs.count[uid] for uid in results} == dict.fromkeys(results, 1)


def test_a_worker_and_the_broker_killed_in_mid_reading(node: RunningNode, pacs: Pacs, tmp_path: Path) -> None:
    script(tmp_path, delay_seconds=0.4)
    node.start()
    dataset = image()
    study = dataset.StudyInstanceUID
    node.kill("broker")  # before there is anything in it
    assert send([StoredFile.open(written(tmp_path / "sent", dataset))], node.peer)[0].status == 0
    assert wait_until(node.is_in(study, State.READING))
    node.kill("reading")
    assert wait_until(lambda: node.ledger.study(study).runs[0].attempts == 2), "not taken up again"
    node.kill("broker")
    with connect(node.settings) as connection:
        assert wait_until(lambda: _flushed(connection), 5)
    assert wait_until(node.is_in(study, State.DELIVERED, State.FAILED), 30)
    record = node.ledger.study(study)
    assert (record.runs[0].state, len(record.runs), record.runs[0].attempts) == (State.DELIVERED, 1, 2)
    assert arrived_once(node, pacs, study)
    assert sum(pacs.count.values()) == len(record.results)


def _flushed(connection: Any) -> bool:
    import redis

    try:
        return bool(connection.flushall())
    except redis.RedisError:
        return False


def test_the_whole_node_killed_in_mid_association(node: RunningNode, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    first = image()
    study, series = first.StudyInstanceUID, first.SeriesInstanceUID
    files = [StoredFile.open(written(tmp_path / "sent", image(study, series, InstanceNumber=n))) for n in range(150)]
    acknowledged: list[str] = []
    enough = threading.Event()

    def sent(result: SendResult) -> None:
        if result.status == 0:
            acknowledged.append(result.file.sop_instance_uid)
        if len(acknowledged) == 20:
            enough.set()

    sender = threading.Thread(target=send, args=(files, node.peer), kwargs={"on_result": sent})
    sender.start()
    assert enough.wait(20)
    node.kill_all()
    sender.join(20)
    assert 20 <= len(acknowledged) < len(files)
    (node.settings.data.path / "incoming" / "half.part").write_bytes(b"half an image")
    node.start()
    assert list((node.settings.data.path / "incoming").iterdir()) == []
    known = {path.stem for path in (node.settings.data.path / "studies" / study).iterdir()}
    assert set(acknowledged) <= known
    assert node.ledger.study(study).runs[0].instances == len(known)
    rest = [file for file in files if file.sop_instance_uid not in acknowledged]  # what a sender keeps, it sends again
    assert {result.status for result in send(rest, node.peer)} == {0}
    assert wait_until(lambda: _all_delivered(node, study, len(files)), 40)
    assert arrived_once(node, pacs, study)


def _all_delivered(node: RunningNode, study: str, images: int) -> bool:
    runs = node.ledger.study(study).runs
    return runs[-1].instances == images and all(run.state is State.DELIVERED for run in runs)


def test_the_whole_node_killed_in_mid_reading_and_in_delivery(tmp_path: Path, pacs: Pacs) -> None:
    script(tmp_path, delay_seconds=0.3)
    node = RunningNode(tmp_path, pacs)
    try:
        node.start()
        dataset = image()
        study = dataset.StudyInstanceUID
        assert send([StoredFile.open(written(tmp_path / "sent", dataset))], node.peer)[0].status == 0
        assert wait_until(node.is_in(study, State.READING))
        node.kill_all()
        pacs.__exit__(None, None, None)  # the PACS is down when the results are ready
        node.start()
        assert wait_until(node.is_in(study, State.DELIVERING), 30)
        node.kill_all()
        pacs.__enter__()
        node.start()
        assert wait_until(node.is_in(study, State.DELIVERED, State.FAILED), 30)
        assert node.state(study) is State.DELIVERED
        assert arrived_once(node, pacs, study)
    finally:
        node.stop()


def test_ctrl_c_drains_and_leaves_nothing_behind(node: RunningNode) -> None:
    node.start()
    assert wait_until(lambda: len(node.children()) == 3, 10)
    children = node.children().values()
    assert node.process is not None
    node.process.send_signal(signal.SIGINT)
    assert node.process.wait(30) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
