"""What is written is what pydicom writes, byte for byte, however it was made faster."""

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from sr_writer import dump


def as_pydicom(result: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, result, enforce_file_format=True)
    return buffer.getvalue()


def complete(dataset: Dataset) -> Dataset:
    dataset.SOPClassUID, dataset.SOPInstanceUID = BasicTextSRStorage, "2.25.1"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        BasicTextSRStorage,
        "2.25.1",
    )
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def code(value: str, **changes: object) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", "右肺 right lung"
    for keyword, content in changes.items():
        setattr(item, keyword, content)
    return item


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "TextValue": st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20),
        "NumericValue": st.lists(st.sampled_from(["1", "1.0", "1.00", DSfloat("1.50")]), min_size=1, max_size=3),
        "Rows": st.integers(0, 65535),
        "NumberOfFrames": st.sampled_from(["1", "01", 1, ""]),
        "PersonName": st.sampled_from(["", "Wang^XiaoDong=王^小东", "A^B"]),
        "GraphicData": st.lists(st.floats(width=32, allow_nan=False), max_size=4),
        "FrameIncrementPointer": st.sampled_from([0x00181063, [0x00181063, 0x00181065]]),
        "PixelData": st.binary(max_size=5),
    },
)


def filled(values: dict[str, object]) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB"
    return dataset


DATASETS = st.recursive(
    VALUES.map(filled),
    lambda inner: st.builds(lambda values, items: _with(filled(values), items), VALUES, st.lists(inner, max_size=3)),
    max_leaves=8,
)


def _with(dataset: Dataset, items: list[Dataset]) -> Dataset:
    dataset.ContentSequence = items
    return dataset


@given(DATASETS)
def test_any_data_set_is_written_as_pydicom_writes_it(dataset: Dataset) -> None:
    complete(dataset)
    assert dump(dataset) == as_pydicom(dataset)


def test_values_that_are_equal_and_written_differently_are_told_apart() -> None:
    dataset = complete(Dataset())
    numbers = [code("1", NumericValue=text) for text in ("1", "1.0", "1.00", "1")]
    dataset.ContentSequence = numbers
    assert dump(dataset) == as_pydicom(dataset)
    read = dcmread(BytesIO(dump(dataset)))
    assert [item.NumericValue.original_string for item in read.ContentSequence] == ["1", "1.0", "1.00", "1"]


def test_an_item_with_a_character_set_of_its_own_and_one_of_undefined_length() -> None:
    dataset = complete(Dataset())
    own = code("1", SpecificCharacterSet="GB18030")
    open_ended = code("2")
    open_ended.is_undefined_length_sequence_item = True
    dataset.ContentSequence = [own, open_ended, code("3")]
    dataset.ConceptNameCodeSequence = [code("4")]
    dataset["ConceptNameCodeSequence"].is_undefined_length = True
    assert dump(dataset) == as_pydicom(dataset)


def test_a_value_representation_in_doubt_is_settled_as_pydicom_settles_it() -> None:
    dataset = complete(Dataset())
    dataset.PixelRepresentation = 1
    item = Dataset()
    item.add_new("SmallestImagePixelValue", "US or SS", -5)
    dataset.ContentSequence = [item]
    assert dump(dataset) == as_pydicom(dataset)
    assert dcmread(BytesIO(dump(dataset))).ContentSequence[0].SmallestImagePixelValue == -5


@pytest.mark.parametrize("name", ["CT_small.dcm", "reportsi.dcm", "test-SR.dcm", "rtplan.dcm"])
def test_what_was_read_from_a_file_is_written_as_pydicom_writes_it(name: str) -> None:
    dataset = dcmread(get_testdata_file(name))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.preamble = b"\0" * 128
    assert dump(dataset) == as_pydicom(dataset)
