"""Where a frame is in the patient, or where it is shown if it is nowhere (PS3.3 C.7.6.2, C.7.6.16.2)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import Any, Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from sr_writer.sources import SourceImage

_TOLERANCE: Final = 1e-3
_IDENTITY: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class FrameGeometry:
    """The plane of one frame.

    Parameters
    ----------
    frame_of_reference_uid : str
        Empty where the source has none: the plane is then a display convention.
    orientation : tuple of DSfloat
        Direction cosines of row and column (6).
    position : tuple of DSfloat
        Centre of the first pixel, mm (3).
    pixel_spacing : tuple of DSfloat
        Between rows, between columns, mm.
    slice_thickness : DSfloat
        Millimetres.
    spacing_between_slices : DSfloat or None
        Millimetres.
    """

    frame_of_reference_uid: str
    orientation: tuple[DSfloat, ...]
    position: tuple[DSfloat, ...]
    pixel_spacing: tuple[DSfloat, ...]
    slice_thickness: DSfloat
    spacing_between_slices: DSfloat | None

    @property
    def plane(self) -> tuple[Any, ...]:
        """What frames of one segmentation must share."""
        return (self.frame_of_reference_uid, _rounded(self.orientation), _rounded(self.pixel_spacing))

    @property
    def place(self) -> tuple[float, ...]:
        """What no two frames of one segmentation may share."""
        return _rounded(self.position)

    def position_group(self) -> DataElement:
        """Make the functional group of a frame that says where it is (PS3.3 C.7.6.16.2.3)."""
        position = Dataset()
        position.ImagePositionPatient = list(self.position)
        return DataElement("PlanePositionSequence", "SQ", [position])


def decimals(value: Any, count: int) -> tuple[DSfloat, ...]:
    """Read decimal strings; empty unless there are as many as there should be and all are finite."""
    try:
        values = [value] if count == 1 else list(value)
        if len(values) != count or not all(isfinite(float(number)) for number in values):
            return ()
        return tuple(DSfloat(number, auto_format=True) for number in values)
    except (TypeError, ValueError, OverflowError):
        return ()


def first_decimal(value: Any) -> tuple[DSfloat, ...]:
    """Read the first of one or more decimal strings; empty where there is none, or it is no finite number."""
    several = value is not None and not isinstance(value, str) and hasattr(value, "__iter__")
    return decimals(next(iter(value), None) if several else value, 1)


def frame_geometry(image: SourceImage, frame: int) -> FrameGeometry | None:
    """Read a frame's plane from its header.

    Parameters
    ----------
    image : SourceImage
    frame : int
        From 1.

    Returns
    -------
    FrameGeometry or None
        None unless frame of reference, orientation, position and spacing are all there and make sense.
    """
    header = image.header
    frame_of_reference = image.frame_of_reference_uid
    if not frame_of_reference:
        return None
    groups = _functional_groups(header, frame)
    orientation = decimals(_value(header, groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    position = decimals(_value(header, groups, "PlanePositionSequence", "ImagePositionPatient"), 3)
    spacing = decimals(_value(header, groups, "PixelMeasuresSequence", "PixelSpacing"), 2)
    if not (orientation and position and spacing and min(spacing) > 0 and orthonormal(orientation)):
        return None
    thickness = decimals(_value(header, groups, "PixelMeasuresSequence", "SliceThickness"), 1)
    between = decimals(_value(header, groups, "PixelMeasuresSequence", "SpacingBetweenSlices"), 1)
    between_value = between[0] if between and between[0] > 0 else None
    return FrameGeometry(
        frame_of_reference_uid=frame_of_reference,
        orientation=orientation,
        position=position,
        pixel_spacing=spacing,
        slice_thickness=thickness[0] if thickness and thickness[0] > 0 else between_value or DSfloat(1.0),
        spacing_between_slices=between_value,
    )


def display_geometry(image: SourceImage, index: int, frame_of_reference_uid: str) -> FrameGeometry:
    """Make the plane by which viewers show a frame that has no place in the patient.

    Identity orientation, the first frame at the origin, any other one millimetre behind the one before it.

    Parameters
    ----------
    image : SourceImage
    index : int
        Of the frame among those of the segmentation, from 0.
    frame_of_reference_uid : str
        The segmentation's own; never another object's.
    """
    spacing = next(
        (
            numbers
            for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
            if (numbers := decimals(image.header.get(keyword), 2)) and min(numbers) > 0
        ),
        (DSfloat(1.0), DSfloat(1.0)),
    )
    return FrameGeometry(
        frame_of_reference_uid=frame_of_reference_uid,
        orientation=tuple(map(DSfloat, _IDENTITY)),
        position=(DSfloat(0.0), DSfloat(0.0), DSfloat(float(index))),
        pixel_spacing=spacing,
        slice_thickness=DSfloat(1.0),
        spacing_between_slices=DSfloat(1.0),
    )


def with_spacing(geometry: FrameGeometry, series: Iterable[FrameGeometry | None]) -> FrameGeometry:
    """Complete the spacing between slices from the positions of the whole series, where the header leaves it out.

    The segmentation holds few of the slices, and their distances would give a reader a wrong one.
    """
    if geometry.spacing_between_slices is not None:
        return geometry
    row, column = geometry.orientation[:3], geometry.orientation[3:]
    normal, plane = _cross(row, column), geometry.plane
    distances = sorted(
        {
            round(sum(n * p for n, p in zip(normal, other.position, strict=True)), 3)
            for other in series
            if other is not None and other.plane == plane
        }
    )
    gaps = [after - before for before, after in itertools.pairwise(distances)]
    if not gaps or max(gaps) - min(gaps) > _TOLERANCE * 100:
        return geometry
    return replace(geometry, spacing_between_slices=DSfloat(round(sum(gaps) / len(gaps), 4), auto_format=True))


def group_value(header: Dataset, frame: int, sequence: str, keyword: str) -> Any:
    """Look where a frame's value stands: its own functional group, the shared one, the dataset.

    Parameters
    ----------
    header : Dataset
    frame : int
        From 1.
    sequence, keyword : str
        The functional group macro, and the attribute within it.
    """
    return _value(header, _functional_groups(header, frame), sequence, keyword)


def _functional_groups(header: Dataset, frame: int) -> list[Dataset]:
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    groups = [per_frame[frame - 1]] if frame <= len(per_frame) else []
    return [*groups, *(header.get("SharedFunctionalGroupsSequence") or [])]


def _value(header: Dataset, groups: Sequence[Dataset], sequence: str, keyword: str) -> Any:
    for group in groups:
        for item in group.get(sequence) or []:
            if item.get(keyword) is not None:
                return item.get(keyword)
    return header.get(keyword)


def orthonormal(orientation: Sequence[float]) -> bool:
    """Whether a plane's row and column directions are unit vectors at right angles."""
    row, column = orientation[:3], orientation[3:]
    lengths = [sqrt(sum(part * part for part in vector)) for vector in (row, column)]
    cosine = sum(r * c for r, c in zip(row, column, strict=True))
    return all(abs(length - 1) < _TOLERANCE for length in lengths) and abs(cosine) < _TOLERANCE


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _rounded(numbers: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(number), 3) + 0.0 for number in numbers)
