"""The region SR, item by item: what viewers were measured to need."""

from __future__ import annotations

import pytest
from highdicom.sr import ComprehensiveSR
from pydicom.dataset import Dataset
from sr_cases import (
    CREATED,
    boxes_on,
    ct_series,
    enhanced_ct,
    finding,
    mammogram,
    reading,
    region,
    sources_of_every_kind,
)

from engine.findings import Laterality
from sr_writer import OutputProfile, write_results


def items(container: Dataset, code: str) -> list[Dataset]:
    """Find the content items of a container by the code of their concept name."""
    return [item for item in container.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == code]


def groups(result: Dataset) -> list[Dataset]:
    """Give the measurement groups of a measurement report."""
    return list(items(result, "126010")[0].ContentSequence)


def written(images, *findings, profile: OutputProfile | None = None, **more) -> Dataset:
    """Write a reading and give its main SR."""
    return write_results(reading(images, findings, **more), images, profile or OutputProfile())[0]


@pytest.mark.parametrize("kind", sorted(set(sources_of_every_kind()) - {"slide"}))
def test_each_region_has_a_complete_group(kind):
    images = sources_of_every_kind()[kind]
    read = reading(images, boxes_on(images))
    report = write_results(read, images, OutputProfile())[0]
    assert report.SOPClassUID.name == "Comprehensive SR Storage"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert len(groups(report)) == len(read.regions)
    tracking = set()
    for group in groups(report):
        assert group.ContentTemplateSequence[0].TemplateIdentifier == "1410"
        assert not [item for item in group.ContentSequence if item.ValueType == "NUM"]
        for code in ("112039", "112040", "121071", "363698007", "130400", "111030", "121106"):
            assert len(items(group, code)) == 1, code
        assert items(group, "130400")[0].RelationshipType == "CONTAINS"
        assert items(group, "130400")[0].ConceptCodeSequence[0].CodeValue == "75958009"
        tracking.add(items(group, "112040")[0].UID)
        shape = items(group, "111030")[0]
        assert (shape.GraphicType, len(shape.GraphicData)) == ("POLYLINE", 10)
        assert list(shape.GraphicData[:2]) == list(shape.GraphicData[-2:])
        assert len(shape.ContentSequence) == 1
        assert shape.ContentSequence[0].ConceptNameCodeSequence[0].CodeValue == "111040"
        assert shape.ContentSequence[0].ReferencedSOPSequence[0].get("ReferencedFrameNumber") is None or (
            images[0].NumberOfFrames > 1
        )
    assert len(tracking) == len(read.regions)


def test_exact_meanings_that_viewers_compare():
    images = ct_series()
    report = written(images, *boxes_on(images))
    meanings = {report.ConceptNameCodeSequence[0].CodeMeaning}
    for item in (items(report, "126010")[0], groups(report)[0], items(groups(report)[0], "112039")[0]):
        meanings.add(item.ConceptNameCodeSequence[0].CodeMeaning)
    expected = {"Imaging Measurement Report", "Imaging Measurements", "Measurement Group", "Tracking Identifier"}
    assert meanings == expected


def test_comment_says_the_finding_in_the_languages_of_the_profile_with_its_certainty():
    images = ct_series()
    found = finding("disc", region(images[0], (1, 1, 9, 9)), notes=("name not confirmed when asked back",))
    for languages, expected in {
        ("en", "zh"): (
            "disc: A bright disc in the upper left; certainty 0.87, uncalibrated"
            " | 圆盘：左上部见一高密度圆盘；确信度 0.87（未校准） | name not confirmed when asked back"
        ),
        ("zh",): "圆盘：左上部见一高密度圆盘；确信度 0.87（未校准） | name not confirmed when asked back",
    }.items():
        report = written(images, found, profile=OutputProfile(languages=languages), commissioning=False)
        assert items(groups(report)[0], "121106")[0].TextValue == expected
        language = items(report, "121049")[0].ConceptCodeSequence[0].CodeValue
        assert language == ("en-US" if languages[0] == "en" else "zh-CN")


def test_a_missing_language_falls_back_to_the_name_and_invents_nothing():
    images = ct_series()
    found = finding("disc", region(images[0], (1, 1, 9, 9)), names={"en": "disc"}, text={"en": "disc."}, certainty=None)
    report = written(images, found, commissioning=False)
    assert items(groups(report)[0], "121106")[0].TextValue == "disc"


@pytest.mark.parametrize(
    ("label", "side", "expected"),
    [
        ("pneumothorax", Laterality.LEFT, "7771000"),
        ("pneumothorax", Laterality.BILATERAL, "51440002"),
        ("pneumothorax", Laterality.UNKNOWN, None),
        ("right lung", Laterality.UNKNOWN, "24028007"),
    ],
)
def test_side_modifies_the_finding_site(label, side, expected):
    images = ct_series()
    found = finding(label, region(images[0], (1, 1, 9, 9)), laterality=side)
    report = written(images, found, commissioning=False)
    site = items(groups(report)[0], "363698007")[0]
    codes = [item.ConceptCodeSequence[0].CodeValue for item in site.get("ContentSequence", [])]
    assert codes == ([expected] if expected else [])


def test_all_source_images_are_evidence_and_images_with_regions_are_in_the_library():
    images = ct_series()
    report = written(images, finding("disc", region(images[2], (1, 1, 9, 9)), region(images[4], (1, 1, 9, 9))))
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == images[0].StudyInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence} == {
        image.SOPInstanceUID for image in images
    }
    library = items(items(report, "111028")[0], "126200")
    entries = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: item
        for group in library
        for item in group.ContentSequence
        if item.ValueType == "IMAGE"
    }
    assert set(entries) == {images[2].SOPInstanceUID, images[4].SOPInstanceUID}
    descriptors = {
        item.ConceptNameCodeSequence[0].CodeMeaning for item in entries[images[2].SOPInstanceUID].ContentSequence
    }
    assert {"Modality", "Pixel Data Rows", "Horizontal Pixel Spacing", "Frame of Reference UID"} <= descriptors


def test_library_says_the_modality_of_the_header():
    images = [mammogram()]
    assert images[0].SOPClassUID.name == "Secondary Capture Image Storage"
    report = written(images, finding("breast", region(images[0], (1, 1, 9, 9))))
    (entry,) = items(items(report, "111028")[0], "126200")[0].ContentSequence
    assert items(entry, "121139")[0].ConceptCodeSequence[0].CodeValue == "MG"
    assert entry.ReferencedSOPSequence[0].ReferencedSOPClassUID == images[0].SOPClassUID


def test_device_is_the_observer_and_the_algorithm_is_named_in_each_group():
    images = ct_series()
    report = written(images, *boxes_on(images))
    assert items(report, "121005")[0].ConceptCodeSequence[0].CodeValue == "121007"
    assert report.DeviceUID == items(report, "121012")[0].UID
    assert items(report, "121058")[0].ConceptCodeSequence[0].CodeMeaning == "Imaging procedure"
    for group in groups(report):
        assert items(group, "111001")[0].TextValue == "phantom reader"
        assert items(group, "111003")[0].TextValue == "1.2"
        parameters = "\n".join(item.TextValue for item in items(group, "111002"))
        for words in ("ab" * 32, "cd" * 32, "onnxruntime 1.22", "greedy=True", "max_new_tokens=400", "plan phantom"):
            assert words in parameters


def test_frame_is_named_only_where_there_are_several():
    images = [enhanced_ct(5)]
    group = groups(written(images, finding("disc", region(images[0], (1, 1, 9, 9), frame=4))))[0]
    reference = items(group, "111030")[0].ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedFrameNumber == 4
    images = [enhanced_ct(1)]
    group = groups(written(images, finding("disc", region(images[0], (1, 1, 9, 9)))))[0]
    reference = items(group, "111030")[0].ContentSequence[0].ReferencedSOPSequence[0]
    assert "ReferencedFrameNumber" not in reference


def test_tracking_identifier_is_for_people_unless_the_profile_says_otherwise():
    images = ct_series()
    found = finding("disc", region(images[0], (1, 1, 9, 9)))
    assert items(groups(written(images, found))[0], "112039")[0].TextValue == "AI 1 disc"
    report = written(images, found, profile=OutputProfile(tracking="cornerstone"))
    assert items(groups(report)[0], "112039")[0].TextValue == "Cornerstone3DTools@^0.1.0:RectangleROI"


def test_narrative_says_first_what_it_is_and_then_how_the_run_ended():
    images = ct_series()
    results = write_results(reading(images, boxes_on(images)), images, OutputProfile())
    for result, words in zip(
        results[1:3], (("NOT FOR CLINICAL USE", "read 6 image"), ("不可用于临床", "6 帧")), strict=True
    ):
        assert result.ContentTemplateSequence[0].TemplateIdentifier == "2000"
        findings = items(result, "59776-5")[0]
        first, second = findings.ContentSequence[0].TextValue.split("\r\n")
        assert words[0] in first
        assert words[1] in second
        assert items(findings, "111017")[0].ConceptCodeSequence[0].CodeValue == "111242"
        assert len(items(findings, "121071")) == 1 + 3 + 1 + 1
    assert "Findings: A disc. Impression: Disc." in items(items(results[1], "59776-5")[0], "121071")[-1].TextValue
    assert str(results[1].ContentDate) == CREATED.strftime("%Y%m%d")


def test_the_report_is_what_the_library_makes_of_the_whole_tree():
    images = ct_series()
    report = written(images, *boxes_on(images))
    root = Dataset()
    for keyword in ("ValueType", "ConceptNameCodeSequence", "ContinuityOfContent", "ContentTemplateSequence"):
        root[keyword] = report[keyword]
    root.ContentSequence = report.ContentSequence
    again = ComprehensiveSR(
        evidence=sorted(images, key=lambda image: image.SOPInstanceUID),
        content=root,
        series_instance_uid=report.SeriesInstanceUID,
        series_number=report.SeriesNumber,
        sop_instance_uid=report.SOPInstanceUID,
        instance_number=1,
        manufacturer=report.Manufacturer,
        is_complete=True,
    )
    for keyword in ("ContentSequence", "CurrentRequestedProcedureEvidenceSequence", *root.dir()):
        assert report[keyword] == again[keyword]
