"""Regions as BINARY Segmentation: a segment a finding, a frame per segment and source frame (PS3.3 A.51, C.8.20)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset

from engine.findings import Region
from sr_writer.codes import LATERALITY, site_of
from sr_writer.context import Context
from sr_writer.drawing import colour_name
from sr_writer.geometry import FrameGeometry, display_geometry, frame_geometry, with_spacing
from sr_writer.iods import is_multi_frame
from sr_writer.pixels import Pixels, paint
from sr_writer.sources import SourceImage
from sr_writer.text import SHORT_TEXT, clean_line, clean_text
from sr_writer.wording import BOX_ONLY, COMMISSIONING, DISPLAY_CONVENTION, REFINED, comment, joined

_MOST_ALONE: Final = 16
_Segment = tuple[int, Pixels]
"""Index of a finding, and its pixels [planes, rows, columns]."""


@dataclass(frozen=True, slots=True)
class _Plane:
    """A source frame that a segmentation covers."""

    image: SourceImage
    frame: int
    geometry: FrameGeometry | None


def write_segmentations(context: Context) -> list[Dataset]:
    """Write the pixels of every region.

    Frames that share a plane and differ in place go together: the slices of a series, the frames of an instance. What
    has no place in the patient goes by instance.

    Returns
    -------
    list of Dataset
        One segmentation a group of frames, see `_whole`; none if no region covers a pixel's centre.
    """
    results: list[Dataset] = []
    for group in _groups(context):
        for planes, segments in _whole(group, list(_segments(context, group))):
            results.append(_segmentation(context, planes, segments, len(results)))
    return results


def _whole(planes: Sequence[_Plane], segments: Sequence[_Segment]) -> Iterator[tuple[Sequence[_Plane], list[_Segment]]]:
    """Take frames apart that viewers cannot.

    Frames of one bit a pixel follow each other without a gap (PS3.5 8.1.1), so that of several the second may begin
    within a byte, and the last be followed by padding. OHIF 3.13.2 shows such frames combed, or loads for ever; of one
    frame alone it makes no mistake. Many, as of an odd-sized volume, stay together all the same: as series of their own
    they would bury the study's images.
    """
    frames = [(int(number), index) for index, pixels in segments for number in np.flatnonzero(pixels.any(axis=(1, 2)))]
    image = planes[0].image
    if image.rows * image.columns % 16 == 0 or len(frames) > _MOST_ALONE:
        if segments:
            yield planes, list(segments)
        return
    pixels_of = dict(segments)
    for number, index in sorted(frames):
        yield [planes[number]], [(index, pixels_of[index][[number]])]


def _groups(context: Context) -> list[list[_Plane]]:
    groups: dict[tuple[Any, ...], list[_Plane]] = {}
    seen = set()
    for region in context.reading.regions:
        if (region.sop_instance_uid, region.frame) in seen:
            continue
        seen.add((region.sop_instance_uid, region.frame))
        image = context.sources.place(region)
        geometry = frame_geometry(image, region.frame)
        if geometry is None and context.profile.seg_geometry == "patient":
            continue
        plane = _Plane(image, region.frame, geometry)
        is_slice = geometry is not None and image.frames == 1 and not is_multi_frame(image.known_class_uid)
        whole = image.series_instance_uid if is_slice else image.sop_instance_uid
        alone = region.frame if image.frames > 1 and not is_multi_frame(image.known_class_uid) else 0
        shape = (whole, alone, image.rows, image.columns, geometry.plane if geometry is not None else None)
        for turn in range(len(seen)):
            # Two frames at one place (echoes, phases) cannot share a segmentation: the later goes to the next one.
            group = groups.setdefault((*shape, turn), [])
            if geometry is None or all(other.geometry and other.geometry.place != geometry.place for other in group):
                group.append(plane)
                break
    return [sorted(group, key=lambda plane: plane.frame) for group in groups.values()]


def _segmentation(context: Context, planes: Sequence[_Plane], segments: Sequence[_Segment], index: int) -> Dataset:
    own_frame_of_reference = context.uids.uid("seg", index, "frame of reference")
    is_placed = planes[0].geometry is not None
    geometries = [
        plane.geometry or display_geometry(plane.image, number, own_frame_of_reference)
        for number, plane in enumerate(planes)
    ]
    if is_placed:
        series = [
            image
            for image in context.sources.images
            if image.series_instance_uid == planes[0].image.series_instance_uid
        ]
        geometries[0] = with_spacing(geometries[0], series)
    languages = context.profile.languages
    content_description = "AI: boxes, not delineations"
    if not is_placed:
        content_description = "AI: boxes; planes are a display convention, not a position"
    if context.reading.model.commissioning:
        content_description = f"{COMMISSIONING['en']}; " + ("boxes" if is_placed else "display plane")
    result = hd.seg.Segmentation(
        source_images=_source_images(planes, geometries),
        pixel_array=_pixel_array([pixels for _, pixels in segments]),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _describe(context, number, finding, planes) for number, (finding, _) in enumerate(segments, 1)
        ],
        content_label="AI_COMMISSIONING" if context.reading.model.commissioning else "AI_FINDINGS",
        content_description=clean_line(content_description),
        **context.common("seg", index, languages, "SEG"),
    )
    _number_frames(result, planes)
    _own_dimensions(result, context.uids.uid("seg", index, "dimension organization"))
    if not is_placed:
        result.pop("DimensionOrganizationType", None)
    notes = [joined(BOX_ONLY, languages)] if any(region.mask is None for region in context.reading.regions) else []
    if not is_placed:
        notes.append(joined(DISPLAY_CONVENTION, languages))
    if context.reading.model.commissioning:
        notes.insert(0, joined(COMMISSIONING, languages, " / "))
    result.ImageComments = clean_text("\n".join(notes))
    return context.finish(result)


def _segments(context: Context, planes: Sequence[_Plane]) -> Iterator[_Segment]:
    """Paint each finding that has pixels on these planes: its index and [planes, rows, columns]."""
    number_of = {(plane.image.sop_instance_uid, plane.frame): number for number, plane in enumerate(planes)}
    image = planes[0].image
    for index, finding in enumerate(context.reading.findings):
        here = [region for region in finding.regions if (region.sop_instance_uid, region.frame) in number_of]
        if not here:
            continue
        pixels = np.zeros((len(planes), image.rows, image.columns), dtype=np.bool_)
        for region in here:
            paint(region, image, pixels[number_of[region.sop_instance_uid, region.frame]])
        if pixels.any():
            yield index, pixels


def _pixel_array(segments: Sequence[Pixels]) -> np.ndarray:
    """Stack segments: as a label map if none overlaps another, which is much faster, else one channel a segment."""
    labels = np.zeros(segments[0].shape, dtype=np.uint8 if len(segments) < 256 else np.uint16)
    for number, pixels in enumerate(segments, 1):
        if labels[pixels].any():
            return np.stack(segments, axis=-1).astype(np.uint8)
        labels[pixels] = number
    return labels


def _describe(context: Context, number: int, index: int, planes: Sequence[_Plane]) -> SegmentDescription:
    finding, concept = context.reading.findings[index], context.concepts[index]
    languages = context.profile.languages
    names = " / ".join(dict.fromkeys(finding.names.get(language) or finding.label for language in languages))
    frames = {(plane.image.sop_instance_uid, plane.frame) for plane in planes}
    here = [
        (place, region)
        for place, region in enumerate(finding.regions)
        if (region.sop_instance_uid, region.frame) in frames
    ]
    description = SegmentDescription(
        segment_number=number,
        segment_label=clean_line(names) or "finding",
        segmented_property_category=concept.category,
        segmented_property_type=concept.code,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=context.identity.algorithm_sequence(),
        # One region: the same UID as its group in the region SR, so that the two can be joined.
        tracking_uid=context.uids.tracking_uid(index + 1, here[0][0] if len(here) == 1 else None),
        tracking_id=context.tracking_identifier(finding, index + 1),
        display_color=hd.color.CIELabColor.from_string(colour_name(index)),
    )
    site = hd.sr.CodedConcept.from_code(site_of(concept, planes[0].image.header, context.vocabulary))
    side = finding.laterality if finding.laterality in LATERALITY else concept.laterality
    if side in LATERALITY:
        site.AnatomicRegionModifierSequence = [hd.sr.CodedConcept.from_code(LATERALITY[side])]
    description.AnatomicRegionSequence = [site]
    words = [
        _made_by(regions=[region for _, region in here], languages=languages),
        comment(context.reading, finding, languages),
    ]
    description.SegmentDescription = clean_text(" ".join(words), SHORT_TEXT)
    return description


def _made_by(regions: Sequence[Region], languages: tuple[Any, ...]) -> str:
    methods = dict.fromkeys(region.mask.method for region in regions if region.mask is not None)
    words = [joined(BOX_ONLY, languages)] if any(region.mask is None for region in regions) else []
    words += [joined(REFINED, languages).format(method=method) for method in methods]
    return " ".join(words)


def _source_images(planes: Sequence[_Plane], geometries: Sequence[FrameGeometry]) -> list[Dataset]:
    """Make what the library takes for the source images: the planes in their order, and nothing else.

    A multi-frame source becomes one that has only the frames in question; `_number_frames` puts their numbers back.
    """
    first = geometries[0]
    measures = Dataset()
    measures.PixelSpacing = list(first.pixel_spacing)
    measures.SliceThickness = first.slice_thickness
    if first.spacing_between_slices is not None:
        measures.SpacingBetweenSlices = first.spacing_between_slices
    if is_multi_frame(planes[0].image.known_class_uid):
        shared = Dataset()
        shared.PixelMeasuresSequence = [measures]
        orientation = Dataset()
        orientation.ImageOrientationPatient = list(first.orientation)
        shared.PlaneOrientationSequence = [orientation]
        groups = []
        for geometry in geometries:
            position, group = Dataset(), Dataset()
            position.ImagePositionPatient = list(geometry.position)
            group.PlanePositionSequence = [position]
            groups.append(group)
        return [
            planes[0].image.stand_in(
                FrameOfReferenceUID=first.frame_of_reference_uid,
                NumberOfFrames=len(planes),
                SharedFunctionalGroupsSequence=[shared],
                PerFrameFunctionalGroupsSequence=groups,
            )
        ]
    return [
        plane.image.stand_in(
            FrameOfReferenceUID=first.frame_of_reference_uid,
            ImageOrientationPatient=list(first.orientation),
            ImagePositionPatient=list(geometry.position),
            **{element.keyword: element.value for element in measures},
        )
        for plane, geometry in zip(planes, geometries, strict=True)
    ]


def _number_frames(result: Dataset, planes: Sequence[_Plane]) -> None:
    """Refer to the source's own frame numbers instead of the stand-in's; to no frame where there is only one."""
    references = {
        # Segments on one plane share the library's item; each is to be numbered once.
        id(source): source
        for group in result.PerFrameFunctionalGroupsSequence
        for derivation in group.DerivationImageSequence
        for source in derivation.SourceImageSequence
    }
    for source in references.values():
        number = int(source.get("ReferencedFrameNumber") or 1)
        if planes[0].image.frames > 1:
            source.ReferencedFrameNumber = planes[number - 1].frame
        elif "ReferencedFrameNumber" in source:
            del source.ReferencedFrameNumber


def _own_dimensions(result: Dataset, uid: str) -> None:
    """Replace the random UID that the library gives to the dimensions (PS3.3 C.7.6.17)."""
    for item in (*result.DimensionOrganizationSequence, *result.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
