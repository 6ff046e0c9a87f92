"""kill -9 of every process of a running node: nothing acknowledged is lost, and results arrive once.

The node is the real one, ``medrega-pacs up`` in a process of its own, with its own workers and broker.
"""

import gc
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from node_bench import Pacs, RunningNode, image, runs, script, wait_until, written

from dicom_node.dimse.scu import SendResult, StoredFile, send
from dicom_node.ledger import State
from dicom_node.queue.broker import connect

pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


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


@pytest.mark.parametrize("fast", [True, False])
def test_the_whole_node_killed_in_mid_association(pacs: Pacs, tmp_path: Path, fast: bool) -> None:
    node = RunningNode(tmp_path, pacs, completion={"quiet_seconds": 2}, listener={"fast": fast})
    try:
        _kill_in_mid_association(node, pacs, tmp_path)
    finally:
        node.stop()


def _kill_in_mid_association(node: RunningNode, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    first = image()
    study, series = first.StudyInstanceUID, first.SeriesInstanceUID
    files = [StoredFile.open(written(tmp_path / "sent", image(study, series, InstanceNumber=n))) for n in range(60)]
    acknowledged: list[str] = []
    enough = threading.Event()

    def sent(result: SendResult) -> None:
        if result.status == 0:
            acknowledged.append(result.file.sop_instance_uid)
        if len(acknowledged) == 10:
            enough.set()

    sender = threading.Thread(target=send, args=(files, node.peer), kwargs={"on_result": sent})
    sender.start()
    assert enough.wait(20)
    node.kill_all()
    sender.join(20)
    assert not sender.is_alive()
    # The library drops the socket of a peer that is gone without closing it; it goes here, not in another test.
    assert wait_until(lambda: not any("RequestorThread" in thread.name for thread in threading.enumerate()), 10)
    gc.collect()
    assert 10 <= len(acknowledged) < len(files)
    half = node.settings.data.path / "incoming" / "half.part"
    half.write_bytes(b"half an image")
    os.utime(half, (0, 0))  # nobody's, and old: what this node's processes left is told by their names
    node.start()
    assert list((node.settings.data.path / "incoming").iterdir()) == []
    known = {path.stem for path in (node.settings.data.path / "studies" / study).iterdir()}
    assert set(acknowledged) <= known
    assert node.ledger.study(study).runs[-1].instances == len(known)
    rest = [file for file in files if file.sop_instance_uid not in acknowledged]  # what a sender keeps, it sends again
    assert {result.status for result in send(rest, node.peer)} == {0}
    assert wait_until(lambda: _all_delivered(node, study, len(files)), 40)
    assert arrived_once(node, pacs, study)


def _all_delivered(node: RunningNode, study: str, images: int) -> bool:
    runs = node.ledger.study(study).runs
    return runs[-1].instances == images and all(run.state is State.DELIVERED for run in runs)


def test_the_whole_node_killed_in_mid_reading_and_in_delivery(tmp_path: Path, pacs: Pacs) -> None:
    script(tmp_path, delay_seconds=1.5)  # a busy machine must not miss the state
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
        assert wait_until(node.is_in(study, State.DELIVERING), 60)
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
    assert not any(map(runs, children))
