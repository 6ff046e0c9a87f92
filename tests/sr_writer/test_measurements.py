"""Sizes: from the images' geometry alone, each with what it is true of; as numbers only where the profile asks."""

from __future__ import annotations

import pytest
from highdicom.sr import srread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from sr_cases import DX, US_MULTI_FRAME, boxes_on, ct_series, finding, header, reading, region, slide

from sr_writer import check_results, dump, kind_of, load_profile, write_results

BOX = (10.0, 20.0, 40.0, 30.0)
AIR, VIEWER = load_profile("ihe-air"), load_profile("viewer")


def ultrasound():
    """Make the header of an ultrasound image that is calibrated in cm."""
    area = Dataset()
    area.PhysicalUnitsXDirection = area.PhysicalUnitsYDirection = 3
    area.PhysicalDeltaX, area.PhysicalDeltaY = 0.02, 0.05
    return header(US_MULTI_FRAME, "US", NumberOfFrames=2, SequenceOfUltrasoundRegions=[area])


CASES = {
    # width 30 columns, height 10 rows
    "slice": (ct_series()[0], (21.0, 5.0), "BOX-PLANE", "bounding box 21 x 5 mm (in the plane of the image)"),
    "detector": (
        header(DX, "DX", ImagerPixelSpacing=[0.2, 0.1]),
        (3.0, 2.0),
        "BOX-DETECTOR",
        "bounding box 3 x 2 mm (at the detector; a projection, magnified by an unknown amount, not the size in the "
        "patient)",
    ),
    "calibrated": (
        header(
            DX,
            "DX",
            ImagerPixelSpacing=[0.2, 0.1],
            PixelSpacing=[0.1, 0.05],
            PixelSpacingCalibrationType="FIDUCIAL",
            PixelSpacingCalibrationDescription="ball of 25 mm",
        ),
        (1.5, 1.0),
        "BOX-CALIBRATED",
        "bounding box 1.5 x 1 mm (by the image's calibration, FIDUCIAL, ball of 25 mm)",
    ),
    "ultrasound": (ultrasound(), (6.0, 5.0), "BOX-CALIBRATED", "bounding box 6 x 5 mm (by the image's calibration)"),
    "slide": (slide(), (0.03, 0.02), "BOX-PLANE", "bounding box 0.03 x 0.02 mm (in the plane of the image)"),
    "unknown": (header(DX, "DX"), (), "", ""),
}


def written(image, profile, **more):
    """Write one region on an image, by kind."""
    read = reading([image], [finding("mass", region(image, BOX), **more)], commissioning=False)
    results = write_results(read, [image], profile)
    check_results(results, read, [image])
    return {kind_of(result): result for result in results}


@pytest.mark.parametrize("case", CASES)
def test_sizes_are_numbers_in_ihe_air_and_words_in_the_narrative(case, tmp_path):
    image, sizes, method, words = CASES[case]
    path = tmp_path / "sr.dcm"
    path.write_bytes(dump(written(image, AIR)["sr"]))
    (group,) = srread(path).content.get_planar_roi_measurement_groups()
    numbers = {item.name.meaning: item for item in group.get_measurements()}
    assert [numbers[name].value for name in ("Width", "Height") if name in numbers] == pytest.approx(list(sizes))
    assert {numbers[name].unit.value for name in ("Width", "Height") if name in numbers} <= {"mm"}
    assert not sizes or numbers["Width"].method.value == method
    narrative = dump(written(image, VIEWER)["narrative-en"]).decode("utf-8", "replace")
    assert words in narrative
    assert ("bounding box" in narrative) == bool(sizes)


def test_no_number_stands_in_a_viewers_regions():
    image = ct_series()[0]
    report = written(image, VIEWER)["sr"]
    groups = report.ContentSequence[-1].ContentSequence
    assert not [item for group in groups for item in group.ContentSequence if item.ValueType == "NUM"]
    assert report.SOPClassUID.name == "Comprehensive SR Storage"
    assert written(image, AIR)["sr"].SOPClassUID.name == "Comprehensive 3D SR Storage"


@pytest.mark.parametrize(("calibrated", "method"), [(False, "PROB-UNCAL"), (True, "PROB-CAL")])
def test_certainty_is_a_percentage_that_says_whether_it_is_calibrated(calibrated, method, tmp_path):
    path = tmp_path / "sr.dcm"
    path.write_bytes(dump(written(ct_series()[0], AIR, certainty=0.8712, calibrated=calibrated)["sr"]))
    (group,) = srread(path).content.get_planar_roi_measurement_groups()
    (certainty,) = group.get_measurements(codes.DCM.CertaintyOfFinding)
    assert (certainty.value, certainty.unit.value, certainty.method.value) == (87.1, "%", method)


def test_a_finding_on_several_slices_has_a_depth_in_words():
    images = sorted(ct_series(), key=lambda image: image.SOPInstanceUID)[:3]
    found = finding("mass", *(region(image, BOX) for image in images))
    read = reading(images, [found, finding("nodule", region(images[0], BOX))], commissioning=False)
    results = write_results(read, images, VIEWER)
    narratives = {kind_of(result): dump(result).decode("utf-8", "replace") for result in results}
    assert (
        "bounding box of its 3 regions 21 x 5 x 9 mm (in the plane of the image, the last across slices)"
        in narratives["narrative-en"]
    )
    assert "3 个区域的外接矩形 21 x 5 x 9 毫米（影像平面内，末项为跨层方向）" in narratives["narrative-zh"]
    assert "Counted: mass 1, nodule 1; 4 region(s) on 3 image frame(s)." in narratives["narrative-en"]
    assert "计数：肿块 1, nodule 1；3 帧影像上共 4 个区域。" in narratives["narrative-zh"]


def test_similar_findings_are_counted_by_concept(tmp_path):
    images = ct_series()
    read = reading(images, [*boxes_on(images), finding("cross", region(images[0], BOX))])
    path = tmp_path / "sr.dcm"
    path.write_bytes(dump(write_results(read, images, AIR)[0]))
    counts = [
        item.value
        for group in srread(path).content.get_planar_roi_measurement_groups()
        for item in group.get_measurements()
        if item.name.value == "111406"
    ]
    assert counts == [1, 1, 1, 2, 2]
