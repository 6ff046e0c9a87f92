"""The gate: each way in which a result could be wrong is caught before it is sent."""

from __future__ import annotations

import copy
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from sr_cases import boxes_on, ct_series, header, reading

from engine.errors import GateError, WriteError
from sr_writer import OutputProfile, check_results, dump, write_results


@pytest.fixture(scope="module")
def written():
    """Write one reading."""
    images = ct_series()
    read = reading(images, boxes_on(images))
    return write_results(read, images, OutputProfile(presentation_state=False)), read, images


def group(results, number=0):
    """Give a measurement group of the main SR."""
    return results[0].ContentSequence[-1].ContentSequence[number]


def scoord(results):
    """Give the first region's coordinates."""
    return next(item for item in group(results).ContentSequence if item.ValueType == "SCOORD")


def moved(results):
    points = np.asarray(scoord(results).GraphicData) * 0.99
    scoord(results).GraphicData = points.tolist()


def outside(results):
    scoord(results).GraphicData = [0, 0, 900, 0, 900, 96, 0, 96, 0, 0]


def emptied(results):
    results[0].ContentSequence[-1].ContentSequence = []


def one_less(results):
    del results[0].ContentSequence[-1].ContentSequence[1]


def without_coordinates(results):
    items = group(results).ContentSequence
    group(results).ContentSequence = [item for item in items if item.ValueType != "SCOORD"]


def other_image(results):
    reference = scoord(results).ContentSequence[0].ReferencedSOPSequence[0]
    uids = results[0].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    reference.ReferencedSOPInstanceUID = next(
        item.ReferencedSOPInstanceUID
        for item in uids
        if item.ReferencedSOPInstanceUID != reference.ReferencedSOPInstanceUID
    )


def unknown_image(results):
    scoord(results).ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def other_class(results):
    scoord(results).ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"


def other_frame(results):
    scoord(results).ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber = 7


def unknown_in_seg(results):
    source = results[-1].PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedSOPInstanceUID = "1.2.3"


def other_image_in_seg(results):
    groups = results[-1].PerFrameFunctionalGroupsSequence
    sources = [group.DerivationImageSequence[0].SourceImageSequence[0] for group in groups]
    covered = {source.ReferencedSOPInstanceUID for source in sources}
    uids = results[0].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    sources[0].ReferencedSOPInstanceUID = next(
        item.ReferencedSOPInstanceUID for item in uids if item.ReferencedSOPInstanceUID not in covered
    )


def set_on(number, keyword, value):
    """Make a change of one attribute of one result."""

    def change(results):
        setattr(results[number], keyword, value)

    change.__name__ = f"{keyword} of result {number}"
    return change


def remove(number, keyword):
    """Make a removal of one attribute of one result."""

    def change(results):
        delattr(results[number], keyword)

    change.__name__ = f"no {keyword} in result {number}"
    return change


WRONG = [
    (moved, "not where the reading says"),
    (outside, "leaves its image"),
    (emptied, "without regions is never sent"),
    (one_less, "3 regions were written for 4"),
    (without_coordinates, "exactly one SCOORD"),
    (other_image, "another image"),
    (unknown_image, "not among the source images"),
    (other_class, "another SOP class"),
    (other_frame, "which has 1"),
    (unknown_in_seg, "not among the source images"),
    (other_image_in_seg, "no region on"),
    (lambda results: results.clear(), "no result"),
    (lambda results: results.pop(0), "main SR"),
    (set_on(1, "SeriesInstanceUID", None), "SeriesInstanceUID"),
    (set_on(0, "VerificationFlag", "VERIFIED"), "UNVERIFIED"),
    (set_on(0, "SeriesDescription", "Findings"), "begin with AI"),
    (set_on(-1, "Columns", 81), "size of the image"),
    (set_on(-1, "PixelData", b"\0"), "do not fit together"),
    *[(set_on(number, "PatientID", "ID-9"), "PatientID differs") for number in (0, 1, -1)],
    *[(set_on(number, "AccessionNumber", ""), "AccessionNumber differs") for number in (0, 1, -1)],
    *[(set_on(number, "StudyDate", "20260103"), "StudyDate differs") for number in (0, 1, -1)],
    *[(set_on(number, "StudyInstanceUID", "1.2.3"), "StudyInstanceUID differs") for number in (0, 1, -1)],
    *[(remove(number, "ContributingEquipmentSequence"), "ContributingEquipmentSequence") for number in (0, -1)],
    (remove(0, "CurrentRequestedProcedureEvidenceSequence"), "EvidenceSequence"),
    (remove(-1, "ReferencedSeriesSequence"), "ReferencedSeriesSequence"),
    (remove(-1, "FrameOfReferenceUID"), "FrameOfReferenceUID"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_each_wrong_result_is_caught(written, change, message):
    results, read, images = written
    results = [dcmread(BytesIO(dump(result))) for result in results]
    check_results(results, read, images)
    results = copy.deepcopy(results)
    change(results)
    with pytest.raises(GateError, match=message):
        check_results(results, read, images)


def test_two_results_in_one_series_are_caught(written):
    results, read, images = written
    results = copy.deepcopy(results)
    results[1].SeriesInstanceUID = results[0].SeriesInstanceUID
    with pytest.raises(GateError, match="share a SeriesInstanceUID"):
        check_results(results, read, images)


def test_results_of_another_reading_are_caught(written):
    results, _, images = written
    other = reading(images, boxes_on(images)[:1])
    with pytest.raises(GateError, match="4 regions were written for 1"):
        check_results(results, other, images)


def test_sources_of_another_patient_are_caught(written):
    results, read, images = written
    others = [
        header(image.SOPClassUID, "CT", PatientID="ID-2", SOPInstanceUID=image.SOPInstanceUID) for image in images
    ]
    with pytest.raises(WriteError, match="PatientID differs"):
        check_results(results, read, others)
