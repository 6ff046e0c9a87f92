"""Headers are read defensively: a reason for what is refused, and no file that takes the process down."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from engine_files import PYDICOM_FILES
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid

import engine.header
from engine.errors import NotDicomError
from engine.limits import Limits
from engine.study import load_instance, load_studies, open_part10

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)


def nested(depth: int) -> bytes:
    """A sequence within a sequence, so many times."""
    data = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + data + b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
        data = b"\x40\x00\x30\xa7SQ\x00\x00\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    return data


def with_meta(dataset: bytes, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A DICOM file around these bytes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    shell = Dataset()
    shell.file_meta = meta
    buffer = BytesIO()
    shell.save_as(buffer, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return buffer.getvalue() if syntax == ExplicitVRLittleEndian and not dataset else _head(buffer.getvalue()) + dataset


def _head(file: bytes) -> bytes:
    (length,) = struct.unpack_from("<I", file, 140)
    return file[: 144 + length]


def test_header_holds_everything_but_pixels(make):
    instance = load_instance(make(PIXELS, PatientName="Doe"))
    assert "PixelData" not in instance.header
    assert instance.header.PatientName == "Doe"
    assert instance.header.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert instance.sop_instance_uid == instance.header.SOPInstanceUID
    assert instance.number_of_frames == 1
    assert instance.modality == "DX"


def test_uids_that_stand_only_in_the_meta_information_are_filled_in(tmp_path, make):
    dataset = dcmread(make(PIXELS))
    expected = dataset.SOPClassUID
    dataset.SOPClassUID = ""
    dataset.save_as(tmp_path / "file.dcm")
    instance = load_instance(tmp_path / "file.dcm")
    assert instance.sop_class_uid == expected
    assert instance.header.SOPClassUID == expected


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_object_without_its_uids_is_refused_by_name(make, keyword):
    with pytest.raises(NotDicomError, match=keyword):
        load_instance(make(PIXELS, **{keyword: ""}))


@pytest.mark.parametrize("uid", ["..\\..\\evil", "../../etc/passwd", "1.2/3", "1" * 65, "1..2", "abc"])
def test_uid_that_is_none_is_refused_without_being_quoted(make, uid):
    path = make(PIXELS)
    data = path.read_bytes()
    dataset = dcmread(BytesIO(data))
    dataset.StudyInstanceUID = "1.2.3"
    dataset["StudyInstanceUID"]._value = uid
    dataset.save_as(path)
    with pytest.raises(NotDicomError, match="StudyInstanceUID is not a UID") as caught:
        load_instance(path)
    assert uid not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 4096, b"%PDF-1.7" + bytes(200), bytes(128) + b"DICM"])
def test_file_that_is_no_dicom_is_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(NotDicomError):
        load_instance(path)


def test_missing_file_is_refused_without_its_path(tmp_path):
    with pytest.raises(NotDicomError, match="cannot be opened") as caught:
        load_instance(tmp_path / "ZZTOP^PHI.dcm")
    assert "ZZTOP" not in str(caught.value)


def test_dicomdir_is_refused():
    with pytest.raises(NotDicomError, match="DICOMDIR"):
        load_instance(PYDICOM_FILES / "dicomdirtests" / "DICOMDIR")


def test_deeply_nested_sequences_are_refused(tmp_path):
    path = tmp_path / "deep.dcm"
    path.write_bytes(with_meta(nested(5000)))
    with pytest.raises(NotDicomError, match="nested too deeply"):
        load_instance(path)


@pytest.mark.parametrize("depth", [24, 25, 60])
def test_sequences_nested_deeper_than_the_limit_are_refused(make, depth):
    path = make(PIXELS)
    dataset = dcmread(path)
    inner = Dataset()
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = Sequence([inner])
        inner = outer
    dataset.ContentSequence = inner.ContentSequence
    dataset.save_as(path)
    if depth <= 24:
        assert load_instance(path).number_of_frames == 1
        return
    with pytest.raises(NotDicomError, match="nested deeper than the limit of 24"):
        load_instance(path)


EMPTY_ITEM = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


@pytest.mark.parametrize("item", [EMPTY_ITEM, bytes(8)], ids=["items", "zeros"])
@pytest.mark.parametrize("defined", [True, False])
def test_object_of_too_many_items_is_refused_before_they_fill_the_memory(tmp_path, item, defined):
    items = 200_000 * item
    length = struct.pack("<I", len(items)) if defined else b"\xff\xff\xff\xff"
    path = tmp_path / "items.dcm"
    path.write_bytes(with_meta(b"\x40\x00\x30\xa7SQ\x00\x00" + length + items + (b"" if defined else SEQUENCE_END)))
    with pytest.raises(NotDicomError, match="more elements and items than the limit of 10000"):
        load_instance(path, Limits(items=10_000))


def test_text_longer_than_the_limit_is_refused_without_being_quoted(make):
    path = make(PIXELS, PatientComments="ZZTOP" * 1000)
    assert load_instance(path).number_of_frames == 1
    with pytest.raises(NotDicomError, match=r"\(0010,4000\) has 5000 bytes, more than the limit of 4096") as caught:
        load_instance(path, Limits(value_bytes=4096))
    assert "ZZTOP" not in str(caught.value)


def test_object_of_more_frames_than_the_limit_is_refused(make):
    path = make(PIXELS, NumberOfFrames=2_000_000_000)
    with pytest.raises(NotDicomError, match="2000000000 frames, more than the limit of 100000"):
        load_instance(path)


def test_deflate_bomb_is_refused_before_it_fills_the_memory(tmp_path):
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(bytes(64 * 2**20)) + packer.flush()
    path = tmp_path / "bomb.dcm"
    path.write_bytes(with_meta(bomb, DeflatedExplicitVRLittleEndian))
    with pytest.raises(NotDicomError, match="inflates to more than 1 MiB"):
        open_part10(path, Limits(inflated_bytes=2**20))


def test_deflated_object_is_read():
    instance = load_instance(PYDICOM_FILES / "image_dfl.dcm")
    assert instance.header.Rows == 512
    assert instance.header.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian


def test_file_without_preamble_is_read(make, tmp_path):
    bare = tmp_path / "bare.dcm"
    dataset = dcmread(make(PIXELS))
    syntax = dataset.file_meta.TransferSyntaxUID
    del dataset.file_meta
    dataset.save_as(bare, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    assert load_instance(bare).header.Rows == 8


def test_bulk_elements_are_left_out(make, monkeypatch):
    monkeypatch.setattr(engine.header, "MAX_ELEMENT_BYTES", 1000)
    path = make(PIXELS, EncapsulatedDocument=bytes(5000), ImageComments="kept")
    header = load_instance(path).header
    assert "EncapsulatedDocument" not in header
    assert header.ImageComments == "kept"


def test_broken_element_is_left_out_and_the_rest_is_read(make):
    path = make(PIXELS, InstanceNumber=7, ImageComments="kept")
    data = path.read_bytes().replace(b"\x20\x00\x13\x00IS\x02\x007 ", b"\x20\x00\x13\x00IS\x02\x00xx")
    path.write_bytes(data)
    header = load_instance(path).header
    assert "InstanceNumber" not in header
    assert header.ImageComments == "kept"


def test_errors_never_quote_the_dataset(make, tmp_path):
    data = make(PIXELS).read_bytes()
    said = set()
    for length in range(140, len(data) - 70, 3):
        path = tmp_path / "cut.dcm"
        path.write_bytes(data[:length])
        try:
            load_instance(path)
        except NotDicomError as error:
            said.add(str(error))
    assert said
    assert not any("ZZTOP" in words or "SECRET" in words for words in said)


def test_every_test_file_of_pydicom_loads_or_is_refused_with_a_reason():
    reasons = set()
    for path in filter(Path.is_file, PYDICOM_FILES.rglob("*")):
        try:
            load_instance(path)
        except NotDicomError as error:
            reasons.add(str(error))
    assert reasons
    assert all(len(reason) > 10 for reason in reasons)


def test_files_and_folders_are_grouped_by_study_and_series(make, tmp_path):
    study, series = generate_uid(), generate_uid()
    same = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    second = make(PIXELS, InstanceNumber=2, **same)
    first = make(PIXELS, InstanceNumber=1, **same)
    make(PIXELS, StudyInstanceUID=study)
    make(PIXELS)
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "notes.txt").write_text("no DICOM")
    studies, refused = load_studies([tmp_path, second])
    assert sorted(len(s.instances) for s in studies) == [1, 3]
    found = next(s for s in studies if s.study_instance_uid == study)
    assert [len(s.instances) for s in found.series] == [2, 1] or [len(s.instances) for s in found.series] == [1, 2]
    pair = next(s for s in found.series if s.series_instance_uid == series)
    assert [i.path for i in pair.instances] == [first, second]
    assert [path.name for path, _ in refused] == ["notes.txt"]
    assert len(found.headers) == 3


def test_second_object_with_the_same_uid_is_told(make, tmp_path):
    path = make(PIXELS)
    (tmp_path / "copy.dcm").write_bytes(path.read_bytes())
    studies, refused = load_studies([tmp_path])
    assert len(studies[0].instances) == 1
    assert "same SOP Instance UID" in studies[0].unusable[0].reason
    assert not refused
