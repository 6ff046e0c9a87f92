"""The fast send path beside the library's own: the same to the peer, whatever the peer does."""

import os
import threading
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from certificates import Authority
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listener_bench import Scp
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.pixels import pixel_array
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from scripted_scp import RELEASE_RP, Request, ScriptedScp
from wire import ABORT, RELEASE_RQ, data, element, item

from dicom_node.dimse import send_path
from dicom_node.dimse.scu import SendResult, StoredFile, Timeouts, send
from dicom_node.dimse.tls import client_context
from dicom_node.dimse.transcoding import TranscodingError, transcode
from dicom_node.intake.file_meta import encode


def stored(folder: Path, number: int, content: bytes, syntax: str = ExplicitVRLittleEndian) -> StoredFile:
    """A file with that data set, which nobody here decodes."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{number}.dcm"
    head = encode(
        sop_class_uid=CTImageStorage,
        sop_instance_uid=f"1.2.826.0.1.3680043.8.498.{number}",
        transfer_syntax_uid=syntax,
        implementation_class_uid="1.2.3.4",
        implementation_version="TEST",
        sending_aet="A",
        receiving_aet="B",
    )
    path.write_bytes(head + content)
    return StoredFile.open(path)


def told(results: list[SendResult]) -> list[tuple[int | None, bool, bool]]:
    return [(result.status, result.ok, result.retry) for result in results]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    maximum=st.sampled_from([0, 1024, 4096, 16384, 16389, 131072, 1 << 20]),
    pieces=st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3)), min_size=1, max_size=3),
)
def test_a_peer_gets_the_same_from_both(tmp_path: Path, maximum: int, pieces: list[tuple[int, int]]) -> None:
    # Sizes about the edges: of a PDU, and of what is read from a file at once.
    payload = (min(maximum or 1 << 17, 1 << 17) - 6) & ~1
    edges = [payload, 2 * payload, (send_path._PIECE // (payload + 12)) * payload, 3 * send_path._PIECE]
    files = [
        stored(tmp_path, number, os.urandom(max(2, edges[edge] + 2 * off)))
        for number, (edge, off) in enumerate(pieces, 1)
    ]
    seen = []
    for fast in (True, False):
        with ScriptedScp(maximum=maximum) as scp:
            assert told(send(files, scp.peer, fast=fast)) == [(0, True, False)] * len(files)
        assert scp.ends == [b"\5"]  # released
        assert all(not maximum or size <= maximum for request in scp.requests for size in request.sizes)
        seen.append(
            [
                (one.context_id, {k: v for k, v in one.command.items() if k != 0x0110}, one.data_set)
                for one in scp.requests
            ]
        )
    assert seen[0] == seen[1]
    assert [one[2] for one in seen[0]] == [file.path.read_bytes()[file.offset :] for file in files]


def _fragments(request: Request) -> bytes:
    response = request.response()
    return data(item(request.context_id, 1, response[:40])) + data(item(request.context_id, 3, response[40:]))


def _two_values(request: Request) -> bytes:
    response = request.response()
    return data(item(request.context_id, 1, response[:40]), item(request.context_id, 3, response[40:]))


ANSWERS: dict[str, Callable[[Request], bytes | None]] = {
    "coercion": lambda request: request.answer(0xB000),
    "elements discarded": lambda request: request.answer(0xB006),
    "full": lambda request: request.answer(0xA700),
    "cannot understand": lambda request: request.answer(0xC000),
    "not in the Standard": lambda request: request.answer(0x9999),
    "with a comment": lambda request: data(
        item(request.context_id, 3, request.response(0xA900, element(0x0902, "NAME^OF PATIENT ")))
    ),
    "in two PDUs": _fragments,
    "in two values": _two_values,
    "to another request": lambda request: data(
        item(request.context_id, 3, request.response(message_id=request.message_id + 7))
    ),
    "abort": lambda _: ABORT,
    "closed": lambda _: None,
    "answer and abort": lambda request: request.answer() + ABORT,
    "asks for release": lambda _: RELEASE_RQ,
    "says released": lambda _: RELEASE_RP,
    "no command": lambda request: data(item(request.context_id, 3, request.response()[12:])),
    "no command field": lambda request: data(
        item(request.context_id, 3, request.response().replace(element(0x0100, 0x8001), b""))
    ),
    "no PDU": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_whatever_the_peer_answers_the_outcome_is_that_of_the_library(
    tmp_path: Path, answer: Callable[[Request], bytes | None]
) -> None:
    files = [stored(tmp_path, number, os.urandom(40_000)) for number in (1, 2, 3)]
    seen = []
    for fast in (True, False):
        with ScriptedScp(lambda request: answer(request) if request.number == 1 else request.answer()) as scp:
            seen.append(told(send(files, scp.peer, timeouts=Timeouts(5, 3), fast=fast)))
    assert seen[0] == seen[1]
    assert seen[0][0] == (0, True, False)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("answer", ["no command field", "asks for release"])
@pytest.mark.parametrize("fast", [True, False])
def test_an_answer_that_is_no_message_ends_the_association_at_once(tmp_path: Path, fast: bool, answer: str) -> None:
    files = [stored(tmp_path, number, os.urandom(40_000)) for number in (1, 2)]
    with ScriptedScp(ANSWERS[answer]) as scp:
        results = send(files, scp.peer, timeouts=Timeouts(60, 60), fast=fast)
    assert told(results) == [(None, False, True)] * 2
    if answer != "asks for release":  # then the release may be answered before we come to abort
        assert scp.ends == [b"\7"]


def test_a_peer_that_never_answers_is_left_in_time_and_told(tmp_path: Path) -> None:
    files = [stored(tmp_path, number, os.urandom(40_000)) for number in (1, 2)]
    for fast in (True, False):
        with ScriptedScp(lambda _: b"") as scp:
            results = send(files, scp.peer, timeouts=Timeouts(2, 0.3), fast=fast)
        assert told(results) == [(None, False, True)] * 2
        assert scp.ends == [b"\7"]


def test_a_peer_that_stops_reading_is_left_in_time(tmp_path: Path) -> None:
    file = stored(tmp_path, 1, bytes(64 << 20))
    over = threading.Event()
    with ScriptedScp(on_data=lambda _: over.wait(20), keep=False) as scp:
        assert told(send([file], scp.peer, timeouts=Timeouts(2, 0.3))) == [(None, False, True)]
        assert not over.is_set()
        over.set()
    assert scp.requests == []


def test_a_peer_that_goes_away_in_the_middle_ends_the_rest(tmp_path: Path) -> None:
    def leave(_: int) -> None:
        raise ConnectionAbortedError

    files = [stored(tmp_path, number, bytes(4 << 20)) for number in (1, 2)]
    with ScriptedScp(on_data=leave) as scp:
        assert told(send(files, scp.peer)) == [(None, False, True)] * 2
    assert len(scp.ends) == 1  # nobody knocked again


def test_a_file_that_shrinks_while_it_is_sent_is_not_taken_for_sent(tmp_path: Path) -> None:
    file = stored(tmp_path, 1, bytes(64 << 20))
    with ScriptedScp(on_data=lambda _: os.truncate(file.path, 1 << 20), keep=False) as scp:
        (result,) = send([file], scp.peer)
    assert not result.ok
    assert scp.requests == []


def test_a_file_that_is_gone_or_empty_does_not_hold_up_the_others(tmp_path: Path) -> None:
    files = [stored(tmp_path, number, os.urandom(1000 * (number != 2))) for number in (1, 2, 3)]
    files[0].path.unlink()
    with ScriptedScp() as scp:
        results = send(files, scp.peer)
    assert [result.ok for result in results] == [False, False, True]
    assert all("cannot be read" in result.reason for result in results[:2])


def test_an_object_of_any_size_takes_no_more_memory(tmp_path: Path) -> None:
    file = stored(tmp_path, 1, b"")
    os.truncate(file.path, 256 << 20)
    with ScriptedScp(maximum=131072, keep=False) as scp:
        tracemalloc.start()
        try:
            (result,) = send([file], scp.peer)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert result.ok
    assert sum(scp.requests[0].sizes) > 256 << 20
    assert peak < 8 << 20


def test_another_version_of_the_library_is_left_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_path, "TESTED", ("9.9.9",))
    with ScriptedScp() as scp:
        send([stored(tmp_path, number, os.urandom(100)) for number in (1, 2)], scp.peer)
    assert [request.message_id for request in scp.requests] == [1, 1]  # as the library numbers them


def test_over_tls_the_same_bytes_arrive(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    files = [stored(tmp_path / "files", number, _ct(number)) for number in (1, 2)]
    with Scp(tmp_path / "scp", tls=authority.issue("node").tls(authority.ca)) as scp:
        results = send(files, scp.peer, tls=client_context(authority.issue("scanner").tls(authority.ca)))
        assert told(results) == [(0, True, False)] * 2
        kept = {path.stat().st_size for path in (tmp_path / "scp").rglob("*.dcm")}
    assert len(kept) == 1


def _ct(number: int) -> bytes:
    def text(group: int, number: int, vr: bytes, value: str) -> bytes:
        value += "\0" * (len(value) % 2)
        return (
            group.to_bytes(2, "little") + number.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little")
        ) + value.encode()

    return (
        text(8, 0x16, b"UI", CTImageStorage)
        + text(8, 0x18, b"UI", f"1.2.826.0.1.3680043.8.498.{number}")
        + text(0x20, 0x0D, b"UI", "1.2.3")
        + text(0x20, 0x0E, b"UI", "1.2.3.1")
        + b"\xe0\x7f\x10\0OW\0\0"
        + (400_000).to_bytes(4, "little")
        + os.urandom(400_000)
    )


def test_a_compressed_object_that_cannot_be_decoded_is_not_sent(tmp_path: Path) -> None:
    file = stored(tmp_path, 1, _ct(1), RLELossless)
    with ScriptedScp(accepts=lambda _, syntax: syntax != RLELossless) as scp:
        (result,) = send([file], scp.peer)
    assert (result.ok, result.retry) == (False, False)
    assert "it cannot be decoded" in result.reason
    assert scp.requests == []


@pytest.mark.parametrize("name", ["SC_rgb_rle.dcm", "MR_small_RLE.dcm", "CT_small.dcm", "MR_small_implicit.dcm"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_peer_that_refuses_a_transfer_syntax_gets_the_same_object_in_another(name: str, syntax: UID) -> None:
    file = StoredFile.open(Path(str(get_testdata_file(name, download=False))))
    with ScriptedScp(accepts=lambda _, offered: offered == syntax) as scp:
        (result,) = send([file], scp.peer)
    assert result.ok
    (request,) = scp.requests
    assert request.command[0x1000].rstrip(b"\0").decode() == file.sop_instance_uid
    sent = dcmread(file.path)
    got = read_dataset(BytesIO(request.data_set), syntax.is_implicit_VR, is_little_endian=True)
    got.file_meta = FileMetaDataset()
    got.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(pixel_array(got, raw=True), pixel_array(sent, raw=True))
    for dataset in (got, sent):
        for keyword in ("PixelData", "DataSetTrailingPadding"):
            dataset.pop(keyword, None)
    assert got.to_json_dict() == sent.to_json_dict()


def test_subsampled_colours_are_whole_once_they_are_decoded(tmp_path: Path) -> None:
    file = StoredFile.open(Path(str(get_testdata_file("SC_rgb_dcmtk_+eb+cy+np.dcm", download=False))))
    got = dcmread(transcode(file, ExplicitVRLittleEndian, tmp_path).path)
    assert got.PhotometricInterpretation == "YBR_FULL"
    assert len(got.PixelData) == got.Rows * got.Columns * 3
    assert np.array_equal(pixel_array(got), pixel_array(file.path))


@pytest.mark.parametrize(
    "name", ["SC_rgb_rle_16bit_2frame", "examples_jpeg2k", "GDCMJ2K_TextGBR", "SC_rgb_jls_lossy_line", "MR_small_RLE"]
)
def test_compressed_pixels_are_the_same_once_decoded(name: str, tmp_path: Path) -> None:
    file = StoredFile.open(Path(str(get_testdata_file(f"{name}.dcm", download=False))))
    got, expected = dcmread(transcode(file, ExplicitVRLittleEndian, tmp_path).path), dcmread(file.path)
    expected.decompress(as_rgb=False, generate_instance_uid=False)
    for keyword in ("PixelData", "PhotometricInterpretation", "BitsAllocated", "PlanarConfiguration"):
        assert got.get(keyword) == expected.get(keyword), keyword


def test_a_codec_that_fails_ends_no_sending_but_of_its_object(tmp_path: Path) -> None:
    broken = dcmread(get_testdata_file("examples_jpeg2k.dcm", download=False))
    broken.PixelData = broken.PixelData[:2000] + bytes(2000)
    broken["PixelData"].is_undefined_length = True
    broken.save_as(tmp_path / "broken.dcm")
    with pytest.raises(TranscodingError, match="decoded"):
        transcode(StoredFile.open(tmp_path / "broken.dcm"), ExplicitVRLittleEndian, tmp_path)


def test_a_uid_that_is_a_path_leads_nowhere(tmp_path: Path) -> None:
    dataset = dcmread(get_testdata_file("CT_small.dcm", download=False))
    path = tmp_path / "odd.dcm"
    dataset.save_as(path)
    uid = dataset.SOPInstanceUID.encode()
    path.write_bytes(path.read_bytes().replace(uid, b"../escaped".ljust(len(uid), b"\0"), 1))
    (tmp_path / "folder").mkdir()
    found = transcode(StoredFile.open(path), ImplicitVRLittleEndian, tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == [found.path]
