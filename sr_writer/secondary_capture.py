"""Pictures as secondary captures: what was found, burned into the frame, for viewers that draw nothing else.

PS3.3 A.8, C.8.6. A picture holds the frame as it is rendered, with square pixels, the regions in the colours of the
segmentation, and below it the findings in words. Nothing of the patient is written into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
from highdicom.sc import SCImage
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SecondaryCaptureImageStorage

from engine.findings import Language
from sr_writer.context import Context
from sr_writer.drawing import WARNING, Colour, Mark, Rgb, colour, draw_marks, with_lines
from sr_writer.geometry import first_decimal
from sr_writer.pictures import Pictures, aspect_of, picture_of
from sr_writer.sources import SourceImage
from sr_writer.text import SHORT_TEXT, clean_line, clean_text
from sr_writer.wording import COMMISSIONING, NOT_FOR_DIAGNOSIS, finding_name, finding_words, joined, limits, state_words

MAX_CAPTURES: Final = 20
"""Key frames that are captured; the last one says how many more have findings."""
LARGEST: Final = 1600
"""Width and height in pixels that a captured frame is reduced to: full resolution is in the source image."""
SMALLEST: Final = 512
"""Width and height that a small frame is enlarged to, so that the words can be read."""
_WORDS: Final[Colour] = (230, 230, 230)
_MORE: Final[dict[Language, str]] = {
    "en": "Image {number} of {shown} shown; {more} more with findings are not shown.",
    "zh": "所示影像第 {number} 幅，共 {shown} 幅；另有 {more} 幅有发现的影像未显示。",
}
_ACQUIRED: Final = frozenset({"CR", "CT", "DX", "MG", "MR", "PT"})
"""Modalities whose pixels come from a detector, so that no words are in them unless the header says so."""


def write_secondary_captures(context: Context, pictures: Pictures) -> list[Dataset]:
    """Write the frames with findings, in the order of the reading.

    A reading without regions is captured only where the profile has no SR to say so: its first frame, with the words
    on how the run ended.

    Parameters
    ----------
    context : Context
    pictures : callable
        Renders the frames; those that it cannot render are left out.

    Returns
    -------
    list of Dataset
        At most `MAX_CAPTURES`.
    """
    frames = key_frames(context)
    rendered = ((image, frame, picture_of(pictures, image.sop_instance_uid, frame)) for image, frame in frames)
    shown: Iterator[tuple[SourceImage, int, Rgb]]
    shown = ((image, frame, rgb) for image, frame, rgb in rendered if rgb is not None)
    if not frames and not context.profile.writes_sr:
        shown = iter([_first_frame(context, pictures)])
    return [
        _capture(context, image, frame, _draw(context, image, frame, rgb, index, len(frames)), index)
        for index, (image, frame, rgb) in enumerate(islice(shown, MAX_CAPTURES))
    ]


def _first_frame(context: Context, pictures: Pictures) -> tuple[SourceImage, int, Rgb]:
    """Give the first frame that was read, or of a study that was not its first; black where it cannot be rendered."""
    read = [(context.sources.image(item.sop_instance_uid), item.frame) for item in context.reading.images[:1]]
    image, frame = (read or [(image, 1) for image in context.sources.images])[0]
    rgb = picture_of(pictures, image.sop_instance_uid, frame)
    return image, frame, np.zeros((SMALLEST, SMALLEST, 3), np.uint8) if rgb is None else rgb


def _draw(context: Context, image: SourceImage, frame: int, rgb: Rgb, index: int, frames: int) -> Image.Image:
    languages = context.profile.languages
    marked = draw_marks(
        rgb,
        marks_on(context, image, frame, languages),
        aspect=aspect_of(image.header, frame),
        limit=(LARGEST, LARGEST),
        least=SMALLEST,
    )
    marked = with_lines(marked, [(warning(context, languages), WARNING)], above=True)
    return with_lines(marked, [*_legend(context, image, frame), *_more(context, index + 1, frames)])


def key_frames(context: Context) -> list[tuple[SourceImage, int]]:
    """List the frames with regions, each once, in the order of the reading.

    Raises
    ------
    WriteError
        If a region does not lie on its image.
    """
    frames = {
        (region.sop_instance_uid, region.frame): (context.sources.place(region), region.frame)
        for region in context.reading.regions
    }
    return list(frames.values())


def marks_on(context: Context, image: SourceImage, frame: int, languages: tuple[Language, ...]) -> list[Mark]:
    """Give what is drawn on a frame: its regions, named in the languages given unless the profile wants boxes alone."""
    named = context.profile.sc_style == "labelled"
    return [
        Mark(region.box, region_name(context, index, languages) if named else "", colour(index), region.mask)
        for index, finding in enumerate(context.reading.findings)
        for region in finding.regions
        if (region.sop_instance_uid, region.frame) == (image.sop_instance_uid, frame)
    ]


def region_name(context: Context, index: int, languages: tuple[Language, ...]) -> str:
    """Name a finding beside its box: its number and its name in each language."""
    finding = context.reading.findings[index]
    names = dict.fromkeys(finding_name(finding, language) for language in languages)
    return clean_line(f"{index + 1} {' / '.join(names)}")


def warning(context: Context, languages: tuple[Language, ...]) -> str:
    """Say what a result is not for."""
    words = joined(NOT_FOR_DIAGNOSIS, languages, " | ")
    return f"{words} | {joined(COMMISSIONING, languages, ' | ')}" if context.reading.model.commissioning else words


def _legend(context: Context, image: SourceImage, frame: int) -> Iterator[tuple[str, Colour]]:
    """Say the frame's findings in words; on a frame without regions, how the run ended and what was found anywhere."""
    reading, languages = context.reading, context.profile.languages
    here = {
        index
        for index, finding in enumerate(reading.findings)
        for region in finding.regions
        if (region.sop_instance_uid, region.frame) == (image.sop_instance_uid, frame)
    }
    if not here:
        for language in languages:
            for words in (state_words(reading, language), *limits(reading, language)):
                yield clean_line(words, SHORT_TEXT), _WORDS
        here = set(range(len(reading.findings)))
    if not context.profile.writes_sr:  # what lies nowhere on an image would be said nowhere
        here |= {index for index, finding in enumerate(reading.findings) if not finding.regions}
    if context.profile.sc_style == "labelled":
        for index in sorted(here):
            words = " | ".join(finding_words(reading.findings[index], language) for language in languages)
            yield clean_line(f"{index + 1} {words}", SHORT_TEXT), colour(index)
    identity = context.identity
    yield clean_line(f"{identity.manufacturer} {identity.name} {identity.version}"), _WORDS


def _more(context: Context, number: int, frames: int) -> Iterator[tuple[str, Colour]]:
    if frames > MAX_CAPTURES:
        for language in context.profile.languages:
            yield (
                _MORE[language].format(number=number, shown=MAX_CAPTURES, more=frames - MAX_CAPTURES),
                WARNING,
            )


def _capture(context: Context, image: SourceImage, frame: int, picture: Image.Image, index: int) -> Dataset:
    common = context.common("sc", index, context.profile.languages, "picture")
    result = SCImage(
        pixel_array=np.asarray(picture),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=image.study_instance_uid,
        **common,
    )
    # The library wants an orientation; which one the picture has, only the source can say.
    result.PatientOrientation = _orientation(image.header)
    result.PixelData += b"\0" * (len(result.PixelData) % 2)
    result.Laterality = laterality(image.header)
    result.DateOfSecondaryCapture, result.TimeOfSecondaryCapture = common["content_date"], common["content_time"]
    result.DerivationDescription = clean_text("AI findings burned into the rendered image; scaled.", SHORT_TEXT)
    result.SourceImageSequence = [_source(image, frame)]
    burned_in = burned_in_annotation(image.header)
    if burned_in is not None:
        result.BurnedInAnnotation = burned_in
    if str(image.header.get("LossyImageCompression") or "") == "01":
        result.LossyImageCompression = "01"  # once lossy, always lossy (PS3.3 C.7.6.1.1.5)
        ratios = first_decimal(image.header.get("LossyImageCompressionRatio"))
        if ratios and ratios[0] > 0:
            result.LossyImageCompressionRatio = ratios[0]
    return context.finish(result)


def laterality(header: Dataset) -> str:
    """Side of the body that the source tells; empty where it does not: it may be a paired part (PS3.3 C.7.3.1)."""
    sides = (str(header.get(keyword) or "") for keyword in ("Laterality", "ImageLaterality"))
    return next((side for side in sides if side in ("L", "R")), "")


def burned_in_annotation(header: Dataset) -> str | None:
    """Say whether words of the patient's are in a frame's pixels; None where nobody knows.

    The writer burns none in, so a picture holds what its source does.
    """
    told = str(header.get("BurnedInAnnotation") or "")
    if told in ("YES", "NO"):
        return told
    captured = f"{header.get('SOPClassUID')}.".startswith(f"{SecondaryCaptureImageStorage}.")  # a film, a screen
    return "NO" if str(header.get("Modality") or "") in _ACQUIRED and not captured else None


def _source(image: SourceImage, frame: int) -> Dataset:
    """Refer to the frame that a picture was made of (PS3.3 C.12.4.1.2)."""
    item = Dataset()
    item.ReferencedSOPClassUID = image.sop_class_uid
    item.ReferencedSOPInstanceUID = image.sop_instance_uid
    if image.frames > 1:
        item.ReferencedFrameNumber = frame
    purpose = Dataset()
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = code.value, "DCM", code.meaning
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _orientation(header: Dataset) -> Any:
    """Copy Patient Orientation (PS3.3 C.7.6.1.1.1) where it is one, else leave it empty: it is type 2."""
    value = header.get("PatientOrientation")
    words = [str(word) for word in value] if value is not None and not isinstance(value, str) else []
    return words if len(words) == 2 and all(set(word) <= set("AFHLPR") and word for word in words) else None
