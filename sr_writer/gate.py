"""The last check before anything leaves: what fails it is not sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from engine.errors import GateError
from engine.findings import StudyReading
from sr_writer.context import SHARED
from sr_writer.iods import missing_attributes
from sr_writer.region_sr import polyline
from sr_writer.results import kind_of
from sr_writer.slide import slide_polygon
from sr_writer.sources import Sources

_ALIKE: Final = ("StudyInstanceUID", "PatientID", "AccessionNumber", "StudyDate")
_OURS: Final = ("SpecificCharacterSet", "DeviceUID", "ContributingEquipmentSequence")
"""What the IODs leave open, and every result has."""
_OURS_BY_KIND: Final = {
    "sr": ("PreliminaryFlag", "CurrentRequestedProcedureEvidenceSequence"),
    "narrative": ("PreliminaryFlag", "CurrentRequestedProcedureEvidenceSequence"),
    "seg": ("FrameOfReferenceUID", "ReferencedSeriesSequence"),
    "sc": ("SourceImageSequence",),
    "gsps": ("GraphicAnnotationSequence",),
}
_BY_VALUE_TYPE: Final = {
    # PS3.3 C.17.3.2.1 and C.18; all type 1 but the first
    "NUM": (),
    "TEXT": ("TextValue",),
    "CODE": ("ConceptCodeSequence",),
    "UIDREF": ("UID",),
    "PNAME": ("PersonName",),
    "DATE": ("Date",),
    "TIME": ("Time",),
    "DATETIME": ("DateTime",),
    "IMAGE": ("ReferencedSOPSequence",),
    "COMPOSITE": ("ReferencedSOPSequence",),
    "SCOORD": ("GraphicType", "GraphicData"),
    "SCOORD3D": ("GraphicType", "GraphicData", "ReferencedFrameOfReferenceUID"),
    "CONTAINER": ("ContinuityOfContent", "ConceptNameCodeSequence"),
}
_OF_EACH_FRAME: Final = (
    # PS3.3 A.51.5: in the frame's group or the shared one
    "FrameContentSequence",
    "PixelMeasuresSequence",
    "PlaneOrientationSequence|PlanePositionSlideSequence",
    "PlanePositionSequence|PlanePositionSlideSequence",
    "DerivationImageSequence",
    "SegmentIdentificationSequence",
)
_MEASUREMENT_REPORT: Final = "126000"
_IMAGING_MEASUREMENTS: Final = "126010"
_MEASUREMENT_GROUP: Final = "125007"


def check_results(results: Sequence[Dataset], reading: StudyReading, sources: Sequence[Dataset]) -> None:
    """Check results against the reading and the sources that they claim to be of.

    Parameters
    ----------
    results : sequence of Dataset
        As `write_results` returned them, or read back from storage.
    reading : StudyReading
    sources : sequence of Dataset
        The headers that the results were written from.

    Raises
    ------
    GateError
        With the first thing that is wrong.
    """
    known = Sources.from_headers(sources, reading.study_instance_uid)
    if not results:
        raise GateError("there is no result to send")
    if len({str(result.get("SOPInstanceUID")) for result in results}) != len(results):
        raise GateError("two results share a SOPInstanceUID")
    if len({str(result.get("DeviceUID")) for result in results}) != 1:
        raise GateError("the results do not all name the same device")
    kinds = [kind_of(result) for result in results]
    names = [kind.partition("-")[0] if kind.startswith(SHARED) else kind for kind in kinds]
    series = set(zip(names, (str(result.get("SeriesInstanceUID")) for result in results), strict=True))
    if not len(set(names)) == len(series) == len({uid for _, uid in series}):
        raise GateError("two results share a SeriesInstanceUID")
    if any(kind.startswith(("sr", "narrative")) for kind in kinds) and kinds.count("sr") != 1:
        raise GateError("there is not exactly one main SR among the results")
    for kind, result in zip(kinds, results, strict=True):
        _check_header(kind, result, reading, known)
        _check_references(kind, result, known)
        if "ContentSequence" in result:
            _check_content(kind, result)
        match kind.partition("-")[0]:
            case "sr" if _concept(result) == _MEASUREMENT_REPORT:
                _check_regions(result, reading, known)
            case "seg":
                _check_segmentation(kind, result, reading, known)
            case "gsps":
                _check_graphics(kind, result, known)
            case "sc":
                _check_pixels(kind, result)
            case "pdf" if not bytes(result.EncapsulatedDocument).startswith(b"%PDF-"):
                raise GateError(f"{kind}: it is no PDF")


def _check_header(kind: str, result: Dataset, reading: StudyReading, known: Sources) -> None:
    for keyword in _ALIKE:
        if str(result.get(keyword) or "") != str(known.patient.get(keyword) or ""):
            raise GateError(f"{kind}: {keyword} differs from the source images'")
    for keyword in (*_OURS, *_OURS_BY_KIND.get(kind.partition("-")[0], ())):
        if not result.get(keyword):
            raise GateError(f"{kind}: {keyword} is missing or empty")
    for keyword in missing_attributes(result):
        raise GateError(f"{kind}: {keyword} is missing or empty")
    if reading.digest not in str(result.ContributingEquipmentSequence[0].get("ContributionDescription")):
        raise GateError(f"{kind}: the contributing equipment does not name the reading")
    if result.Modality == "SR":
        _check_verification(kind, result, reading)
    if not str(result.get("SeriesDescription") or "").startswith("AI"):
        raise GateError(f"{kind}: the series description does not begin with AI")


def _check_verification(kind: str, result: Dataset, reading: StudyReading) -> None:
    """Check that nobody vouches for a result but who has reviewed its reading (PS3.3 C.17.2)."""
    observers = [
        (str(item.get("VerifyingObserverName")), str(item.get("VerifyingOrganization")))
        for item in result.get("VerifyingObserverSequence") or []
    ]
    if reading.review is None or not reading.is_verified:
        if str(result.get("VerificationFlag")) != "UNVERIFIED" or observers:
            raise GateError(f"{kind}: an AI result that nobody has reviewed is never anything but UNVERIFIED")
    elif str(result.get("VerificationFlag")) != "VERIFIED" or observers != [
        (reading.review.reviewer, reading.review.organization)
    ]:
        raise GateError(f"{kind}: it does not name who reviewed the reading as its verifying observer")


def _check_references(kind: str, result: Dataset, known: Sources) -> None:
    for item in _references(result):
        uid = str(item.get("ReferencedSOPInstanceUID"))
        image = known.by_uid.get(uid)
        if image is None:
            raise GateError(f"{kind}: refers to {uid}, which is not among the source images")
        if str(item.get("ReferencedSOPClassUID")) != image.sop_class_uid:
            raise GateError(f"{kind}: refers to {uid} under another SOP class")
        frames = item.get("ReferencedFrameNumber")
        for frame in [] if frames is None else np.atleast_1d(np.asarray(frames, dtype=int)):
            if not 1 <= frame <= image.frames:
                raise GateError(f"{kind}: refers to frame {frame} of {uid}, which has {image.frames}")


def _references(dataset: Dataset) -> Iterator[Dataset]:
    """Find every reference to an instance, whatever sequence it stands in, but for what is superseded."""
    for element in dataset:
        if element.VR != "SQ" or element.keyword in ("PredecessorDocumentsSequence", "ReferencedStudySequence"):
            continue
        for item in element.value:
            if "ReferencedSOPInstanceUID" in item:
                yield item
            yield from _references(item)


def _check_content(kind: str, item: Dataset) -> None:
    """Check that every content item has the value that its type demands, and its name."""
    value_type = str(item.get("ValueType"))
    required = _BY_VALUE_TYPE.get(value_type)
    if required is None:
        raise GateError(f"{kind}: a content item has no value type that is one")
    if value_type not in ("IMAGE", "COMPOSITE"):
        required = ("ConceptNameCodeSequence", *required)
    for keyword in required:
        if keyword not in item or item[keyword].is_empty:
            raise GateError(f"{kind}: a content item {value_type} lacks {keyword}")
    for child in item.get("ContentSequence") or []:
        if not child.get("RelationshipType"):
            raise GateError(f"{kind}: a content item lacks RelationshipType")
        _check_content(kind, child)


def _check_segmentation(kind: str, result: Dataset, reading: StudyReading, known: Sources) -> None:
    places = {(region.sop_instance_uid, region.frame) for region in reading.regions}
    shared = result.SharedFunctionalGroupsSequence[0]
    for group in result.PerFrameFunctionalGroupsSequence:
        for alternatives in _OF_EACH_FRAME:
            if not any(group.get(keyword) or shared.get(keyword) for keyword in alternatives.split("|")):
                raise GateError(f"{kind}: a frame lacks {alternatives}")
        for item in _references(group):
            image = known.by_uid[str(item.ReferencedSOPInstanceUID)]
            if (image.rows, image.columns) != (int(result.Rows), int(result.Columns)):
                raise GateError(f"{kind}: its frames are not the size of the image they refer to")
            if (image.sop_instance_uid, int(item.get("ReferencedFrameNumber") or 1)) not in places:
                raise GateError(f"{kind}: covers a frame that the reading has no region on")
    frames, pixels = int(result.NumberOfFrames), int(result.Rows) * int(result.Columns)
    if len(result.PerFrameFunctionalGroupsSequence) != frames or len(result.PixelData) < (frames * pixels + 7) // 8:
        raise GateError(f"{kind}: its frames and its pixels do not fit together")


def _check_graphics(kind: str, result: Dataset, known: Sources) -> None:
    """Check that what is drawn lies on its image, in pixels (PS3.3 C.10.5)."""
    for annotation in result.GraphicAnnotationSequence:
        images = [known.by_uid[str(item.ReferencedSOPInstanceUID)] for item in annotation.ReferencedImageSequence]
        columns, rows = min(image.columns for image in images), min(image.rows for image in images)
        for graphic in annotation.get("GraphicObjectSequence") or []:
            points = np.asarray(graphic.GraphicData, dtype=np.float64).reshape(-1, 2)
            if graphic.GraphicAnnotationUnits != "PIXEL" or not _inside(points, columns, rows):
                raise GateError(f"{kind}: a graphic leaves its image")


def _check_pixels(kind: str, result: Dataset) -> None:
    size = int(result.Rows) * int(result.Columns) * int(result.SamplesPerPixel)
    if result.BitsAllocated != 8 or len(result.PixelData) != size + size % 2:
        raise GateError(f"{kind}: its size and its pixels do not fit together")


def _check_regions(main: Dataset, reading: StudyReading, known: Sources) -> None:
    measurements = [item for item in main.ContentSequence if _concept(item) == _IMAGING_MEASUREMENTS]
    groups = [
        group
        for item in measurements
        for group in item.get("ContentSequence") or []
        if _concept(group) == _MEASUREMENT_GROUP
    ]
    if len(measurements) != 1 or not groups:
        raise GateError("sr: a measurement report without regions is never sent")
    if len(groups) != len(reading.regions):
        raise GateError(f"sr: {len(groups)} regions were written for {len(reading.regions)} in the reading")
    for group, region in zip(groups, reading.regions, strict=True):
        coordinates = [item for item in group.ContentSequence if item.ValueType in ("SCOORD", "SCOORD3D")]
        if len(coordinates) != 1:
            raise GateError("sr: a region's group does not have exactly one SCOORD")
        image, item = known.image(region.sop_instance_uid), coordinates[0]
        if item.ValueType == "SCOORD3D":
            if str(item.ReferencedFrameOfReferenceUID) != image.frame_of_reference_uid:
                raise GateError("sr: a region lies in another frame of reference than its slide's")
            expected = slide_polygon(region, image)
        else:
            expected = polyline(region, image)
            _check_place(item, region.sop_instance_uid, region.frame)
            points = np.asarray(item.GraphicData, dtype=np.float64).reshape(-1, 2)
            if not _inside(points, image.columns, image.rows):
                raise GateError("sr: a region leaves its image")
        if expected is None or not np.array_equal(np.ravel(item.GraphicData), expected.astype(np.float64).ravel()):
            raise GateError("sr: a region is not where the reading says")


def _check_place(coordinates: Dataset, sop_instance_uid: str, frame: int) -> None:
    reference = coordinates.ContentSequence[0].ReferencedSOPSequence[0]
    if str(reference.ReferencedSOPInstanceUID) != sop_instance_uid:
        raise GateError("sr: a region refers to another image than the reading's")
    if int(reference.get("ReferencedFrameNumber") or 1) != frame:
        raise GateError("sr: a region refers to another frame than the reading's")


def _inside(points: np.ndarray, columns: int, rows: int) -> bool:
    return bool(points.min() >= 0 and points[:, 0].max() <= columns and points[:, 1].max() <= rows)


def _concept(item: Any) -> str:
    names = item.get("ConceptNameCodeSequence") or [Dataset()]
    return str(names[0].get("CodeValue") or "")
