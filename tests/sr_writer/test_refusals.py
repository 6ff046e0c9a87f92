"""Readings and sources that cannot be expressed: a valid object or a named refusal, never an invalid object."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
from pydicom import config
from pydicom.dataset import Dataset
from sr_cases import (
    CT,
    DX,
    SECONDARY_CAPTURE,
    US_MULTI_FRAME,
    boxes_on,
    ct_series,
    finding,
    header,
    read_header,
    reading,
    region,
)

from engine.errors import WriteError
from engine.findings import Mask, Region, RunState
from sr_writer import OutputProfile, check_results, dump, write_results

BOX = (10.0, 10.0, 30.0, 40.0)


def write(images, *findings, **more):
    """Write and check a reading with these findings."""
    read = reading(images, findings, **more)
    results = write_results(read, images, OutputProfile())
    check_results(results, read, images)
    return results


@pytest.mark.parametrize(
    ("box", "frame", "message"),
    [
        ((10.0, 10.0, 80.5, 40.0), 1, "leaves the image of 80 x 96"),
        ((10.0, 10.0, 40.0, 97.0), 1, "leaves the image of 80 x 96"),
        (BOX, 2, "refers to frame 2"),
        ((10.0, 10.0, 10.0 + 1e-9, 40.0), 1, "smaller than coordinates can express"),
    ],
)
def test_region_that_is_not_on_its_image_is_refused_by_name(box, frame, message):
    image = header(DX, "DX")
    with pytest.raises(WriteError, match=message):
        write([image], finding("disc", region(image, box, frame)))


def test_box_to_the_very_edge_is_inside():
    image = header(DX, "DX")
    results = write([image], finding("disc", region(image, (0.0, 0.0, 80.0, 96.0))))
    assert max(_scoord(results[0])) == 96.0


def test_region_on_an_unknown_image_is_refused():
    image = header(DX, "DX")
    with pytest.raises(WriteError, match="not among the source images"):
        write([image], finding("disc", Region("1.2.3.4", 1, BOX)))


def test_frame_that_does_not_exist_is_refused():
    image = header(US_MULTI_FRAME, "US", NumberOfFrames=3)
    with pytest.raises(WriteError, match=r"frame 4 of .* which has 3"):
        write([image], finding("disc", region(image, BOX, 4)))


def test_no_sources_and_sources_of_other_studies_and_patients_are_refused():
    image = header(DX, "DX")
    read = reading([image], boxes_on([image]))
    with pytest.raises(WriteError, match="at least one source"):
        write_results(read, [], OutputProfile())
    with pytest.raises(WriteError, match="not of the study"):
        write_results(read, [image, header(DX, "DX", 2, StudyInstanceUID="1.2.3")], OutputProfile())
    with pytest.raises(WriteError, match="different PatientID"):
        write_results(read, [image, header(DX, "DX", 2, PatientID="ID-2")], OutputProfile())


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID"])
def test_source_without_a_uid_is_refused(keyword):
    image = header(DX, "DX")
    read = reading([image], boxes_on([image]))
    del image.file_meta
    delattr(image, keyword)
    with pytest.raises(WriteError, match=keyword):
        write_results(read, [image], OutputProfile())


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.113619.4.26",  # private
        "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound Image Storage, retired
        "1.2.840.10008.5.1.4.1.1.3",  # Ultrasound Multi-frame Image Storage, retired
        "1.2.840.10008.5.1.4.1.1.77.1.7",  # Dermoscopic Photography
        "1.2.840.10008.5.1.4.1.1.13.1.4",  # Breast Projection X-Ray
    ],
)
def test_unusual_sop_class_is_referred_to_as_it_is(sop_class, frames, tmp_path, dciodvfy):
    image = header(sop_class, "US", NumberOfFrames=frames)
    for number, result in enumerate(write([image], finding("disc", region(image, BOX, frame=frames)))):
        assert result.file_meta.MediaStorageSOPClassUID == result.SOPClassUID != sop_class
        if frames > 1:
            continue  # dciodvfy knows none of these as multi-frame; which frame it is must be said all the same
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(dump(result))
        assert dciodvfy(path) == []


def test_instance_that_nothing_could_refer_to_is_left_out():
    image, other = header(DX, "DX"), header(DX, "DX", 2)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = ""
    results = write([image, other], finding("disc", region(image, BOX)))
    evidence = results[0].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == 1


def test_study_without_images_still_says_that_nothing_was_run():
    report = header("1.2.840.10008.5.1.4.1.1.88.11", "SR")
    del report.Rows, report.Columns
    read = replace(reading([header(DX, "DX")], state=RunState.NOT_RUN), images=())
    results = write_results(read, [report], OutputProfile())
    check_results(results, read, [report])
    assert "Not run" in results[0].ContentSequence[-2].ContentSequence[0].TextValue


def test_sop_class_that_stands_in_the_file_meta_only_is_used():
    images = ct_series()
    for image in images:
        image.SOPClassUID = ""
    results = write(images, finding("disc", region(images[0], BOX)))
    evidence = results[0].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert {item.ReferencedSOPClassUID for item in evidence.ReferencedSOPSequence} == {CT}


def test_duplicate_instances_count_once():
    images = ct_series(3)
    results = write([*images, images[0]], finding("disc", region(images[0], BOX)))
    evidence = results[0].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == 3


@pytest.mark.parametrize(
    "missing",
    [
        "StudyDate",
        "StudyTime",
        "PatientID",
        "PatientName",
        "PatientSex",
        "PatientBirthDate",
        "AccessionNumber",
        "StudyID",
        "ReferringPhysicianName",
        "Modality",
    ],
)
@pytest.mark.parametrize("empty", [True, False])
def test_missing_attribute_becomes_an_empty_one(missing, empty, tmp_path, dciodvfy):
    image = header(DX, "DX")
    if empty:
        setattr(image, missing, None)
    else:
        delattr(image, missing)
    for number, result in enumerate(write([image], finding("disc", region(image, BOX)))):
        assert missing == "Modality" or (missing in result and not result[missing].value)
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(dump(result))
        assert dciodvfy(path) == []


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("AccessionNumber", "9" * 70),
        ("StudyDate", "2004.01.19x"),
        ("StudyTime", "noon"),
        ("PatientBirthDate", "about 1950"),
        ("PatientSex", "female"),
        ("StudyID", "S" * 30),
        ("PatientAge", "45"),
        ("PatientWeight", "70.00000000000000001"),
        ("StudyDescription", "chest " * 30),
        ("StudyDescription", "chest\x1b\x07"),
        ("OtherPatientIDsSequence", [Dataset()]),
        ("DeidentificationMethod", "by hand"),
    ],
)
def test_value_that_no_valid_object_can_carry_is_left_out(keyword, value, tmp_path, dciodvfy):
    image = header(DX, "DX")
    image.pop(keyword, None)
    with _no_judgement():
        setattr(image, keyword, value)
    for number, result in enumerate(write([image], finding("disc", region(image, BOX)))):
        assert not result.get(keyword)
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(dump(result))
        assert dciodvfy(path) == []


def test_accession_number_of_70_characters_stands_in_full_in_the_procedure_context(tmp_path, dciodvfy, dsrdump):
    image = header(DX, "DX")
    with _no_judgement():
        image.AccessionNumber = "A-" + "9" * 68
    results = write([image], finding("disc", region(image, BOX)))
    for number, result in enumerate(results[:2]):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(dump(result))
        assert dciodvfy(path) == []
        assert f'"Accession Number")="A-{"9" * 68}"' in dsrdump("+Pl", path)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientID", "1" * 65), ("PatientID", "1\\2"), ("PatientID", "1\x07"), ("PatientName", "Doe^" + "J" * 90)],
)
def test_identity_that_no_valid_object_can_carry_is_refused_without_saying_it(keyword, value):
    image = header(DX, "DX")
    image.pop(keyword, None)
    with _no_judgement():
        setattr(image, keyword, value)
    with pytest.raises(WriteError, match=f"{keyword} has a value that DICOM does not allow") as caught:
        write([image], finding("disc", region(image, BOX)))
    assert "1" not in str(caught.value)
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize(
    "label",
    ["x" * 300, "肿块" * 150, "mass\x00\x1b\r\nin\tthe\\lung", "  ", "\u2028", "a\ud800b", "é" * 70],
)
def test_label_of_any_kind_gives_valid_objects_or_is_refused(label, tmp_path, dciodvfy):
    image = header(DX, "DX")
    found = finding(
        "disc", region(image, BOX), label=label, concept=label, names={"en": label}, text={"en": label}, notes=(label,)
    )
    if not label.strip():
        with pytest.raises(WriteError, match="neither label nor concept"):
            write([image], found, commissioning=False)
        return
    if "\ud800" in label:
        with pytest.raises(UnicodeEncodeError):
            reading([image], [found]).digest  # noqa: B018  # such a reading has no digest, so nothing to write
        return
    for number, result in enumerate(write([image], found, commissioning=False)):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(dump(result))
        assert dciodvfy(path) == []


@pytest.mark.parametrize("label", ["No finding", "no  FINDING", "Normal", "正常", "未见异常"])
def test_no_finding_never_becomes_a_code(label):
    image = header(DX, "DX")
    with pytest.raises(WriteError, match="means no finding"):
        write([image], finding(label, region(image, BOX)))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Mask(75, 10, 8, 1, "ff", "threshold"), "mask leaves the image"),
        (Mask(10, 10, 8, 2, "ff", "threshold"), "do not fit its size"),
        (Mask(10, 10, 8, 1, "xy", "threshold"), "not hexadecimal"),
    ],
)
def test_mask_that_does_not_fit_is_refused(mask, message):
    image = header(DX, "DX")
    with pytest.raises(WriteError, match=message):
        write([image], finding("disc", region(image, BOX, mask=mask)))


def _scoord(result) -> list[float]:
    measurements = result.ContentSequence[-1].ContentSequence[0]
    return next(item.GraphicData for item in measurements.ContentSequence if item.ValueType == "SCOORD")


@contextmanager
def _no_judgement():
    """Let a header hold what a careless device writes."""
    settings = config.settings
    before = settings.reading_validation_mode, settings._writing_validation_mode
    settings.reading_validation_mode = settings.writing_validation_mode = config.IGNORE
    try:
        yield
    finally:
        settings.reading_validation_mode, settings._writing_validation_mode = before


@pytest.mark.parametrize("declared", [b"ISO_IR 999", b"X-HOSPITAL", b"\\ISO_IR 99"])
def test_private_character_set_keeps_a_plain_name_and_refuses_what_it_cannot_spell(declared, tmp_path, dciodvfy):
    image = header(DX, "DX", rows=64, columns=64, SpecificCharacterSet="ISO_IR 100")
    path = tmp_path / "source.dcm"
    image.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", declared))
    written = [dump(result) for result in write([read_header(path)], finding("disc", region(image, BOX)))]
    for number, content in enumerate(written):
        assert b"Doe^Jane" in content
        (tmp_path / f"{number}.dcm").write_bytes(content)
        assert dciodvfy(tmp_path / f"{number}.dcm") == []
    path.write_bytes(path.read_bytes().replace(b"Doe^Jane", b"D\xffe^\x81ane"))
    try:
        results = write([read_header(path)], finding("disc", region(image, BOX)))
    except WriteError as error:
        assert "PatientName has a value that DICOM does not allow" in str(error)  # noqa: PT017
    else:
        assert all("\ufffd" not in str(result.PatientName) for result in results)


def test_derived_source_gives_valid_objects_that_refer_to_it_and_not_to_its_own_sources(tmp_path, dciodvfy):
    original, purpose, item = header(CT, "CT", 9), Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "121320", "DCM", "Uncompressed predecessor"
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = original.SOPClassUID, original.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [purpose]
    image = header(
        SECONDARY_CAPTURE,
        "CT",
        ImageType=["DERIVED", "SECONDARY", "MPR"],
        DerivationDescription="oblique reformat",
        SourceImageSequence=[item],
        ReferencedImageSequence=[item],
        ConversionType="WSD",
        PixelSpacing=[0.5, 0.5],
    )
    results = write([image], finding("mass", region(image, BOX)), commissioning=False)
    for number, result in enumerate(results):
        content = dump(result)
        assert str(image.SOPInstanceUID).encode() in content or "narrative" in str(result.SeriesDescription)
        assert f"{original.SOPInstanceUID}".encode() not in content
        (tmp_path / f"{number}.dcm").write_bytes(content)
        assert dciodvfy(tmp_path / f"{number}.dcm") == []


def test_finding_that_is_named_in_one_language_only_keeps_that_name_in_the_other():
    image = header(DX, "DX")
    nameless = replace(finding("disc"), label="", concept="\x07", names={"en": "nodule"}, text={}, notes=("",))
    report = next(result for result in write([image], nameless, commissioning=False) if "SegmentSequence" not in result)
    assert b"nodule" in dump(report)


def test_finding_that_says_nothing_at_all_is_refused_by_name():
    empty = replace(finding("disc"), label="", concept="\x07", names={"zh": ""}, text={}, certainty=None, notes=("",))
    with pytest.raises(WriteError, match="neither label nor concept"):
        write([header(DX, "DX")], empty, commissioning=False)
