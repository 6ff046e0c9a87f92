"""Regions as BINARY Segmentation: a segment a finding, a frame per segment and source frame (PS3.3 A.51, C.8.20)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset

from engine.findings import Region
from sr_writer.codes import LATERALITY, site_of
from sr_writer.context import Context
from sr_writer.drawing import colour_name
from sr_writer.frames import Plane, put_frames
from sr_writer.geometry import FrameGeometry, display_geometry, frame_geometry, with_spacing
from sr_writer.iods import MULTI_FRAME, is_multi_frame
from sr_writer.pixels import SegmentFrames, paint_frames
from sr_writer.slide import TileGeometry, tile_geometry, tile_stand_in
from sr_writer.sources import SourceImage
from sr_writer.text import SHORT_TEXT, clean_line, clean_text
from sr_writer.wording import BOX_ONLY, COMMISSIONING, DISPLAY_CONVENTION, comment, joined, outline_words

_MOST_ALONE: Final = 16


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
        painted = paint_frames(context.reading.findings, [(plane.image, plane.frame) for plane in group])
        for planes, frames in _whole(group, painted):
            results.append(_segmentation(context, planes, frames, len(results)))
    return results


def _whole(planes: Sequence[Plane], frames: SegmentFrames) -> Iterator[tuple[Sequence[Plane], SegmentFrames]]:
    """Take frames apart that viewers cannot.

    Frames of one bit a pixel follow each other without a gap (PS3.5 8.1.1), so that of several the second may begin
    within a byte, and the last be followed by padding. OHIF 3.13.2 shows such frames combed, or loads for ever; of one
    frame alone it makes no mistake. Many, as of an odd-sized volume, stay together all the same: as series of their own
    they would bury the study's images.
    """
    if frames.pixels % 16 == 0 or len(frames.bits) > _MOST_ALONE:
        if frames.bits:
            yield planes, frames
        return
    for finding, plane in sorted(frames.bits, key=lambda key: key[::-1]):
        yield [planes[plane]], frames.alone(finding, plane)


def _groups(context: Context) -> list[list[Plane]]:
    groups: dict[tuple[Any, ...], list[Plane]] = {}
    places: Counter[tuple[Any, ...]] = Counter()
    seen = set()
    for region in context.reading.regions:
        if (region.sop_instance_uid, region.frame) in seen:
            continue
        seen.add((region.sop_instance_uid, region.frame))
        image = context.sources.place(region)
        geometry = frame_geometry(image, region.frame) or tile_geometry(image, region.frame)
        if geometry is None and context.profile.seg_geometry == "patient":
            continue
        plane = Plane(image, region.frame, geometry)
        is_slice = geometry is not None and image.frames == 1 and not is_multi_frame(image.known_class_uid)
        whole = image.series_instance_uid if is_slice else image.sop_instance_uid
        alone = region.frame if image.frames > 1 and not is_multi_frame(image.known_class_uid) else 0
        shape = (whole, alone, image.rows, image.columns, geometry.plane if geometry is not None else None)
        # Two frames at one place (echoes, phases) cannot share a segmentation: the later goes to the next one.
        turn = places[shape, geometry.place] if geometry is not None else 0
        groups.setdefault((*shape, turn), []).append(plane)
        if geometry is not None:
            places[shape, geometry.place] += 1
    return [sorted(group, key=lambda plane: plane.frame) for group in groups.values()]


def _segmentation(context: Context, planes: Sequence[Plane], frames: SegmentFrames, index: int) -> Dataset:
    own_frame_of_reference = context.uids.uid("seg", index, "frame of reference")
    is_placed = planes[0].geometry is not None
    geometries = [
        plane.geometry or display_geometry(plane.image, number, own_frame_of_reference)
        for number, plane in enumerate(planes)
    ]
    if isinstance(planes[0].geometry, FrameGeometry):
        known = {
            plane.image.sop_instance_uid: plane.geometry
            for plane in planes
            if plane.frame == 1 and isinstance(plane.geometry, FrameGeometry)
        }
        series = planes[0].image.series_instance_uid
        slices = (
            known.get(image.sop_instance_uid) or frame_geometry(image, 1)
            for image in context.sources.images
            if image.series_instance_uid == series
        )
        geometries[0] = with_spacing(planes[0].geometry, slices)
    languages = context.profile.languages
    regions = _regions(context, planes)
    drawn = "outlines" if all(region.mask for region in regions) else "boxes"
    content_description = "AI: boxes, not delineations" if drawn == "boxes" else "AI: outlines within boxes"
    if not is_placed:
        content_description = f"AI: {drawn}; planes are a display convention, not a position"
    if context.reading.model.commissioning:
        content_description = f"{COMMISSIONING['en']}; " + (drawn if is_placed else "display plane")
    findings = frames.findings
    result = hd.seg.Segmentation(
        source_images=[_stand_in(planes[0].image, geometries[0])],
        pixel_array=np.ones((1, 1, 1, len(findings)), dtype=np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _describe(context, number, finding, planes) for number, finding in enumerate(findings, 1)
        ],
        content_label="AI_COMMISSIONING" if context.reading.model.commissioning else "AI_FINDINGS",
        content_description=clean_line(content_description),
        **context.common("seg", index, languages, "SEG"),
    )
    _own_dimensions(result, context.uids.uid("seg", index, "dimension organization"))
    if isinstance(planes[0].geometry, TileGeometry):
        result.PatientOrientation = ""  # PS3.3 C.7.6.1: Type 2C of what is not oriented in the patient
    notes = [joined(BOX_ONLY, languages)] if any(region.mask is None for region in regions) else []
    if not is_placed:
        notes.append(joined(DISPLAY_CONVENTION, languages))
    if context.reading.model.commissioning:
        notes.insert(0, joined(COMMISSIONING, languages, " / "))
    result.ImageComments = clean_text("\n".join(notes))
    context.finish(result)  # first, as it looks through all that there is
    put_frames(result, planes, geometries, frames)
    if not is_placed:
        result.pop("DimensionOrganizationType", None)
    return result


def _regions(context: Context, planes: Sequence[Plane]) -> list[Region]:
    frames = {(plane.image.sop_instance_uid, plane.frame) for plane in planes}
    return [region for region in context.reading.regions if (region.sop_instance_uid, region.frame) in frames]


def _describe(context: Context, number: int, index: int, planes: Sequence[Plane]) -> SegmentDescription:
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
        algorithm_type=_algorithm_type(context, index),
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
    words += [outline_words(method, languages) for method in methods]
    return " ".join(words)


def _stand_in(image: SourceImage, geometry: FrameGeometry | TileGeometry) -> Dataset:
    """Make what the library takes for the source: an image whose only frame, of one pixel, is the first plane."""
    if isinstance(geometry, TileGeometry):
        return tile_stand_in(image, geometry)
    measures, orientation, shared, group = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = list(geometry.pixel_spacing)
    measures.SliceThickness = geometry.slice_thickness
    if geometry.spacing_between_slices is not None:
        measures.SpacingBetweenSlices = geometry.spacing_between_slices
    shared.PixelMeasuresSequence = [measures]
    orientation.ImageOrientationPatient = list(geometry.orientation)
    shared.PlaneOrientationSequence = [orientation]
    group.add(geometry.position_group())
    return image.stand_in(
        SOPClassUID=MULTI_FRAME,
        Rows=1,
        Columns=1,
        NumberOfFrames=1,
        FrameOfReferenceUID=geometry.frame_of_reference_uid,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[group],
    )


def _own_dimensions(result: Dataset, uid: str) -> None:
    """Replace the random UID that the library gives to the dimensions (PS3.3 C.7.6.17)."""
    for item in (*result.DimensionOrganizationSequence, *result.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _algorithm_type(context: Context, finding: int) -> SegmentAlgorithmTypeValues:
    """Say whether a person had a hand in it (Segment Algorithm Type, PS3.3 C.8.20.2)."""
    review = context.reading.review
    if review is not None and finding in review.modified:
        return SegmentAlgorithmTypeValues.SEMIAUTOMATIC
    return SegmentAlgorithmTypeValues.AUTOMATIC
