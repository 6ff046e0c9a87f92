"""The frames of a segmentation: which there are, in what order, and what each says of itself (PS3.3 C.7.6.16, C.8.20).

The library makes the object of one plane. Given all of them it would look at each pixel of each segment several times,
and index what nobody asks for; so the frames are added here, after the example that it makes for each segment.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from highdicom.spatial import VOLUME_INDEX_CONVENTION, get_normal_vector, get_volume_positions
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from sr_writer.geometry import FrameGeometry
from sr_writer.pixels import SegmentFrames
from sr_writer.slide import TileGeometry
from sr_writer.sources import SourceImage, unique

_DERIVATION_IMAGE: Final = Tag("DerivationImageSequence")
_DIMENSION_INDEX_VALUES: Final = Tag("DimensionIndexValues")
_FRAME_CONTENT: Final = Tag("FrameContentSequence")
_FRAME_NUMBER: Final = Tag("ReferencedFrameNumber")
_SEGMENT_IDENTIFICATION: Final = Tag("SegmentIdentificationSequence")
_SOP_CLASS: Final = Tag("ReferencedSOPClassUID")
_SOP_INSTANCE: Final = Tag("ReferencedSOPInstanceUID")
_SOURCE_IMAGE: Final = Tag("SourceImageSequence")


@dataclass(frozen=True, slots=True)
class Plane:
    """A source frame that a segmentation covers.

    Parameters
    ----------
    image : SourceImage
    frame : int
        From 1.
    geometry : FrameGeometry or TileGeometry or None
        None where it has no place in the patient or on a slide.
    """

    image: SourceImage
    frame: int
    geometry: FrameGeometry | TileGeometry | None


def put_frames(
    result: Dataset,
    planes: Sequence[Plane],
    geometries: Sequence[FrameGeometry | TileGeometry],
    frames: SegmentFrames,
) -> None:
    """Put frames into what the library made of the first plane.

    Parameters
    ----------
    result : Dataset
        A segmentation with a frame for each segment; changed in place.
    planes : sequence of Plane
    geometries : sequence of FrameGeometry or TileGeometry
        Where each plane is, or is shown; all are of one kind.
    frames : SegmentFrames
    """
    (shared,) = result.SharedFunctionalGroupsSequence
    examples = result.PerFrameFunctionalGroupsSequence
    # Of one segment alone it stands with what is shared; dwv looks in each frame's own group only.
    segments = [(group if _SEGMENT_IDENTIFICATION in group else shared)[_SEGMENT_IDENTIFICATION] for group in examples]
    shared.pop(_SEGMENT_IDENTIFICATION, None)
    covered = sorted({number for _, number in frames.bits})
    slices = [geometry for geometry in geometries if isinstance(geometry, FrameGeometry)]
    tiles = [geometry for geometry in geometries if isinstance(geometry, TileGeometry)]
    indices = _over_slide(tiles, covered) if tiles else _along_normal(slices, covered)
    in_common = {
        number: _plane_groups(planes[number], geometries[number], examples[0][_DERIVATION_IMAGE][0])
        for number in covered
    }
    groups, order = [], []
    for segment, finding in enumerate(frames.findings):
        for number, index in indices.items():
            if (finding, number) not in frames.bits:
                continue
            content = _item(DataElement(_DIMENSION_INDEX_VALUES, "UL", [segment + 1, *index]))
            groups.append(_item(DataElement(_FRAME_CONTENT, "SQ", [content]), segments[segment], *in_common[number]))
            order.append((finding, number))
    result.PerFrameFunctionalGroupsSequence = groups
    result.NumberOfFrames = len(groups)
    result.Rows, result.Columns = planes[0].image.rows, planes[0].image.columns
    result.SegmentsOverlap = "YES" if frames.overlap else "NO"
    result.PixelData = frames.joined(order)
    if slices:
        _measure(result, shared.PixelMeasuresSequence[0], slices, covered)
    _refer(result, planes)


def _along_normal(slices: Sequence[FrameGeometry], covered: Collection[int]) -> dict[int, list[int]]:
    """Give covered planes as they lie behind each other, each with its dimension index (PS3.3 C.7.6.17)."""
    normal = get_normal_vector(slices[0].orientation, index_convention=VOLUME_INDEX_CONVENTION)
    distances = np.array([one.position for one in slices]) @ normal
    return {number: [index] for index, number in enumerate(sorted(covered, key=distances.__getitem__), 1)}


def _over_slide(tiles: Sequence[TileGeometry], covered: Collection[int]) -> dict[int, list[int]]:
    """Give covered tiles row by row, each with its dimension indices: of its row, and of its column."""
    rows = {row: index for index, row in enumerate(sorted({tiles[number].row for number in covered}), 1)}
    columns = {column: index for index, column in enumerate(sorted({tiles[number].column for number in covered}), 1)}
    indices = {number: [rows[tiles[number].row], columns[tiles[number].column]] for number in covered}
    return dict(sorted(indices.items(), key=lambda item: item[1]))


def _plane_groups(
    plane: Plane, geometry: FrameGeometry | TileGeometry, example: Dataset
) -> tuple[DataElement, DataElement]:
    """Make the functional groups that all frames on a plane have in common: where it is, and what it is made of."""
    (example_source,) = example[_SOURCE_IMAGE].value
    of_all = (element for element in example_source if element.tag != _FRAME_NUMBER)
    of_several = [DataElement(_FRAME_NUMBER, "IS", plane.frame)] if plane.image.frames > 1 else []
    source = _item(*of_all, *_reference(plane.image), *of_several)
    derivation = _item(*example, DataElement(_SOURCE_IMAGE, "SQ", [source]))
    return geometry.position_group(), DataElement(_DERIVATION_IMAGE, "SQ", [derivation])


def _reference(image: SourceImage) -> tuple[DataElement, DataElement]:
    return (
        DataElement(_SOP_CLASS, "UI", image.sop_class_uid),
        DataElement(_SOP_INSTANCE, "UI", image.sop_instance_uid),
    )


def _item(*elements: DataElement) -> Dataset:
    """Make an item of elements, of which a later one counts; faster than to set them one by one, and so shared."""
    return Dataset({element.tag: element for element in elements})


def _measure(result: Dataset, measures: Dataset, slices: Sequence[FrameGeometry], covered: Sequence[int]) -> None:
    """Say what the library would of all planes: how far apart they are, and whether the frames are a volume."""
    if slices[0].spacing_between_slices is None:
        measures.pop("SpacingBetweenSlices", None)
        if (spacing := _spacing(slices)) is not None:
            measures.SpacingBetweenSlices = format_number_as_ds(spacing)
    alone = len(result.SegmentSequence) == 1 and len(covered) > 1
    if alone and _spacing([slices[number] for number in covered], sort=False):
        result.DimensionOrganizationType = "3D"


def _spacing(slices: Sequence[FrameGeometry], *, sort: bool = True) -> float | None:
    spacing, _ = get_volume_positions([one.position for one in slices], slices[0].orientation, sort=sort)
    return spacing


def _refer(result: Dataset, planes: Sequence[Plane]) -> None:
    instances = [_item(*_reference(image)) for image in unique(plane.image for plane in planes)]
    result.SourceImageSequence = instances
    result.ReferencedSeriesSequence[0].ReferencedInstanceSequence = instances
