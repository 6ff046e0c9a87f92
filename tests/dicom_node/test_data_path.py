"""The fast receive path: it does what the library does, and what the library does not do for it."""

import itertools
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pynetdicom
import pytest
import streams
import wire
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from listener_bench import Scp
from node_bench import image, wait_until
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from dicom_node.dimse import data_path
from dicom_node.dimse.data_path import StoreRequest
from dicom_node.intake import file_meta
from dicom_node.intake.elements import leading_uids
from dicom_node.intake.identity import RefusedError, identify

STUDY = "2.999.1.2"
UIDS = st.from_regex(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){1,6}", fullmatch=True)


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[Scp]:
    scp = Scp(tmp_path, fast=True)
    yield scp
    scp.close()


def incoming(scp: Scp) -> list[Path]:
    return list((scp.spool.root / "incoming").iterdir())


@pytest.mark.parametrize("durability", ["instance", "association"])
def test_streams_ordinary_and_hostile_come_to_the_same_as_with_the_library_alone(
    tmp_path: Path, durability: streams.Durability
) -> None:
    pair = streams.Pair(tmp_path, 12, durability=durability)

    @settings(
        max_examples=streams.count(48) // 24,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(streams.streams(), min_size=12, max_size=12))
    def play(pieces: list[list[bytes]]) -> None:
        pair.compare(pieces)

    try:
        with streams.quiet_threads():
            play()
        assert pair.leftovers() == []
    finally:
        pair.close()


def test_a_data_set_in_many_shapes_is_kept_byte_for_byte(scp: Scp) -> None:
    with wire.Wire(scp.port) as connection:
        connection.associate()
        for number, size in enumerate((131_072, 4096, 700, 16_384)):
            sop = f"2.999.{number}"
            data_set = wire.ct_image(STUDY, sop, 300_000)
            connection.send(*wire.store(sop, data_set, size=size))
            assert wire.status_of(connection.receive()) == 0
            assert scp.spool.path(f"studies/{STUDY}/{sop}.dcm").read_bytes().endswith(data_set)
        connection.send(wire.data(wire.item(3, 3, wire.echo_rq())))  # the library's, in between
        assert wire.status_of(connection.receive()) == 0
        connection.send(b"".join(wire.store("2.999.9", wire.ct_image(STUDY, "2.999.9", 10))))
        assert wire.status_of(connection.receive()) == 0
        assert connection.release()[:1] == b"\6"
    assert scp.ledger.studies()[0].instances == 5


def test_an_ordinary_object_never_reaches_the_library(scp: Scp, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise AssertionError("the library was asked")

    monkeypatch.setattr(scp.listener, "_store", fail)
    monkeypatch.setattr("pynetdicom.dimse.DIMSEServiceProvider.receive_primitive", fail)
    with wire.Wire(scp.port) as connection:
        connection.associate()
        connection.send(*wire.store("2.999.1", wire.ct_image(STUDY, "2.999.1", 5000)))
        assert wire.status_of(connection.receive()) == 0


@pytest.mark.parametrize("pieces", [2, 3])
def test_half_an_object_leaves_nothing_behind(scp: Scp, pieces: int) -> None:
    pdus = wire.store("2.999.1", wire.ct_image(STUDY, "2.999.1", 300_000))
    for end in (b"", wire.ABORT, pdus[1][:1000]):
        with wire.Wire(scp.port) as connection:
            connection.associate()
            connection.send(*pdus[:pieces])
            assert wait_until(lambda: bool(incoming(scp)))
            connection.send(end)
        assert wait_until(lambda: not incoming(scp))
    assert scp.ledger.studies() == []


@pytest.mark.parametrize("pause", [0.1, 0.01])
def test_a_peer_that_stalls_within_a_pdu_is_let_go(tmp_path: Path, pause: float) -> None:
    scp = Scp(tmp_path, fast=True, network_timeout_seconds=0.5)
    try:
        with wire.Wire(scp.port) as connection:
            connection.associate()
            pdus = wire.store("2.999.1", wire.ct_image(STUDY, "2.999.1", 50_000))
            connection.send(pdus[0], pdus[1][:5000])
            assert connection.rest() == []
        with wire.Wire(scp.port) as connection:  # one byte now and then is no way to stay
            connection.associate()
            stopped, hung_up = threading.Event(), threading.Event()
            content = itertools.chain(b"\4\0\0\0\x10\0", itertools.repeat(0))

            def trickle() -> None:
                while not stopped.wait(pause):
                    try:
                        connection.send(bytes([next(content)]))
                    except OSError:
                        hung_up.set()
                        return

            thread = threading.Thread(target=trickle)
            thread.start()
            assert hung_up.wait(10)
            stopped.set()
            thread.join()
        assert wait_until(lambda: not incoming(scp))
    finally:
        scp.close()


def test_a_silent_peer_is_aborted_by_the_library(tmp_path: Path) -> None:
    scp = Scp(tmp_path, fast=True, network_timeout_seconds=0.5)
    try:
        with wire.Wire(scp.port) as connection:
            connection.associate()
            connection.send(*wire.store("2.999.1", wire.ct_image(STUDY, "2.999.1", 5000)))
            assert wire.status_of(connection.receive()) == 0
            assert [answer[:1] for answer in connection.rest()] == [b"\7"]
    finally:
        scp.close()


def test_stopping_ends_an_association_in_the_middle_of_an_object(tmp_path: Path) -> None:
    scp = Scp(tmp_path, fast=True)
    with wire.Wire(scp.port) as connection:
        connection.associate()
        connection.send(*wire.store("2.999.1", wire.ct_image(STUDY, "2.999.1", 300_000))[:2])
        assert wait_until(lambda: bool(incoming(scp)))
        begin = time.monotonic()
        scp.listener.stop(0)
        assert time.monotonic() - begin < 20
        assert not incoming(scp)
    scp.ledger.close()


def test_a_pdu_without_end_is_not_read_into_memory(scp: Scp) -> None:
    with wire.Wire(scp.port) as connection:
        connection.associate()
        connection.send(b"\4\0" + (1 << 31).to_bytes(4, "big") + b"\x7f\xff\xff\xff\1\1")
        assert connection.rest() in ([], [wire.pdu(7, b"\0\0\2\0")])


@pytest.mark.parametrize("fast", [True, False])
def test_success_follows_the_sync_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    scp = Scp(tmp_path, fast=fast)
    scp.spool.names_follow = True
    synced: list[str] = []
    sync, keep = os.fsync, scp.listener.keep

    def watched(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    at_success: list[list[str]] = []

    def kept(*arguments: object) -> None:
        keep(*arguments)  # type: ignore[arg-type]
        at_success.append(list(synced))

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(scp.listener, "keep", kept)
    try:
        with wire.Wire(scp.port) as connection:
            connection.associate()
            connection.send(*wire.store("2.999.1", wire.ct_image("1.2.3", "2.999.1", 5000)))
            assert wire.status_of(connection.receive()) == 0
    finally:
        scp.close()
    (steps,) = at_success
    assert steps[-1].startswith(str(scp.spool.root / "incoming")), "the file was not synced"


def test_another_version_of_the_library_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_path.why_not() == ""
    monkeypatch.setattr(pynetdicom, "__version__", "3.9.9")
    assert "3.9.9" in data_path.why_not()
    scp = Scp(tmp_path, fast=True)
    try:
        with wire.Wire(scp.port) as connection:
            connection.associate()
            connection.send(*wire.store("2.999.1", wire.ct_image(STUDY, "2.999.1", 5000)))
            assert wire.status_of(connection.receive()) == 0
    finally:
        scp.close()


@given(UIDS, UIDS, st.integers(0, 65_535), st.sampled_from([0, 0xA700, 0xA900, 0xC000]), st.sampled_from(["", "odd"]))
def test_responses_are_the_library_s_byte_for_byte(
    sop_class: str, sop: str, message_id: int, status: int, comment: str
) -> None:
    response = C_STORE()
    response.MessageIDBeingRespondedTo = message_id
    response.AffectedSOPClassUID, response.AffectedSOPInstanceUID = sop_class, sop
    response.Status = status
    if comment:
        response.ErrorComment = comment
    message = C_STORE_RSP()
    message.primitive_to_message(response)
    assert StoreRequest(message_id, sop_class, sop).response(status, comment) == encode(message.command_set, True, True)


@given(UIDS, UIDS, st.text("ABCDEFGH_-1", min_size=1, max_size=16))
def test_file_meta_information_is_pydicom_s_byte_for_byte(sop_class: str, sop: str, title: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, sop
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ImplicitVRLittleEndian, "2.25.1"
    meta.ImplementationVersionName = "TEST"
    meta.SendingApplicationEntityTitle, meta.ReceivingApplicationEntityTitle = title, "MEDREGA"
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta)
    assert buffer.getvalue() == file_meta.encode(
        sop_class_uid=sop_class,
        sop_instance_uid=sop,
        transfer_syntax_uid=ImplicitVRLittleEndian,
        implementation_class_uid="2.25.1",
        implementation_version="TEST",
        sending_aet=title,
        receiving_aet="MEDREGA",
    ).removeprefix(file_meta.PREAMBLE)


@pytest.mark.filterwarnings("ignore")  # pydicom's, of values that are none
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_uids_read_without_a_data_set_are_the_parser_s(data: st.DataObject) -> None:
    dataset = image(study="1.2.3", SOPClassUID=CTImageStorage, SOPInstanceUID="1.2.3.4")
    encoded = bytearray(wire.encoded(dataset))
    for _ in range(data.draw(st.integers(0, 2))):
        encoded[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    found = leading_uids(bytes(encoded[: data.draw(st.sampled_from((100, 300, 16_384)))]), ImplicitVRLittleEndian)
    if found is None:
        return
    try:
        identity = identify(bytes(encoded), ImplicitVRLittleEndian)
    except RefusedError:
        assert not all(map(str.strip, found, "...."))  # dots alone are no UID, and `Receiving` looks at that
        return
    assert not identity.own
    assert found == (
        identity.sop_class_uid,
        identity.sop_instance_uid,
        identity.study_instance_uid,
        identity.series_instance_uid,
    )


def test_a_uid_that_is_called_a_number_is_left_to_the_parser() -> None:
    uids = ((0x0008_0016, "1.2"), (0x0008_0018, "1.3"), (0x0020_000D, "1.4"), (0x0020_000E, "1.5"))

    def encoded(vr_of_the_last: bytes) -> bytes:
        vrs = (b"UI", b"UI", b"UI", vr_of_the_last)
        return b"".join(
            struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, 4) + uid.encode() + b"\0"
            for (tag, uid), vr in zip(uids, vrs, strict=True)
        )

    assert leading_uids(encoded(b"UI"), "1.2.840.10008.1.2.1") == ("1.2", "1.3", "1.4", "1.5")
    assert leading_uids(encoded(b"UL"), "1.2.840.10008.1.2.1") is None
