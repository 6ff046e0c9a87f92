"""A reading as DICOM objects: which objects, under which names, as which bytes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from pydicom import dcmwrite
from pydicom.dataset import Dataset

from engine.errors import WriteError
from engine.findings import StudyReading
from sr_writer.context import SERIES, SERIES_NUMBER, Context
from sr_writer.narrative import has_narrative, write_narrative
from sr_writer.profile import OutputProfile, PredecessorRef
from sr_writer.region_sr import write_region_sr
from sr_writer.segmentation import write_segmentations
from sr_writer.sources import Sources


def write_results(
    reading: StudyReading,
    sources: Sequence[Dataset],
    profile: OutputProfile,
    *,
    predecessors: Sequence[PredecessorRef] = (),
) -> list[Dataset]:
    """Write a reading as DICOM objects.

    A pure function: the same reading, headers and profile give the same bytes.

    Parameters
    ----------
    reading : StudyReading
    sources : sequence of Dataset
        Headers of the study's instances, with their file meta information; pixel data is not used.
    profile : OutputProfile
    predecessors : sequence of PredecessorRef
        Results of an earlier run that these supersede.

    Returns
    -------
    list of Dataset
        The main SR first: regions (PS3.16 TID 1500) if there are any, else text (TID 2000). Each is in a series of its
        own.

    Raises
    ------
    WriteError
        If the reading cannot be expressed: a box outside its image, a frame that does not exist, an image that is not
        among the sources, an attribute of patient or study that no valid object can carry.
    """
    context = Context(reading, Sources.from_headers(sources, reading.study_instance_uid), profile, tuple(predecessors))
    first = profile.languages[0]
    has_regions = bool(reading.regions)
    if has_regions and profile.region_sr:
        results = [write_region_sr(context)]
        if profile.narrative_sr:
            results += [
                write_narrative(context, language, f"narrative-{language}")
                for language in profile.languages
                if has_narrative(reading, language)
            ]
    else:
        results = [
            write_narrative(context, language, "sr" if language == first else f"narrative-{language}")
            for language in profile.languages
        ]
    if has_regions and profile.seg:
        results += write_segmentations(context)
    return results


def kind_of(result: Dataset) -> str:
    """Name a result's kind, unique among the results of one reading; used as the stem of its file name.

    Returns
    -------
    str
        ``sr``, ``narrative-en``, ``seg``, ``seg-2`` and so on.

    Raises
    ------
    WriteError
        If the object is not one that `write_results` made.
    """
    number = int(result.get("SeriesNumber") or 0) - SERIES_NUMBER
    if result.get("Modality") == "SEG" and number >= SERIES["seg"]:
        index = number - SERIES["seg"]
        return "seg" if index == 0 else f"seg-{index + 1}"
    for kind, offset in SERIES.items():
        if result.get("Modality") == "SR" and number == offset:
            return kind
    raise WriteError("the object is not a result of this writer")


def dump(result: Dataset) -> bytes:
    """Encode a result as a file (PS3.10), Explicit VR Little Endian; the same result gives the same bytes."""
    buffer = BytesIO()
    dcmwrite(buffer, result, enforce_file_format=True)
    return buffer.getvalue()
