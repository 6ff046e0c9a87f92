"""Patient and study modules: the source's own values, in UTF-8, whatever they were written in."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sr_cases import DX, boxes_on, charset, header, reading

from engine.errors import WriteError
from sr_writer import OutputProfile, dump, write_results
from sr_writer.patient import patient_and_study

NAMES = {
    "chrArab.dcm": "قباني^لنزار",
    "chrFren.dcm": "Buc^Jérôme",
    "chrGerm.dcm": "Äneas^Rüdiger",
    "chrGreek.dcm": "Διονυσιος",
    "chrH31.dcm": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "chrH32.dcm": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "chrHbrw.dcm": "שרון^דבורה",
    "chrI2.dcm": "Hong^Gildong=洪^吉洞=홍^길동",
    "chrRuss.dcm": "Люкceмбypг",
    "chrX1.dcm": "Wang^XiaoDong=王^小東",
    "chrX2.dcm": "Wang^XiaoDong=王^小东",
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_patients_name_keeps_every_component_group_in_every_character_set(name):
    source = charset(name)
    source.Rows, source.Columns = 32, 32
    results = write_results(reading([source], boxes_on([source])), [source], OutputProfile())
    for result in results:
        stored = dcmread(BytesIO(dump(result)))
        assert stored.SpecificCharacterSet == "ISO_IR 192"
        assert str(stored.PatientName) == NAMES[name]
        assert NAMES[name].encode() in dump(result)


def test_every_character_set_file_of_pydicom_converts_without_loss():
    for path in map(Path, get_charset_files("chr*.dcm")):
        source = charset(path.name)
        if "PatientName" in source:
            assert str(patient_and_study(source).PatientName) == str(source.PatientName), path.name


def encoded(name: bytes, character_set: str | None) -> Dataset:
    """Read back a header whose name has exactly these bytes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.StudyInstanceUID = "1.2.3"
    dataset.PatientName = "@" * (len(name) + len(name) % 2)
    if character_set:
        dataset.SpecificCharacterSet = character_set
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True)
    data = buffer.getvalue().replace(b"@" * len(dataset.PatientName), name + b" " * (len(name) % 2))
    return dcmread(BytesIO(data), force=True)


@pytest.mark.parametrize(
    ("name", "character_set", "expected"),
    [
        ("王^小东".encode(), None, "王^小东"),
        ("Müller^Jörg".encode(), None, "Müller^Jörg"),
        ("Müller^Jörg".encode("latin-1"), None, "Müller^Jörg"),
        ("王^小东".encode("gb18030"), "GB18030", "王^小东"),
        ("王^小东".encode("gbk"), "GBK", "王^小东"),
        ("Wang^Xiao=王^小东".encode(), "ISO_IR 192", "Wang^Xiao=王^小东"),
    ],
)
def test_name_is_read_by_its_character_set_or_by_its_bytes(name, character_set, expected):
    assert str(patient_and_study(encoded(name, character_set)).PatientName) == expected


@pytest.mark.filterwarnings("ignore:Failed to decode byte string")
def test_a_name_that_its_character_set_cannot_spell_is_refused_and_never_garbled():
    with pytest.raises(WriteError, match="PatientName"):
        patient_and_study(encoded("Müller^Jörg".encode("latin-1"), "ISO_IR 192"))


@pytest.mark.parametrize("offset", ["+9999", "abcde", "0800", "+08:00", "+0860"])
def test_a_time_zone_that_is_none_is_left_out(offset):
    source = header(DX, "DX", TimezoneOffsetFromUTC=offset)
    assert "TimezoneOffsetFromUTC" not in patient_and_study(source)
    results = write_results(reading([source], boxes_on([source])), [source], OutputProfile())
    assert str(results[0].ContentTime) == "102030.123456"


@given(
    name=st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\\=^ \ufffd"), max_size=60
    )
)
def test_any_name_in_utf8_survives(name):
    source = header(DX, "DX", SpecificCharacterSet="ISO_IR 192", PatientName=name)
    assert str(patient_and_study(source).PatientName) == str(source.PatientName)


def test_module_attributes_come_along_and_nothing_else():
    source = header(
        DX,
        "DX",
        PatientAge="055Y",
        StudyDescription="Thorax",
        IssuerOfPatientID="HOSP",
        InstitutionName="secret hospital",
        OperatorsName="secret^operator",
        PatientWeight="70.5",
    )
    code, other = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "RPID2", "99LOCAL", "Thorax p.a."
    other.PatientID, other.TypeOfPatientID = "OTHER", "TEXT"
    source.ProcedureCodeSequence, source.OtherPatientIDsSequence = [code], [other]
    modules = patient_and_study(source)
    assert modules.PatientAge == "055Y"
    assert modules.StudyDescription == "Thorax"
    assert modules.IssuerOfPatientID == "HOSP"
    assert modules.PatientWeight == 70.5
    assert modules.ProcedureCodeSequence[0].CodeMeaning == "Thorax p.a."
    assert modules.OtherPatientIDsSequence[0].PatientID == "OTHER"
    assert "InstitutionName" not in modules
    assert "OperatorsName" not in modules
    assert "Rows" not in modules


def test_text_in_sequences_is_converted_too():
    source = header(DX, "DX")
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99LOCAL", "胸部".encode().decode("latin-1")
    source.ProcedureCodeSequence = [code]
    assert patient_and_study(source).ProcedureCodeSequence[0].CodeMeaning == "胸部"


def test_source_header_is_not_changed():
    source = charset("chrH31.dcm")
    before = source.to_json()
    patient_and_study(source)
    assert source.to_json() == before
    assert source.SpecificCharacterSet == ["", "ISO 2022 IR 87"]
