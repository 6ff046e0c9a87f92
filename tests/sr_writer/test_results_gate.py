"""The gate: each way in which a result could be wrong is caught before it is sent."""

from __future__ import annotations

import copy
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from sr_cases import boxes_on, ct_series, header, reading

from engine.errors import GateError, WriteError
from sr_writer import OutputProfile, check_results, dump, kind_of, load_profile, write_results

ORDER = ("sr", "narrative-en", "narrative-zh", "gsps", "sc", "kos", "seg")
"""By place: the first is the main SR, the last the segmentation."""
GSPS, SC, KOS = ORDER.index("gsps"), ORDER.index("sc"), ORDER.index("kos")


@pytest.fixture(scope="module")
def written():
    """Write one reading as every kind."""
    images = ct_series()
    read = reading(images, boxes_on(images))
    results = write_results(read, images, OutputProfile(key_objects=True), pictures=picture)
    of_kind = {kind_of(result): dcmread(BytesIO(dump(result))) for result in results}
    check_results(results, read, images)
    return [of_kind[kind] for kind in ORDER], read, images


def picture(sop_instance_uid, frame):  # noqa: ARG001 - the signature is that of `Pictures`
    """Render every frame as a gray."""
    return np.full((96, 80, 3), 90, dtype=np.uint8)


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


def at(number, *path):
    """Make a removal of a nested attribute of one result."""

    def change(results):
        item = results[number]
        for keyword in path[:-1]:
            item = item[keyword][0]
        delattr(item, path[-1])

    change.__name__ = f"no {'.'.join(path)} in result {number}"
    return change


def drawn_outside(results):
    annotations = results[GSPS].GraphicAnnotationSequence
    graphic = next(item for item in annotations if "GraphicObjectSequence" in item).GraphicObjectSequence[0]
    graphic.GraphicData = [0, 0, 81, 0, 81, 20, 0, 20, 0, 0]


def without_value(results):
    comment = next(item for item in group(results).ContentSequence if item.ValueType == "TEXT")
    del comment.TextValue


def without_name(results):
    del group(results).ContentSequence[2].ConceptNameCodeSequence


def without_relationship(results):
    del group(results).ContentSequence[2].RelationshipType


def other_reading_named(results):
    results[SC].ContributingEquipmentSequence[0].ContributionDescription = "another reading"


def frame_without_place(results):
    del results[-1].PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


WRONG = [
    (drawn_outside, "gsps: a graphic leaves its image"),
    (without_value, "TEXT lacks TextValue"),
    (without_name, "lacks ConceptNameCodeSequence"),
    (without_relationship, "lacks RelationshipType"),
    (other_reading_named, "sc: the contributing equipment does not name the reading"),
    (frame_without_place, "frame lacks PlanePosition"),
    (set_on(SC, "PixelData", b"\0" * 16), "sc: its size and its pixels"),
    (set_on(SC, "DeviceUID", "1.2.3"), "the same device"),
    (remove(SC, "ConversionType"), "sc: ConversionType is missing"),
    (remove(SC, "SourceImageSequence"), "sc: SourceImageSequence is missing"),
    (remove(GSPS, "PresentationCreationDate"), "gsps: PresentationCreationDate is missing"),
    (remove(0, "PreliminaryFlag"), "sr: PreliminaryFlag is missing"),
    (at(0, "ReferencedPerformedProcedureStepSequence"), "sr: ReferencedPerformedProcedureStepSequence is missing"),
    (at(-1, "SegmentSequence", "SegmentAlgorithmType"), "seg: SegmentSequence.SegmentAlgorithmType is missing"),
    *[(set_on(number, "StudyDate", "20260103"), "StudyDate differs") for number in (GSPS, SC, KOS)],
    *[(set_on(number, "PatientID", "ID-9"), "PatientID differs") for number in (GSPS, SC, KOS)],
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
    results = copy.deepcopy(results)
    change(results)
    with pytest.raises(GateError, match=message):
        check_results(results, read, images)


def test_pictures_alone_pass_and_a_document_that_is_no_pdf_does_not(written):
    _, read, images = written
    check_results(write_results(read, images, load_profile("minimal"), pictures=picture), read, images)
    profile = OutputProfile(seg=False, presentation_state=False, secondary_capture=False, pdf=True)
    results = write_results(read, images, profile, pictures=picture)
    check_results(results, read, images)
    results[-1].EncapsulatedDocument = b"no document"
    with pytest.raises(GateError, match="it is no PDF"):
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
    with pytest.raises(GateError, match="does not name the reading"):
        check_results(results, other, images)
    results = copy.deepcopy(results)
    for result in results:
        result.ContributingEquipmentSequence[0].ContributionDescription = other.digest
    with pytest.raises(GateError, match="4 regions were written for 1"):
        check_results(results, other, images)


def test_sources_of_another_patient_are_caught(written):
    results, read, images = written
    others = [
        header(image.SOPClassUID, "CT", PatientID="ID-2", SOPInstanceUID=image.SOPInstanceUID) for image in images
    ]
    with pytest.raises(WriteError, match="PatientID differs"):
        check_results(results, read, others)
