"""Regions as SR: Measurement Report (PS3.16 TID 1500), a Planar ROI group (TID 1410) a region.

Comprehensive SR, whose regions lie on images; Comprehensive 3D SR where the profile says so, and for slide microscopy,
whose regions lie in the slide's coordinates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ComprehensiveSR,
    ContainerContentItem,
    ContentSequence,
    FindingSite,
    GraphicTypeValues,
    GraphicTypeValues3D,
    ImageRegion,
    ImageRegion3D,
    LanguageOfContentItemAndDescendants,
    MeasurementReport,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from engine.errors import WriteError
from engine.findings import Language, Region
from sr_writer.codes import LATERALITY, site_of
from sr_writer.context import Context
from sr_writer.image_library import library_entry, name_modalities
from sr_writer.measurements import measurements
from sr_writer.slide import slide_polygon
from sr_writer.sources import SourceImage, unique
from sr_writer.text import clean_text
from sr_writer.wording import comment

LANGUAGE_CODES: Final[dict[Language, Code]] = {
    "en": Code("en-US", "RFC5646", "English (United States)"),
    "zh": Code("zh-CN", "RFC5646", "Chinese (China)"),
}
"""PS3.16 CID 5000."""
_SR_CLASSES: Final = (EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage)
_QUALITATIVE_EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")
_ORIGINAL_SOURCE: Final = CodedConcept.from_code(codes.DCM.OriginalSource)


def write_region_sr(context: Context) -> Dataset:
    """Write every region of a reading.

    Parameters
    ----------
    context : Context
        Its reading has at least one region.

    Returns
    -------
    Dataset
        A Comprehensive SR or Comprehensive 3D SR.

    Raises
    ------
    WriteError
        If a region does not lie on its image.
    """
    languages = context.profile.languages
    groups, images = [], []
    is_3d = context.profile.sr_class == "comprehensive-3d"
    for group, region, image in _groups(context):
        groups.append(group)
        images.append(image)
        is_3d = is_3d or isinstance(region, ImageRegion3D)
    report = MeasurementReport(
        observation_context=context.observation_context(),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(
            CodedConcept.from_code(LANGUAGE_CODES[languages[0]])
        ),
        referenced_images=[library_entry(image) for image in unique(images)],
    )
    root = report[0]
    name_modalities(root, context.sources)
    # The library copies and searches the tree that it is given, which takes most of the time of a report on many
    # slices; what it would find there (every reference is evidence) the gate looks at. So it gets the root alone.
    content, root.ContentSequence = root.ContentSequence, root.ContentSequence[:1]
    result = (Comprehensive3DSR if is_3d else ComprehensiveSR)(
        evidence=context.sources.evidence(),
        content=root,
        is_complete=not context.reading.partial,
        is_final=False,
        is_verified=False,
        previous_versions=predecessors(context),
        **context.common("sr", 0, languages, "SR"),
    )
    context.verify(result)
    result.ContentSequence = content
    result.ContentSequence.extend(_evaluations(context))
    return context.finish(result)


def polyline(region: Region, image: SourceImage) -> np.ndarray:
    """Draw a box as SCOORD does: a closed, axis-aligned POLYLINE of five points (PS3.3 C.18.6).

    Parameters
    ----------
    region : Region
    image : SourceImage

    Returns
    -------
    ndarray of float32, [5, 2]
        (column, row) from the top left corner, clockwise.

    Raises
    ------
    WriteError
        If the box is too small for single precision.
    """
    x0, y0, x1, y1 = region.box
    left, top = np.float32(x0), np.float32(y0)
    right, bottom = np.float32(min(x1, image.columns)), np.float32(min(y1, image.rows))
    if not (left < right and top < bottom):
        raise WriteError(f"a box on {region.sop_instance_uid} is smaller than coordinates can express")
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], dtype=np.float32)


def predecessors(context: Context) -> list[Dataset] | None:
    """Make the references to superseded SR; of what is none (segmentations, pictures) this is no version."""
    references = []
    for predecessor in context.predecessors:
        if predecessor.sop_class_uid not in _SR_CLASSES:
            continue
        reference = Dataset()
        reference.StudyInstanceUID = predecessor.study_instance_uid
        reference.SeriesInstanceUID = predecessor.series_instance_uid
        reference.SOPClassUID = predecessor.sop_class_uid
        reference.SOPInstanceUID = predecessor.sop_instance_uid
        references.append(reference)
    return references or None


def _groups(
    context: Context,
) -> Iterator[tuple[PlanarROIMeasurementsAndQualitativeEvaluations, ImageRegion | ImageRegion3D, SourceImage]]:
    similar = Counter(concept.code for concept in context.concepts)
    for number, (finding, concept) in enumerate(zip(context.reading.findings, context.concepts, strict=True), 1):
        side = finding.laterality if finding.laterality in LATERALITY else concept.laterality
        words = clean_text(comment(context.reading, finding, context.profile.languages))
        for index, region in enumerate(finding.regions):
            image = context.sources.place(region)
            place = _place(region, image)
            numbers = None
            if context.profile.measurements == "num":
                numbers = measurements(finding, region, image, similar[concept.code])
            group = PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=TrackingIdentifier(
                    uid=context.uids.tracking_uid(number, index),
                    identifier=context.tracking_identifier(finding, number),
                ),
                referenced_region=place,
                finding_type=concept.code,
                finding_sites=[
                    FindingSite(
                        anatomic_location=site_of(concept, image.header, context.vocabulary),
                        laterality=LATERALITY.get(side),
                    )
                ],
                algorithm_id=context.identity.algorithm(),
                geometric_purpose=codes.SCT.BoundedBy,
                measurements=numbers,
            )
            group[0].ContentSequence.append(
                TextContentItem(name=codes.DCM.Comment, value=words, relationship_type=RelationshipTypeValues.CONTAINS)
            )
            yield group, place, image


def _evaluations(context: Context) -> ContentSequence:
    """Say the findings that lie nowhere on an image (TID 1500, row 12), where no narrative says them."""
    container = ContainerContentItem(name=_QUALITATIVE_EVALUATIONS, relationship_type=RelationshipTypeValues.CONTAINS)
    container.ContentSequence = ContentSequence()
    for finding, concept in zip(context.reading.findings, context.concepts, strict=True):
        if not finding.regions:
            words = clean_text(comment(context.reading, finding, context.profile.languages))
            contains = RelationshipTypeValues.CONTAINS
            container.ContentSequence.append(
                CodeContentItem(name=codes.DCM.Finding, value=concept.code, relationship_type=contains)
            )
            container.ContentSequence.append(
                TextContentItem(name=codes.DCM.Comment, value=words, relationship_type=contains)
            )
    said = context.profile.narrative_sr or not container.ContentSequence
    return ContentSequence([] if said else [container])


def _place(region: Region, image: SourceImage) -> ImageRegion | ImageRegion3D:
    polygon = slide_polygon(region, image)
    if polygon is not None:
        return ImageRegion3D(
            graphic_type=GraphicTypeValues3D.POLYGON,
            graphic_data=polygon,
            frame_of_reference_uid=image.frame_of_reference_uid,
        )
    source = SourceImageForRegion(
        referenced_sop_class_uid=image.known_class_uid,
        referenced_sop_instance_uid=image.sop_instance_uid,
        referenced_frame_numbers=[region.frame] if image.frames > 1 else None,
    )
    # Viewers look for this name of the item, which is what it is; the library's own is a general "Source".
    source.ConceptNameCodeSequence = [_ORIGINAL_SOURCE]
    return ImageRegion(
        graphic_type=GraphicTypeValues.POLYLINE, graphic_data=polyline(region, image), source_image=source
    )
