"""A whole node on loopback: the straight path, late images, own results, bad input."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from node_bench import Pacs, RunningNode, image, node_settings, wait_until, written
from ports import free_port
from pydicom import dcmread
from pydicom.uid import EncapsulatedPDFStorage
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_node.dimse.scu import Peer, StoredFile, send
from dicom_node.ledger import Ledger, State
from dicom_node.node import Node
from engine.errors import MedregaError

NAME = "ZZTOP^PHI"


def stored(folder: Path, *datasets: Any) -> list[StoredFile]:
    return [StoredFile.open(written(folder, dataset)) for dataset in datasets]


def test_studies_come_in_and_go_home_and_bad_ones_end_with_a_reason(
    node: RunningNode, pacs: Pacs, tmp_path: Path
) -> None:
    node.start()
    good = image(PatientName=NAME, PatientID="ZZTOP1")
    document = image(SOPClassUID=EncapsulatedPDFStorage, Rows=None, Columns=None, PixelData=None)
    broken = image(PixelData=b"\0" * 7)
    sent = tmp_path / "sent"
    assert {result.status for result in send(stored(sent, good, document, broken), node.peer, "CT1")} == {0}
    study = good.StudyInstanceUID
    assert wait_until(node.is_in(study, State.DELIVERED), 30), node.ledger.study(study)
    assert wait_until(node.is_in(broken.StudyInstanceUID, State.DELIVERED), 30)
    assert wait_until(node.is_in(document.StudyInstanceUID, State.IGNORED), 30)
    results = {path.stem: dcmread(path) for path in pacs.files}
    mine = [result for result in results.values() if result.StudyInstanceUID == study]
    assert {str(result.PatientName) for result in mine} == {NAME}
    assert {result.AccessionNumber for result in mine} == {"A1"}
    assert {result.Modality for result in mine} == {"SR", "SEG", "PR", "OT"}

    # What went out comes back, as a PACS that routes everything does: it is taken, and nothing begins.
    back = [StoredFile.open(path) for path in pacs.files]
    assert {result.status for result in send(back, node.peer)} == {0}
    assert [run.number for run in node.ledger.study(study).runs] == [1]
    assert len(node.ledger.studies()) == 3

    # A late image opens a run that supersedes the first one.
    late = image(study, good.SeriesInstanceUID, PatientName=NAME, PatientID="ZZTOP1", InstanceNumber=2)
    assert send(stored(sent, late), node.peer, "CT1")[0].status == 0
    assert wait_until(lambda: [r.state for r in node.ledger.study(study).runs] == [State.DELIVERED] * 2, 30)
    first, second = node.ledger.study(study).runs
    assert (second.supersedes, second.instances) == (first.id, 2)
    assert max(pacs.count.values()) == 1


def test_a_second_node_on_the_same_data_is_refused_and_a_failed_start_leaves_nothing(tmp_path: Path) -> None:
    settings = node_settings(tmp_path)
    front = Node(settings, workers=False)
    front.start()
    try:
        with pytest.raises(MedregaError, match="another node"):
            Node(settings, workers=False).start()
        other = node_settings(tmp_path, data={"path": tmp_path / "other"}, listener={"port": settings.listener.port})
        failing = Node(other, workers=False)
        with pytest.raises(MedregaError, match="cannot be listened at"):
            failing.start()
        assert failing.child_pid("broker") is None
        assert front.child_pid("broker") is not None
    finally:
        front.stop()
    assert front.child_pid("broker") is None
    assert front.wait(0)


def test_parts_on_their_own_share_broker_ledger_and_data(tmp_path: Path, pacs: Pacs) -> None:
    destinations = [{"name": "pacs", "aet": "PACS", "port": pacs.peer.port}]
    settings = node_settings(tmp_path, destinations=destinations)
    front, workers = Node(settings, workers=False), Node(settings, front=False)
    front.start()
    try:
        workers.start()
        dataset = image()
        peer_port = settings.listener.port
        assert send(stored(tmp_path / "sent", dataset), Peer("MEDREGA", "127.0.0.1", peer_port))[0].status == 0
        ledger = Ledger.open(settings)
        assert wait_until(lambda: ledger.studies()[0].state is State.DELIVERED, 40), ledger.studies()
        ledger.close()
    finally:
        workers.stop()
        front.stop()


def test_an_unlisted_sender_is_logged_by_its_title(tmp_path: Path) -> None:
    settings = node_settings(tmp_path, listener={"port": free_port(), "calling_aets": ["CT1"]})
    node = Node(settings, workers=False)
    node.start()
    try:
        entity = AE("STRANGER")
        entity.add_requested_context(Verification)
        with structlog.testing.capture_logs() as lines:
            assert entity.associate("127.0.0.1", settings.listener.port, ae_title="MEDREGA").is_rejected
            assert wait_until(lambda: any(line["event"] == "association rejected" for line in lines), 5)
    finally:
        node.stop()
    rejected = [line for line in lines if line["event"] == "association rejected"]
    assert [(line["calling_aet"], line["reason"]) for line in rejected] == [
        ("STRANGER", "calling AE title not recognised")
    ]


def test_a_signal_that_comes_before_anyone_waits_is_not_lost() -> None:
    script = (
        "import os, signal; from dicom_node.process import StopSignal\n"
        "stop = StopSignal(); os.kill(os.getpid(), signal.SIGINT); stop.wait(); print('stopped')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "stopped\n"
    assert done.returncode == 0
