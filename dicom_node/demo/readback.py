"""What a viewer would find in the results: boxes read back from SR, SEG and presentation states.

It walks the objects as PS3.16 TID 1410, PS3.3 C.8.20 and C.10.5 define them and shares no code with the writer, so the
demo and the tests can hold one against the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from engine.errors import WriteError
from engine.findings import Box

_MEASUREMENT_GROUP = "125007"
_FINDING = "121071"
_COMMENT = "121106"


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A region as a result object says it.

    Parameters
    ----------
    sop_instance_uid : str
        The source image it points at.
    frame : int
        From 1.
    box : tuple of float
        In the SCOORD frame; from a segmentation the outer edges of its pixels.
    name : str
        Meaning of the finding's code, or the segment's label.
    comment : str
        The finding in words.
    """

    sop_instance_uid: str
    frame: int
    box: Box
    name: str
    comment: str = ""


def regions_of_sr(report: Dataset) -> list[ReadBack]:
    """Regions of the planar ROI measurement groups of an SR (TID 1410); none for a report without.

    Raises
    ------
    WriteError
        If a group lacks its region or points at no image.
    """
    regions = []
    for item in _tree(report):
        if item.ValueType != "CONTAINER" or _code(item) != _MEASUREMENT_GROUP:
            continue
        content = list(item.get("ContentSequence", []))
        outlines = [child for child in content if child.ValueType == "SCOORD"]
        if len(outlines) != 1:
            raise WriteError(f"a measurement group holds {len(outlines)} regions, expected one")
        pointed = [child for child in outlines[0].get("ContentSequence", []) if child.ValueType == "IMAGE"]
        if len(pointed) != 1:
            raise WriteError(f"a region points at {len(pointed)} images, expected one")
        source = pointed[0].ReferencedSOPSequence[0]
        names = [child.ConceptCodeSequence[0].CodeMeaning for child in content if _code(child) == _FINDING]
        comments = [child.TextValue for child in content if _code(child) == _COMMENT]
        regions.append(
            ReadBack(
                str(source.ReferencedSOPInstanceUID),
                int(source.get("ReferencedFrameNumber", 1)),
                _bounds(outlines[0].GraphicData),
                str(names[0]) if names else "",
                " ".join(str(comment) for comment in comments),
            )
        )
    return regions


def regions_of_seg(segmentation: Dataset) -> list[ReadBack]:
    """Bounding boxes of each segment on each source frame of a segmentation, in whole pixels.

    Raises
    ------
    WriteError
        If a frame does not say which image it was drawn on.
    """
    labels = {int(item.SegmentNumber): str(item.SegmentLabel) for item in segmentation.SegmentSequence}
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    regions = []
    for groups, frame in zip(segmentation.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        ys, xs = np.nonzero(frame)
        if not len(ys):
            continue
        derivation = groups.get("DerivationImageSequence") or shared.get("DerivationImageSequence")
        if not derivation:
            raise WriteError("a frame of the segmentation does not say which image it was drawn on")
        source = derivation[0].SourceImageSequence[0]
        identification = groups.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        regions.append(
            ReadBack(
                str(source.ReferencedSOPInstanceUID),
                int(source.get("ReferencedFrameNumber", 1)),
                box,
                labels[int(identification[0].ReferencedSegmentNumber)],
            )
        )
    return regions


def regions_of_gsps(state: Dataset) -> list[ReadBack]:
    """Bounding boxes of the outlines that a presentation state draws, in pixels."""
    layers = {item.GraphicLayer: str(item.get("GraphicLayerDescription") or "") for item in state.GraphicLayerSequence}
    return [
        ReadBack(
            str(source.ReferencedSOPInstanceUID),
            int(source.get("ReferencedFrameNumber", 1)),
            _bounds(outline.GraphicData),
            layers[annotation.GraphicLayer],
        )
        for annotation in state.GraphicAnnotationSequence
        for source in annotation.ReferencedImageSequence
        for outline in annotation.get("GraphicObjectSequence", [])
    ]


def pixel_box(box: Box) -> Box:
    """The outer edges of the pixels whose centres lie inside a box: what a mask of it covers."""
    x0, y0, x1, y1 = (float(np.ceil(value - 0.5)) for value in box)
    return (x0, y0, x1, y1)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _bounds(graphic_data: Iterable[float]) -> Box:
    """Bounding box of the points of a graphic: columns and rows in turn."""
    points = np.asarray(graphic_data, dtype=float).reshape(-1, 2)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _tree(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from _tree(child)


def _code(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue", "")) if names else ""
