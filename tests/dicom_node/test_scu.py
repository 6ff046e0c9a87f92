"""The SCU against the receiving PACS, over real sockets on loopback."""

import socket
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from dicom_node.dimse.receiver import Receiver
from dicom_node.dimse.scu import Peer, PeerError, StoredFile, Timeouts, echo, find_files, send
from engine.errors import NotDicomError, SettingsError

FILES = ["CT_small.dcm", "SC_rgb_rle.dcm", "examples_jpeg2k.dcm", "693_J2KI.dcm", "MR_small_bigendian.dcm"]


def stored(name: str) -> StoredFile:
    return StoredFile.open(Path(str(get_testdata_file(name, download=False))))


def available() -> list[StoredFile]:
    return [stored(name) for name in FILES if get_testdata_file(name, download=False)]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_files_arrive_byte_for_byte_in_their_own_transfer_syntax(tmp_path: Path) -> None:
    files = available()
    seen = []
    with Receiver(tmp_path) as receiver:
        results = send(files, receiver.peer, on_result=seen.append)
        assert [result.status for result in results] == [0] * len(files)
        assert seen == results
        for file, path in zip(files, receiver.files, strict=True):
            sent, received = pydicom.dcmread(file.path), pydicom.dcmread(path)
            assert received.file_meta.TransferSyntaxUID == file.transfer_syntax_uid
            assert received == sent


def test_echo_is_answered(tmp_path: Path) -> None:
    with Receiver(tmp_path) as receiver:
        assert echo(receiver.peer) > 0


# pynetdicom drops a socket whose connection was refused without closing it.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")
def test_a_peer_that_is_not_there_is_named_with_advice() -> None:
    with pytest.raises(PeerError, match="cannot be reached") as caught:
        echo(Peer("NOBODY", "127.0.0.1", closed_port()), timeouts=Timeouts(association=2))
    assert caught.value.advice
    assert caught.value.retry


def test_a_rejected_association_says_why_and_is_permanent() -> None:
    entity = AE("STRICT")
    entity.require_called_aet = True
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        with pytest.raises(PeerError, match="called AE title not recognised") as caught:
            echo(Peer("OTHER", "127.0.0.1", server.server_address[1]))
        assert not caught.value.retry
    finally:
        server.shutdown()


def test_a_peer_that_takes_no_such_class_is_told_from_one_that_aborts() -> None:
    entity = AE("ECHOONLY")
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        with pytest.raises(PeerError, match="takes none of these SOP classes") as caught:
            send([stored("CT_small.dcm")], Peer("ECHOONLY", "127.0.0.1", server.server_address[1]))
        assert not caught.value.retry
    finally:
        server.shutdown()


def test_explicit_vr_is_encoded_anew_for_a_peer_that_knows_the_default_transfer_syntax_only() -> None:
    received = []

    def store(event: evt.Event) -> int:
        received.append((event.context.transfer_syntax, event.dataset))
        return 0

    entity = AE("IMPLICIT")
    entity.add_supported_context(CTImageStorage, "1.2.840.10008.1.2")
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        file = stored("CT_small.dcm")
        (result,) = send([file], Peer("IMPLICIT", "127.0.0.1", server.server_address[1]))
        assert result.ok
    finally:
        server.shutdown()
    ((syntax, dataset),) = received
    assert syntax == "1.2.840.10008.1.2"
    assert dataset.PixelData == pydicom.dcmread(file.path).PixelData


def test_a_full_peer_may_be_tried_again_and_a_refusing_one_not() -> None:
    statuses = iter([0xA700, 0xC001, 0xB000])
    entity = AE("FULL")
    entity.add_supported_context(CTImageStorage, "1.2.840.10008.1.2.1")
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: next(statuses))]
    )
    try:
        results = send([stored("CT_small.dcm")] * 3, Peer("FULL", "127.0.0.1", server.server_address[1]))
    finally:
        server.shutdown()
    assert [(result.ok, result.retry) for result in results] == [(False, True), (False, False), (True, False)]


def test_folders_are_walked_and_other_files_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "ct.dcm").write_bytes(stored("CT_small.dcm").path.read_bytes())
    (tmp_path / "a" / "notes.txt").write_text("no image")
    files, refused = find_files([tmp_path])
    assert [file.path.name for file in files] == ["ct.dcm"]
    assert [path.name for path, _ in refused] == ["notes.txt"]
    with pytest.raises(NotDicomError):
        StoredFile.open(tmp_path / "a" / "notes.txt")


def test_more_pairs_than_one_association_holds_are_sent_in_several(tmp_path: Path) -> None:
    source = pydicom.dcmread(stored("CT_small.dcm").path)
    paths = []
    for number, context in enumerate(AllStoragePresentationContexts[:100]):
        source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = context.abstract_syntax
        source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number + 1}"
        paths.append(tmp_path / f"{number}.dcm")
        source.save_as(paths[-1])
    with Receiver(tmp_path / "got") as receiver:
        results = send([StoredFile.open(path) for path in paths], receiver.peer)
        assert all(result.ok for result in results)
        assert len(receiver.files) == len(paths)


def test_peers_are_written_as_aet_at_host_and_port() -> None:
    assert Peer.parse("PACS@10.0.0.1:104") == Peer("PACS", "10.0.0.1", 104)
    assert Peer.parse("PACS@[::1]:104").host == "::1"
    for wrong in ("PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@host:99999", "A" * 17 + "@host:104"):
        with pytest.raises(SettingsError):
            Peer.parse(wrong)
