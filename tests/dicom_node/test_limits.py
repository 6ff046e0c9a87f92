"""Limits of what is received: a PDU, a data set; and that the settings reach those who read."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from listener_bench import Scp
from node_bench import image, written
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from scripted_scp import Request, ScriptedScp
from wire import Wire, command, ct_image, data, element, item, status_of, store

from dicom_node.console.picture import image_of, images_of, png
from dicom_node.dimse.scu import PeerError, StoredFile, Timeouts, echo, send
from dicom_node.intake.identity import RefusedError, identify
from dicom_node.settings import LimitsSettings, Settings
from engine.errors import NotDicomError
from engine.limits import LIMITS

MIB = 1 << 20


@pytest.fixture(params=[True, False], ids=["fast", "library"])
def scp(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scp]:
    with Scp(tmp_path, limits=LimitsSettings(pdu_mib=2, data_set_mib=3), fast=request.param) as scp:
        yield scp


def works(scp: Scp, folder: Path) -> bool:
    """Whether the listener takes another image."""
    path = written(folder / "sent", image())
    return [result.status for result in send([StoredFile.open(path)], scp.peer, "CT1")] == [0]


def test_defaults_of_the_settings_are_the_engines() -> None:
    assert Settings().limits.of_reading == LIMITS


def test_data_set_beyond_the_limit_is_refused_for_good_and_the_node_answers_on(scp: Scp, tmp_path: Path) -> None:
    with Wire(scp.port) as wire:
        wire.associate()
        wire.send(*store("1.2.3.4", ct_image("1.2.3", "1.2.3.4", 3 * MIB - 1024)))
        assert status_of(wire.receive()) == 0
        wire.release()
    assert len(list((scp.spool.root / "studies").rglob("*.dcm"))) == 1
    with Wire(scp.port) as wire:
        wire.associate()
        with suppress(ConnectionError):  # the library's way ends the association within it
            wire.send(*store("1.2.3.5", ct_image("1.2.9", "1.2.3.5", 4 * MIB)))
        answer = wire.receive()
        if scp.settings.fast:
            assert status_of(answer) == 0xC000
            assert b"larger than the limit of 3 MiB" in answer
        else:
            assert answer[:1] in (b"\x07", b"")  # an abort
    assert not list((scp.spool.root / "studies").rglob("1.2.3.5*"))
    assert works(scp, tmp_path)


def test_pdu_beyond_the_limit_ends_its_association_before_it_is_read(scp: Scp, tmp_path: Path) -> None:
    with Wire(scp.port) as wire:
        wire.associate()
        wire.send(struct.pack(">BxI", 5, 3 * MIB), bytes(64))  # longer than anything but an image's
        assert wire.rest() in ([], [wire_abort(2)], [wire_abort(0)])
    with Wire(scp.port) as wire:
        wire.send(struct.pack(">BxI", 1, 0xFFFFFFF0), bytes(64))  # before there is an association
        assert wire.rest() in ([], [wire_abort(2)], [wire_abort(0)])
    assert works(scp, tmp_path)


@pytest.mark.parametrize("endless", ["command", "data set"])
def test_a_message_that_is_no_object_is_not_gathered_without_end(scp: Scp, tmp_path: Path, endless: str) -> None:
    with Wire(scp.port) as wire:
        wire.associate()
        if endless == "command":
            pieces = [data(item(1, 1, bytes(MIB)))]
        else:
            wire.send(data(item(1, 3, command(element(0x100, 0x0130), element(0x110, 1), element(0x800, 1)))))
            pieces = [data(item(1, 0, bytes(MIB)))]
        with suppress(ConnectionError):
            for _ in range(10):
                wire.send(*pieces)
        assert wire.rest() in ([], [wire_abort(2)])
    assert works(scp, tmp_path)


def test_a_peer_that_is_asked_is_not_read_without_end() -> None:
    def long(request: Request) -> bytes:
        return b"".join(data(item(request.context_id, 1, bytes(MIB))) for _ in range(40))

    with ScriptedScp(long) as scp, pytest.raises(PeerError, match="did not answer"):
        echo(scp.peer, timeouts=Timeouts(20, 20))
    with ScriptedScp(lambda _: struct.pack(">BxI", 4, 0xFFFFFFF0)) as scp, pytest.raises(PeerError):
        echo(scp.peer, timeouts=Timeouts(20, 20))


@pytest.mark.parametrize("maximum", [1, 6, 7])
def test_a_peer_that_takes_nothing_as_long_as_a_message_is_told(maximum: int) -> None:
    with ScriptedScp(maximum=maximum) as scp, pytest.raises(PeerError, match="too short"):
        echo(scp.peer)


def test_console_reads_by_the_settings(tmp_path: Path) -> None:
    limits = LimitsSettings(value_kib=1, megapixels=3, decode_seconds=7, decode_mib=99)
    with Scp(tmp_path, limits=limits) as scp:
        good, long = image("1.2.3"), image("1.2.3", PatientComments="ZZTOP" * 500)
        files = [StoredFile.open(written(tmp_path / "sent", one)) for one in (good, long)]
        assert [result.status for result in send(files, scp.peer, "CT1")] == [0, 0]
        found = {one.sop_instance_uid: one for one in images_of(scp.ledger, scp.spool, "1.2.3")}
        assert found[good.SOPInstanceUID].load().limits == limits.of_reading
        instance = image_of(scp.ledger, scp.spool, "1.2.3", good.SOPInstanceUID)
        assert png(instance, 1).startswith(b"\x89PNG")
        assert instance.limits.pixels == 3 * MIB
        too_long = long.SOPInstanceUID
        for refused in (found[too_long].load, lambda: image_of(scp.ledger, scp.spool, "1.2.3", too_long)):
            with pytest.raises(NotDicomError, match=r"\(0010,4000\) has 2500 bytes, more than the limit of 1024"):
                refused()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("item", [b"\xfe\xff\x00\xe0\0\0\0\0", bytes(8)])
def test_items_before_the_uids_do_not_fill_the_listeners_memory(item: bytes, syntax: str) -> None:
    vr = b"" if syntax == ImplicitVRLittleEndian else b"SQ\0\0"
    head = struct.pack("<HH", 8, 0x1140) + vr + b"\xff\xff\xff\xff"
    data_set = head + item * 200_000 + ct_image("1.2.3", "1.2.3.4", 64)
    if syntax == DeflatedExplicitVRLittleEndian:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data_set = packer.compress(data_set) + packer.flush()
    with pytest.raises(RefusedError, match="more than 50000 elements and items") as caught:
        identify(data_set, syntax)
    assert caught.value.status == 0xC000


def test_deflated_object_may_have_much_before_its_uids() -> None:
    one = b"\xfe\xff\x00\xe0\x10\0\0\0" + b"\x08\0\x50\x11UI\x08\x001.2.840\0"
    sequence = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + one * 5000 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    uids = b"\x20\0\x0d\0UI\x06\x001.2.3\0" + b"\x20\0\x0e\0UI\x08\x001.2.3.4\0"
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = packer.compress(sequence + uids) + packer.flush()
    assert identify(deflated, DeflatedExplicitVRLittleEndian).study_instance_uid == "1.2.3"


def wire_abort(source: int) -> bytes:
    return b"\x07\x00\x00\x00\x00\x04\x00\x00" + bytes([source, 0])
