"""The storage SCP over real sockets: what is acknowledged is in place and in the ledger, byte for byte."""

import socket
import subprocess
import threading
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from listener_bench import Scp
from node_bench import image, wait_until, written
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, EncapsulatedPDFStorage, ImplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification
from sqlalchemy import delete

from dicom_node.dimse.listener import Listener
from dicom_node.dimse.scu import Peer, PeerError, StoredFile, Timeouts, echo, send
from dicom_node.dimse.sop_classes import storage_sop_classes, transfer_syntaxes
from dicom_node.intake.adoption import adopt
from dicom_node.intake.identity import RefusedError, identify
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.models import Instance
from dicom_node.settings import ListenerSettings
from dicom_node.spool import split
from engine.errors import NodeError


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[Scp]:
    scp = Scp(tmp_path)
    yield scp
    scp.close()


def store(association: Association, folder: Path, dataset: bytes, sop: str = "1.2.3.4") -> Dataset:
    """Send bytes as a data set, whatever they are."""
    meta = image().file_meta
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = sop, ImplicitVRLittleEndian
    meta.ImplementationClassUID = "2.25.1"
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta)
    path = folder / "raw.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + buffer.getvalue() + dataset)
    return association.send_c_store(path)


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_what_is_acknowledged_is_in_place_and_entered_byte_for_byte(scp: Scp, tmp_path: Path) -> None:
    names = ("CT_small.dcm", "MR_small_bigendian.dcm", "SC_rgb_rle.dcm", "image_dfl.dcm", "JPEG2000.dcm")
    files = [StoredFile.open(Path(str(get_testdata_file(name, download=False)))) for name in names]
    files.append(StoredFile.open(written(tmp_path / "sent", image())))
    assert [result.status for result in send(files, scp.peer, "CT1")] == [0] * len(files)
    stored = {path.stem: path for path in (scp.spool.root / "studies").rglob("*.dcm")}
    for file in files:
        path = stored[file.sop_instance_uid]
        meta, offset = split(path)
        sent = file.path.read_bytes()
        assert sent.endswith(path.read_bytes()[offset:])
        assert len(path.read_bytes()) - offset > 500
        assert meta.TransferSyntaxUID == file.transfer_syntax_uid
        assert meta.SendingApplicationEntityTitle == "CT1"
    assert sum(study.instances for study in scp.ledger.studies()) == len(files)


def test_every_storage_class_of_patients_and_every_transfer_syntax_is_taken(scp: Scp) -> None:
    classes = storage_sop_classes()
    assert len(classes) > 180
    assert "1.2.840.10008.5.1.4.1.1.6" in classes  # Ultrasound Image Storage, retired
    assert not any("Commitment" in uid or uid == "1.2.840.10008.1.3.10" for uid in classes)
    for begin in range(0, len(classes), 120):
        association = scp.associate(*classes[begin : begin + 120])
        assert len(association.accepted_contexts) == len(classes[begin : begin + 120])
        association.release()
    for syntax in transfer_syntaxes():
        association = scp.associate(syntax=syntax)
        association.release()


def test_of_several_transfer_syntaxes_the_one_without_loss_is_taken(scp: Scp) -> None:
    for proposed, taken in (
        (["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1"], "1.2.840.10008.1.2.1"),
        (["1.2.840.10008.1.2.2", "1.2.840.10008.1.2"], "1.2.840.10008.1.2"),
        (["1.2.840.10008.1.2.4.50"], "1.2.840.10008.1.2.4.50"),
    ):
        association = AE().associate(
            "127.0.0.1",
            scp.port,
            ae_title="MEDREGA",
            contexts=[build_context("1.2.840.10008.5.1.4.1.1.2", proposed)],  # type: ignore[arg-type]
        )
        assert association.accepted_contexts[0].transfer_syntax == [taken]
        association.release()


def test_a_retired_class_is_stored_like_any_other(scp: Scp, tmp_path: Path) -> None:
    retired = image(SOPClassUID="1.2.840.10008.5.1.4.1.1.6")
    assert send([StoredFile.open(written(tmp_path, retired))], scp.peer)[0].status == 0


def test_a_private_class_is_refused_at_negotiation(scp: Scp) -> None:
    association = AE().associate("127.0.0.1", scp.port, ae_title="MEDREGA", contexts=[build_context("1.2.3.4.5")])
    assert not association.accepted_contexts
    if association.is_established:
        association.abort()


def test_echo_is_answered(scp: Scp) -> None:
    assert echo(scp.peer) > 0


@pytest.mark.parametrize("calling", ["CT2", "ct1"])
def test_a_calling_title_that_is_not_listed_is_rejected(tmp_path: Path, calling: str) -> None:
    scp = Scp(tmp_path, calling_aets=("CT1",))
    try:
        association = AE(calling).associate(
            "127.0.0.1", scp.port, contexts=[build_context(Verification)], ae_title="MEDREGA"
        )
        assert association.is_rejected
        answer = association.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, 3)  # type: ignore[union-attr]
        assert echo(scp.peer, "CT1") > 0
    finally:
        scp.close()


def test_another_called_title_is_rejected(scp: Scp) -> None:
    association = AE().associate("127.0.0.1", scp.port, contexts=[build_context(Verification)], ae_title="OTHER")
    assert association.is_rejected
    assert association.acceptor.primitive.diagnostic == 7  # type: ignore[union-attr]


def test_data_sets_that_cannot_be_taken_are_refused_with_a_reason(scp: Scp, tmp_path: Path) -> None:
    def encoded(**elements: object) -> bytes:
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = True, True
        write_dataset(buffer, image(**{"SOPInstanceUID": "1.2.3.4", **elements}))
        return buffer.getvalue()

    association = scp.associate()
    cases = [
        (encoded(StudyInstanceUID=None), 0xA900, "no Study Instance UID"),
        (encoded(SeriesInstanceUID=None), 0xA900, "no Series Instance UID"),
        (encoded(SOPClassUID=EncapsulatedPDFStorage), 0xA900, "not the request's"),
        (b"\xff" * 300, 0xA900, "no Study Instance UID"),
        (b"\x08\x00\x40\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000, 0xC000, "cannot be parsed"),
    ]
    for dataset, status, reason in cases:
        answer = store(association, tmp_path, dataset)
        assert answer.Status == status
        assert reason in answer.ErrorComment
    assert store(association, tmp_path, encoded(), sop="1.2.3.5").Status == 0xA900
    # One without a UID of its own, under a UID that could name no file: for good, not for later.
    assert store(association, tmp_path, encoded(SOPInstanceUID=None), sop="..").Status == 0xA900
    assert (
        store(association, tmp_path, encoded(SOPClassUID=None)).Status == 0
    )  # the command names it: some senders leave it out
    association.release()
    assert len(scp.ledger.studies()) == 1


def test_a_full_disk_leaves_the_object_with_its_sender(tmp_path: Path) -> None:
    scp = Scp(tmp_path)
    scp.spool.space._minimum_free = 1 << 60
    try:
        result = send([StoredFile.open(written(tmp_path, image()))], scp.peer)[0]
        assert (result.status, result.retry) == (0xA700, True)
        assert scp.ledger.studies() == []
    finally:
        scp.close()


def test_a_ledger_that_fails_leaves_the_object_with_its_sender(tmp_path: Path) -> None:
    with Scp(tmp_path, fast=True) as scp:
        first, second = (StoredFile.open(written(tmp_path, image("1.2.3"))) for _ in range(2))
        enter = scp.ledger.arrivals.enter

        def fail(*_arguments: object, **_options: object) -> str:
            raise NodeError("the ledger's database failed")

        scp.ledger.arrivals.enter = fail  # type: ignore[method-assign,assignment]
        assert send([first], scp.peer)[0].status == 0, "it is in place, and entered once the ledger is back"
        assert send([second], scp.peer)[0].status == 0xA700
        scp.ledger.arrivals.enter = enter  # type: ignore[method-assign]
        assert send([second], scp.peer)[0].status == 0
        assert scp.ledger.studies()[0].instances == 2
        assert list((scp.spool.root / "incoming").iterdir()) == []


def test_a_ledger_that_fails_without_the_fast_path_leaves_the_object_with_its_sender(tmp_path: Path) -> None:
    with Scp(tmp_path, fast=False) as scp:
        file = StoredFile.open(written(tmp_path, image()))
        enter, record = scp.ledger.arrivals.enter, scp.ledger.intake.record

        def fail(*_arguments: object, **_options: object) -> str:
            raise NodeError("the ledger's database failed")

        scp.ledger.arrivals.enter = scp.ledger.intake.record = fail  # type: ignore[method-assign,assignment]
        assert send([file], scp.peer)[0].status == 0xA700
        scp.ledger.arrivals.enter, scp.ledger.intake.record = enter, record  # type: ignore[method-assign]
        assert send([file], scp.peer)[0].status == 0
        assert scp.ledger.studies()[0].instances == 1


def test_own_results_are_acknowledged_and_never_stored(scp: Scp, tmp_path: Path) -> None:
    equipment, purpose = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109102", "DCM", "Processing Equipment"
    equipment.PurposeOfReferenceCodeSequence = Sequence([purpose])
    equipment.Manufacturer = "someone"
    equipment.SoftwareVersions = ["1", "medrega-pacs 0.1.0"]
    own = image(ContributingEquipmentSequence=Sequence([equipment]))
    assert send([StoredFile.open(written(tmp_path, own))], scp.peer)[0].status == 0
    assert scp.ledger.studies() == []
    assert list(scp.spool.instances()) == []
    equipment.SoftwareVersions = "dcm4chee"
    other = image(ContributingEquipmentSequence=Sequence([equipment]))
    assert send([StoredFile.open(written(tmp_path, other))], scp.peer)[0].status == 0
    assert len(scp.ledger.studies()) == 1


def test_the_same_image_again_is_one_and_other_content_is_kept_apart(scp: Scp, tmp_path: Path) -> None:
    first = image()
    file = StoredFile.open(written(tmp_path, first))
    for _ in range(2):
        assert send([file], scp.peer)[0].status == 0
    first.PatientID = "P2"
    assert send([StoredFile.open(written(tmp_path / "other", first))], scp.peer)[0].status == 0
    record = scp.ledger.study(first.StudyInstanceUID)
    assert (record.runs[0].instances, record.conflicts) == (1, 1)
    assert len(list(scp.spool.instances())) == 2


def test_other_content_is_kept_apart_though_a_crash_took_its_entry(scp: Scp, tmp_path: Path) -> None:
    first = image()
    send([StoredFile.open(written(tmp_path, first))], scp.peer)
    first.PatientID = "P2"
    other = StoredFile.open(written(tmp_path / "other", first))
    send([other], scp.peer)
    with scp.ledger._database.write() as session:
        session.execute(delete(Instance).where(Instance.run_id.is_(None)))
    assert send([other], scp.peer)[0].status == 0
    record = scp.ledger.study(first.StudyInstanceUID)
    assert (record.runs[0].instances, record.conflicts) == (1, 1)


def test_a_file_without_an_entry_is_adopted_at_start(scp: Scp, tmp_path: Path) -> None:
    dataset = image()
    file = StoredFile.open(written(tmp_path, dataset))
    send([file], scp.peer, "CT7")
    fresh = Ledger(f"sqlite:///{tmp_path / 'fresh.sqlite3'}")
    fresh.migrate()
    (scp.spool.root / "studies" / "1.2").mkdir()
    (scp.spool.root / "studies" / "1.2" / "1.2.3.dcm").write_bytes(b"not ours")
    assert adopt(scp.spool, fresh) == 1
    assert adopt(scp.spool, fresh) == 0
    study = fresh.studies()[0]
    assert (study.study_instance_uid, study.instances, study.calling_aets) == (dataset.StudyInstanceUID, 1, ("CT7",))
    assert study.state is State.RECEIVING
    fresh.close()


def test_an_image_on_its_way_resets_the_quiet_time_of_its_association_s_last_study(scp: Scp, tmp_path: Path) -> None:
    first, second = image(), image()
    association = scp.associate(syntax="1.2.840.10008.1.2.1")
    for dataset in (first, second):
        assert association.send_c_store(written(tmp_path, dataset)).Status == 0

    def last_image_at() -> dict[str, datetime]:
        return {run.study_instance_uid: run.last_image_at for run in scp.ledger.intake.receiving()}

    assert wait_until(lambda: len(last_image_at()) == 2), "not entered"
    before = last_image_at()
    transport = association.dul.socket
    assert transport is not None
    assert transport.socket is not None
    # A P-DATA-TF with a fragment of a command that does not end (PS3.8 9.3.5).
    part = b"\x00" * 1000
    value = len(part) + 2
    pdu = b"\x04\x00" + (value + 4).to_bytes(4, "big") + value.to_bytes(4, "big") + b"\x01\x00" + part
    transport.socket.sendall(pdu)
    assert wait_until(lambda: last_image_at()[second.StudyInstanceUID] > before[second.StudyInstanceUID], 5)
    assert last_image_at()[first.StudyInstanceUID] == before[first.StudyInstanceUID]
    association.abort()


def test_stopping_lets_open_associations_end(tmp_path: Path) -> None:
    scp = Scp(tmp_path)
    association = scp.associate(syntax="1.2.840.10008.1.2.1")
    stopping = threading.Thread(target=scp.listener.stop, args=(10,))
    stopping.start()
    assert wait_until(lambda: not can_connect(scp.port), 5)
    assert association.send_c_store(written(tmp_path, image())).Status == 0
    association.release()
    stopping.join(10)
    assert not stopping.is_alive()
    scp.ledger.close()


def test_probes_and_stalled_peers_hold_nobody_s_place(tmp_path: Path) -> None:
    scp = Scp(tmp_path, max_associations=2, network_timeout_seconds=1)
    try:
        for _ in range(4):
            assert can_connect(scp.port)
        stalled = [socket.create_connection(("127.0.0.1", scp.port)) for _ in range(2)]
        for connection in stalled:
            connection.sendall(b"\x01\x00\x00\x00\x10\x00half an A-ASSOCIATE-RQ")
        assert wait_until(lambda: _answers(scp.peer), 10)  # far below the ACSE timeout of 30 s
        for connection in stalled:
            connection.close()
    finally:
        scp.close()


def _answers(peer: Peer) -> bool:
    try:
        return echo(peer, timeouts=Timeouts(2, 2)) > 0
    except PeerError:
        return False


@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_dcmtk_sends_to_it(scp: Scp, tmp_path: Path, program: str) -> None:
    path = written(tmp_path, image())
    subprocess.run(
        [f"/usr/bin/{program}", "-aec", "MEDREGA", "127.0.0.1", str(scp.port), str(path)], check=True, timeout=30
    )
    assert scp.ledger.studies()[0].instances == 1


def test_a_port_that_is_taken_is_named(scp: Scp) -> None:
    with pytest.raises(NodeError, match=str(scp.port)):
        Listener(ListenerSettings(port=scp.port), scp.spool, scp.ledger).start()


def test_uids_are_found_behind_a_long_beginning_and_in_a_deflated_data_set(tmp_path: Path) -> None:
    dataset = image(StudyDescription="x" * 60)
    dataset.add_new(0x00091010, "OB", b"\0" * 200_000)
    dataset.add_new(0x00090010, "LO", "TESTS")
    path = written(tmp_path, dataset)
    content = path.read_bytes()
    _, offset = split(path)
    identity = identify(content[offset:], "1.2.840.10008.1.2.1")
    assert identity.study_instance_uid == dataset.StudyInstanceUID
    packer = zlib.compressobj(wbits=-15)
    deflated = packer.compress(content[offset:]) + packer.flush()
    assert identify(deflated, DeflatedExplicitVRLittleEndian) == identity
    with pytest.raises(RefusedError):
        identify(deflated[:40], DeflatedExplicitVRLittleEndian)


def test_deep_nesting_is_refused_and_not_followed() -> None:
    item = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(RefusedError):
        identify(item * 5000, "1.2.840.10008.1.2.1")


def test_what_the_spool_keeps_is_readable_by_others(scp: Scp, tmp_path: Path) -> None:
    dataset = image()
    send([StoredFile.open(written(tmp_path, dataset))], scp.peer)
    stored = next((scp.spool.root / "studies").rglob("*.dcm"))
    assert dcmread(stored) == dataset
    subprocess.run(["/usr/bin/dcmdump", str(stored)], check=True, capture_output=True, timeout=30)
