"""A reading as DICOM objects: which objects, under which names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from engine.errors import WriteError
from engine.findings import StudyReading
from sr_writer.context import SERIES, SERIES_NUMBER, SHARED, Context
from sr_writer.encapsulated_pdf import write_pdf
from sr_writer.key_objects import write_key_objects
from sr_writer.narrative import has_narrative, write_narrative
from sr_writer.pictures import Pictures, pictures_of
from sr_writer.presentation_state import write_presentation_states
from sr_writer.profile import OutputProfile, PredecessorRef
from sr_writer.region_sr import write_region_sr
from sr_writer.secondary_capture import write_secondary_captures
from sr_writer.segmentation import write_segmentations
from sr_writer.sources import Sources

_DOCUMENTS: Final = ("sr", "narrative-en", "narrative-zh")
_KINDS: Final = {
    str(SegmentationStorage): "seg",
    str(GrayscaleSoftcopyPresentationStateStorage): "gsps",
    str(ColorSoftcopyPresentationStateStorage): "gsps",
    str(SecondaryCaptureImageStorage): "sc",
    str(EncapsulatedPDFStorage): "pdf",
    str(KeyObjectSelectionDocumentStorage): "kos",
}


def write_results(
    reading: StudyReading,
    sources: Sequence[Dataset],
    profile: OutputProfile,
    *,
    predecessors: Sequence[PredecessorRef] = (),
    pictures: Pictures | None = None,
) -> list[Dataset]:
    """Write a reading as DICOM objects.

    A pure function: the same reading, headers and profile give the same bytes.

    Parameters
    ----------
    reading : StudyReading
    sources : sequence of Dataset
        Headers of the study's instances, with their file meta information.
    profile : OutputProfile
    predecessors : sequence of PredecessorRef
        Results of an earlier run that these supersede.
    pictures : callable, optional
        Renders the source images; without it, those headers are rendered that have their pixels.

    Returns
    -------
    list of Dataset
        The main SR first where the profile has one: regions (PS3.16 TID 1500) if there are any, else text (TID 2000).
        Each is in a series of its own, but for those that share one by their kind (`sr_writer.context.SHARED`).

    Raises
    ------
    WriteError
        If the reading cannot be expressed: a box outside its image, a frame that does not exist, an image that is not
        among the sources, an attribute of patient or study that no valid object can carry. If nothing of what the
        profile wants can be written.
    """
    context = Context(reading, Sources.from_headers(sources, reading.study_instance_uid), profile, tuple(predecessors))
    results = [*_documents(context)]
    if reading.regions and profile.seg:
        results += write_segmentations(context)
    results += _pictured(context, pictures or pictures_of(sources))
    if not results:
        raise WriteError(
            f"the profile {profile.name} leaves no result of this reading",
            advice="Let the profile write SR as well: region_sr or narrative_sr.",
        )
    return results


def _documents(context: Context) -> Iterator[Dataset]:
    """Write the SR: regions first, else text in every language."""
    reading, profile = context.reading, context.profile
    if reading.regions and profile.region_sr:
        yield write_region_sr(context)
        if profile.narrative_sr:
            for language in profile.languages:
                if has_narrative(context, language):
                    yield write_narrative(context, language, f"narrative-{language}")
    elif profile.writes_sr:
        for language in profile.languages:
            kind = "sr" if language == profile.languages[0] else f"narrative-{language}"
            yield write_narrative(context, language, kind)


def _pictured(context: Context, pictures: Pictures) -> Iterator[Dataset]:
    """Write what shows the regions on the images, or points at the images that have some."""
    profile = context.profile
    if profile.presentation_state:
        yield from write_presentation_states(context)
    if profile.secondary_capture:
        yield from write_secondary_captures(context, pictures)
    if profile.pdf:
        yield from write_pdf(context, pictures)
    if profile.key_objects:
        yield from write_key_objects(context)


def kind_of(result: Dataset) -> str:
    """Name a result's kind, unique among the results of one reading; used as the stem of its file name.

    Returns
    -------
    str
        ``sr``, ``narrative-en``, ``seg``, ``seg-2``, ``gsps``, ``sc``, ``pdf``, ``kos`` and so on.

    Raises
    ------
    WriteError
        If the object is not one that `write_results` made.
    """
    number = int(result.get("SeriesNumber") or 0) - SERIES_NUMBER
    kind = _KINDS.get(str(result.get("SOPClassUID")))
    if kind is None:
        kind = next((name for name in _DOCUMENTS if number == SERIES[name]), "")
    index = number - SERIES.get(kind, number + 1)
    if kind in SHARED:
        index += int(result.get("InstanceNumber") or 1) - 1
    if index < 0 or not (kind in _DOCUMENTS) <= (result.get("Modality") == "SR"):
        raise WriteError("the object is not a result of this writer")
    return kind if index == 0 else f"{kind}-{index + 1}"
