"""The last check before anything leaves: what fails it is not sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from engine.errors import GateError
from engine.findings import StudyReading
from sr_writer.region_sr import polyline
from sr_writer.results import kind_of
from sr_writer.sources import Sources

_ALIKE: Final = ("StudyInstanceUID", "PatientID", "AccessionNumber", "StudyDate")
_REQUIRED: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Manufacturer",
    "SpecificCharacterSet",
    "ContributingEquipmentSequence",
    "ContentDate",
    "ContentTime",
)
_REQUIRED_SR: Final = (
    "CompletionFlag",
    "PreliminaryFlag",
    "ContentSequence",
    "CurrentRequestedProcedureEvidenceSequence",
)
_REQUIRED_SEG: Final = (
    "FrameOfReferenceUID",
    "SegmentSequence",
    "ReferencedSeriesSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelData",
)
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
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        if len({str(result.get(keyword)) for result in results}) != len(results):
            raise GateError(f"two results share a {keyword}")
    kinds = [kind_of(result) for result in results]
    if kinds.count("sr") != 1:
        raise GateError("there is not exactly one main SR among the results")
    for kind, result in zip(kinds, results, strict=True):
        _check_header(kind, result, known)
        _check_references(kind, result, known)
    main = results[kinds.index("sr")]
    if _concept(main) == "126000":
        _check_regions(main, reading, known)
    for kind, result in zip(kinds, results, strict=True):
        if kind.startswith("seg"):
            _check_segmentation(kind, result, reading, known)


def _check_header(kind: str, result: Dataset, known: Sources) -> None:
    for keyword in _ALIKE:
        if str(result.get(keyword) or "") != str(known.patient.get(keyword) or ""):
            raise GateError(f"{kind}: {keyword} differs from the source images'")
    for keyword in (*_REQUIRED, *(_REQUIRED_SEG if kind.startswith("seg") else _REQUIRED_SR)):
        if not result.get(keyword):
            raise GateError(f"{kind}: {keyword} is missing or empty")
    if result.Modality == "SR" and str(result.get("VerificationFlag")) != "UNVERIFIED":
        raise GateError(f"{kind}: an AI result is never anything but UNVERIFIED")
    if not str(result.get("SeriesDescription") or "").startswith("AI"):
        raise GateError(f"{kind}: the series description does not begin with AI")


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


def _check_segmentation(kind: str, result: Dataset, reading: StudyReading, known: Sources) -> None:
    places = {(region.sop_instance_uid, region.frame) for region in reading.regions}
    for group in result.PerFrameFunctionalGroupsSequence:
        for item in _references(group):
            image = known.by_uid[str(item.ReferencedSOPInstanceUID)]
            if (image.rows, image.columns) != (int(result.Rows), int(result.Columns)):
                raise GateError(f"{kind}: its frames are not the size of the image they refer to")
            if (image.sop_instance_uid, int(item.get("ReferencedFrameNumber") or 1)) not in places:
                raise GateError(f"{kind}: covers a frame that the reading has no region on")
    frames, pixels = int(result.NumberOfFrames), int(result.Rows) * int(result.Columns)
    if len(result.PerFrameFunctionalGroupsSequence) != frames or len(result.PixelData) < (frames * pixels + 7) // 8:
        raise GateError(f"{kind}: its frames and its pixels do not fit together")


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
        coordinates = [item for item in group.ContentSequence if item.get("ValueType") == "SCOORD"]
        if len(coordinates) != 1:
            raise GateError("sr: a region's group does not have exactly one SCOORD")
        image = known.image(region.sop_instance_uid)
        points = np.asarray(coordinates[0].GraphicData, dtype=np.float64).reshape(-1, 2)
        if points.min() < 0 or points[:, 0].max() > image.columns or points[:, 1].max() > image.rows:
            raise GateError("sr: a region leaves its image")
        reference = coordinates[0].ContentSequence[0].ReferencedSOPSequence[0]
        if str(reference.ReferencedSOPInstanceUID) != region.sop_instance_uid:
            raise GateError("sr: a region refers to another image than the reading's")
        if int(reference.get("ReferencedFrameNumber") or 1) != region.frame:
            raise GateError("sr: a region refers to another frame than the reading's")
        if not np.array_equal(points, polyline(region, image).astype(np.float64)):
            raise GateError("sr: a region is not where the reading says")


def _concept(item: Any) -> str:
    names = item.get("ConceptNameCodeSequence") or [Dataset()]
    return str(names[0].get("CodeValue") or "")
