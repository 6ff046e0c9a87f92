"""Where a frame lies in the patient, how large its pixels and its findings are: in mm, from headers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engine.findings import Box, Region

__all__ = ["Basis", "Extent", "Plane", "Spacing", "extent_of", "position_of", "spacing_of", "thickness_of"]

Basis = Literal["image plane", "calibrated", "detector"]
"""What a size in mm is true of: the patient in the plane of a slice; the patient where an object or the beam's geometry
was measured; or the detector's face, which shows the patient magnified by an unknown amount (PS3.3 10.7.1.3)."""

Vector = npt.NDArray[np.float64]

_CENTIMETRES: Final = 3  # Physical Units X/Y Direction (PS3.3 C.8.5.5.1.15)
_PARALLEL: Final = 1e-4  # the sine of the angle by which orientations of one stack may differ through rounding
_SQUARE: Final = 1e-3  # the cosine of the angle between a plane's rows and columns


@dataclass(frozen=True, slots=True)
class Spacing:
    """Size of a frame's pixels.

    Parameters
    ----------
    row_mm : float
        From one row to the next: the first value of Pixel Spacing.
    column_mm : float
        From one column to the next.
    basis : Basis
    """

    row_mm: float
    column_mm: float
    basis: Basis


@dataclass(frozen=True, eq=False, slots=True)
class Plane:
    """Where a frame lies in its frame of reference (PS3.3 C.7.6.2).

    Parameters
    ----------
    origin : ndarray of float64, [3]
        Centre of the first pixel, mm.
    right, down : ndarray of float64, [3]
        Unit vectors towards greater columns and greater rows.
    spacing : Spacing or None
        None where the header tells no size of its pixels.
    """

    origin: Vector
    right: Vector
    down: Vector
    spacing: Spacing | None

    @property
    def normal(self) -> Vector:
        """Unit vector across the plane: right x down."""
        return np.cross(self.right, self.down)

    @property
    def place(self) -> float:
        """Distance of the plane along its normal, mm; slices of one stack are ordered by it."""
        return float(self.origin @ self.normal)

    def parallel(self, other: Plane) -> bool:
        """Whether both planes have the same orientation, rounding aside."""
        one, two = np.cross(self.right, other.right), np.cross(self.down, other.down)
        same_way = self.right @ other.right > 0 and self.down @ other.down > 0
        return bool(same_way and math.hypot(*one) < _PARALLEL and math.hypot(*two) < _PARALLEL)

    def corners(self, box: Box) -> Vector:
        """Return the corners of a box in the SCOORD frame as points in the patient, mm: [4, 3].

        SCOORD counts from the outer corner of the first pixel, the origin is its centre (PS3.3 C.18.6). Pixels of
        unknown size count as 1 mm: good for comparing slices, not for measuring.
        """
        x0, y0, x1, y1 = box
        row_mm, column_mm = (self.spacing.row_mm, self.spacing.column_mm) if self.spacing else (1.0, 1.0)
        across = (np.array([x0, x1, x0, x1]) - 0.5) * column_mm
        along = (np.array([y0, y0, y1, y1]) - 0.5) * row_mm
        corners: Vector = self.origin + np.outer(across, self.right) + np.outer(along, self.down)
        return corners


@dataclass(frozen=True, slots=True)
class Extent:
    """How large a finding is, along the edges of its box.

    Parameters
    ----------
    columns_mm, rows_mm : float
        From the first column's outer edge to the last one's, and the same of the rows, over all slices.
    depth_mm : float or None
        Across the slices; None where the finding is on one slice, which tells no depth.
    basis : Basis
    """

    columns_mm: float
    rows_mm: float
    depth_mm: float | None
    basis: Basis


def spacing_of(header: Dataset, frame: int = 1) -> Spacing | None:
    """Return the size of a frame's pixels, None where the header does not tell it (PS3.3 10.7.1.3).

    Parameters
    ----------
    header : pydicom.dataset.Dataset
    frame : int
        Frame number, from 1.
    """
    measures = _group(header, "PixelMeasuresSequence", frame)
    pixels = _pair(measures.get("PixelSpacing")) or _pair(header.get("PixelSpacing"))
    if _slices(header, frame):
        return Spacing(*pixels, "image plane") if pixels else None
    detector = _pair(header.get("ImagerPixelSpacing")) or _pair(header.get("NominalScannedPixelSpacing"))
    if pixels:
        # Without a word about the calibration, equal values are the detector's own, and so are those of an image that
        # does not tell the detector's: nothing says that they were corrected.
        calibrated = bool(header.get("PixelSpacingCalibrationType")) or (detector is not None and detector != pixels)
        return Spacing(*pixels, "calibrated" if calibrated else "detector")
    if detector:
        return Spacing(*detector, "detector")
    return _ultrasound(header)


def position_of(header: Dataset, frame: int = 1) -> Plane | None:
    """Return where a frame lies in the patient, None for an image that is no slice (PS3.3 C.7.6.2, C.7.6.16.2.3)."""
    told = _slices(header, frame)
    if told is None:
        return None
    origin, axes = told
    right, down = axes[:3], axes[3:]
    lengths = math.hypot(*right), math.hypot(*down)
    if min(lengths) < 0.5 or abs(float(right @ down)) > _SQUARE * lengths[0] * lengths[1]:
        return None
    return Plane(origin, right / lengths[0], down / lengths[1], spacing_of(header, frame))


def thickness_of(header: Dataset, frame: int = 1) -> float | None:
    """Slice thickness in mm (PS3.3 C.7.6.2.1, C.7.6.16.2.1); None where it is not told."""
    told = _group(header, "PixelMeasuresSequence", frame).get("SliceThickness") or header.get("SliceThickness")
    return value[0] if (value := _numbers([told], 1)) is not None and value[0] > 0 else None


def extent_of(regions: Several[Region], headers: Mapping[str, Dataset]) -> Extent | None:
    """Measure a finding.

    On the slices of one stack it is the box around all its regions, in the patient's millimetres: slices may come in
    any order, lie oblique, be shifted against one another, and have gaps. Each end slice adds half its slab: its
    thickness, or the distance to its neighbour where slices overlap. On a projection it is the box around the regions
    of one frame.

    Parameters
    ----------
    regions : sequence of Region
    headers : mapping of str to pydicom.dataset.Dataset
        Header by SOP Instance UID.

    Returns
    -------
    Extent or None
        None where a header is missing or tells no sizes, or the regions lie in no common stack.
    """
    known = [(region, headers[region.sop_instance_uid]) for region in regions if region.sop_instance_uid in headers]
    if not known or len(known) < len(regions):
        return None
    planes = [position_of(header, region.frame) for region, header in known]
    stack = [plane for plane in planes if plane is not None]
    if len(stack) < len(planes):
        return _flat(regions, known[0][1])
    frames_of_reference = {str(header.get("FrameOfReferenceUID") or "") for _, header in known}
    first = stack[0]
    parallel = all(plane.spacing and first.parallel(plane) for plane in stack)
    if first.spacing is None or len(frames_of_reference) > 1 or not parallel:
        return None
    points = np.concatenate([plane.corners(region.box) for (region, _), plane in zip(known, stack, strict=True)])
    across, along = points @ first.right, points @ first.down
    slabs = [
        (float(plane.origin @ first.normal), thickness_of(header, region.frame))
        for (region, header), plane in zip(known, stack, strict=True)
    ]
    return Extent(float(np.ptp(across)), float(np.ptp(along)), _depth(slabs), first.spacing.basis)


def _depth(slabs: Several[tuple[float, float | None]]) -> float | None:
    """From the outer face of the first slab to that of the last; slabs are (place, thickness) in mm."""
    thickness = dict(slabs)
    places = sorted(thickness)
    if len(places) < 2:
        return None
    ends = ((places[0], places[1] - places[0]), (places[-1], places[-1] - places[-2]))
    outer = [min(thickness[place] or step, step) / 2 for place, step in ends]
    return places[-1] - places[0] + sum(outer)


def _flat(regions: Several[Region], header: Dataset) -> Extent | None:
    if len({(region.sop_instance_uid, region.frame) for region in regions}) > 1:
        return None
    if (spacing := spacing_of(header, regions[0].frame)) is None:
        return None
    boxes = np.array([region.box for region in regions])
    width = float(boxes[:, 2].max() - boxes[:, 0].min())
    height = float(boxes[:, 3].max() - boxes[:, 1].min())
    return Extent(width * spacing.column_mm, height * spacing.row_mm, None, spacing.basis)


def _slices(header: Dataset, frame: int) -> tuple[Vector, Vector] | None:
    """Image Position and Image Orientation (Patient), from the functional groups or the image itself."""
    origin = _numbers(
        _group(header, "PlanePositionSequence", frame).get("ImagePositionPatient")
        or header.get("ImagePositionPatient"),
        3,
    )
    axes = _numbers(
        _group(header, "PlaneOrientationSequence", frame).get("ImageOrientationPatient")
        or header.get("ImageOrientationPatient"),
        6,
    )
    return None if origin is None or axes is None else (origin, axes)


def _group(header: Dataset, keyword: str, frame: int) -> Dataset:
    """A functional group macro's item for a frame, its own before the shared one (PS3.3 C.7.6.16.1); else empty."""
    own = _items(header, "PerFrameFunctionalGroupsSequence")[frame - 1 : frame]
    shared = _items(header, "SharedFunctionalGroupsSequence")[:1]
    return next((macro[0] for item in own + shared if (macro := _items(item, keyword))), Dataset())


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = dataset.get(keyword)
    return list(value) if isinstance(value, Sequence) else []  # anything else is a damaged header


def _ultrasound(header: Dataset) -> Spacing | None:
    """The calibration of an ultrasound image whose regions all have the same one, in cm (PS3.3 C.8.5.5)."""
    scales: set[tuple[float, float]] = set()
    for region in _items(header, "SequenceOfUltrasoundRegions"):
        if {region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")} != {_CENTIMETRES}:
            return None
        scale = _pair([region.get("PhysicalDeltaY"), region.get("PhysicalDeltaX")])
        if scale is None:
            return None
        scales.add(scale)
    if len(scales) != 1:
        return None
    row, column = scales.pop()
    return Spacing(row * 10, column * 10, "calibrated")


def _pair(values: object) -> tuple[float, float] | None:
    numbers = _numbers(values, 2)
    if numbers is None:
        return None
    row, column = abs(float(numbers[0])), abs(float(numbers[1]))  # PhysicalDelta may be negative: a direction
    return (row, column) if row > 0 and column > 0 else None


def _numbers(values: object, count: int) -> Vector | None:
    """So many finite numbers, or None: headers hold anything."""
    try:
        numbers = np.array([float(value) for value in values], np.float64)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None
    return numbers if numbers.shape == (count,) and bool(np.isfinite(numbers).all()) else None
