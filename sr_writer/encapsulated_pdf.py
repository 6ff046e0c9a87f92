"""The report as Encapsulated PDF (PS3.3 A.45.1, C.24.2), one document a language.

It says what the reading says and no more; nothing of the patient is in it, and the object's header says whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from highdicom.base import SOPClass
from highdicom.sr import CodedConcept
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from engine.findings import Finding, Language
from sr_writer.context import Context
from sr_writer.drawing import draw_marks
from sr_writer.measurements import count_words, size_words
from sr_writer.pictures import Pictures, aspect_of, picture_of
from sr_writer.report_page import Section, report_pdf
from sr_writer.secondary_capture import MAX_CAPTURES, burned_in_annotation, key_frames, marks_on, warning
from sr_writer.sources import SourceImage, unique
from sr_writer.text import clean_line, clean_text
from sr_writer.wording import certainty_words, finding_name, limits, preamble, state_words

LARGEST: Final = 1000
"""Width and height in pixels of a picture on the page."""
_SMALLEST: Final = 400
_LETTERS: Final = 22
"""Lines of letters to a picture: on paper it is half as wide as on a screen."""
_TITLE: Final[dict[Language, str]] = {"en": "AI reading of an imaging study", "zh": "人工智能影像阅读报告"}
_HEADINGS: Final[dict[Language, tuple[str, ...]]] = {
    "en": ("Result", "Findings", "Report", "Images", "How this was made"),
    "zh": ("结果", "发现", "报告", "影像", "生成方式"),
}
_COLUMNS: Final[dict[Language, tuple[str, ...]]] = {
    "en": ("No.", "Finding", "In words", "Certainty", "Images"),
    "zh": ("序号", "名称", "描述", "确信度", "影像"),
}
_WIDTHS: Final = (10, 32, 90, 32, 16)
_CAPTION: Final[dict[Language, str]] = {
    "en": "Image {number}: series {series}, image {image}, frame {frame}",
    "zh": "影像 {number}：序列 {series}，图像 {image}，帧 {frame}",
}
_NOT_SHOWN: Final[dict[Language, str]] = {
    "en": "{count} more images with findings are not shown.",
    "zh": "另有 {count} 幅有发现的影像未显示。",
}


@dataclass(frozen=True, slots=True)
class _Plate:
    """A frame with its regions drawn, their names in each language."""

    image: SourceImage
    frame: int
    drawn: dict[Language, Image.Image]


def write_pdf(context: Context, pictures: Pictures) -> list[Dataset]:
    """Write the report.

    Parameters
    ----------
    context : Context
    pictures : callable
        Renders the frames with regions.

    Returns
    -------
    list of Dataset
        One a language; none where there are regions and no picture of any.

    Raises
    ------
    WriteError
        If a region does not lie on its image.
    """
    frames = key_frames(context)
    plates = list(islice(_plates(context, frames, pictures), MAX_CAPTURES))
    if frames and not plates:
        return []
    return [
        _document(context, language, index, plates, len(frames))
        for index, language in enumerate(context.profile.languages)
    ]


def _plates(context: Context, frames: Sequence[tuple[SourceImage, int]], pictures: Pictures) -> Iterator[_Plate]:
    for image, frame in frames:
        rgb = picture_of(pictures, image.sop_instance_uid, frame)
        if rgb is None:
            continue
        drawn = {
            language: draw_marks(
                rgb,
                marks_on(context, image, frame, (language,)),
                aspect=aspect_of(image.header, frame),
                limit=(LARGEST, LARGEST),
                least=_SMALLEST,
                letters=_LETTERS,
            )
            for language in context.profile.languages
        }
        yield _Plate(image, frame, drawn)


def _document(context: Context, language: Language, index: int, plates: Sequence[_Plate], frames: int) -> Dataset:
    images = unique(plate.image for plate in plates) or [image for image in context.sources.images if image.is_image]
    common = context.common("pdf", index, (language,), "report")
    result = SOPClass(
        study_instance_uid=context.reading.study_instance_uid,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **common,
    )
    result.ConversionType = "WSD"
    result.AcquisitionDateTime = None
    # Where nobody knows what is in the pixels of a source, its picture may name the patient.
    burned_in = {burned_in_annotation(plate.image.header) for plate in plates}
    result.BurnedInAnnotation = "NO" if burned_in <= {"NO"} else "YES"
    result.DocumentTitle = _TITLE[language]
    result.ConceptNameCodeSequence = [CodedConcept.from_code(codes.LN.DiagnosticImagingReport)]
    result.VerificationFlag = "VERIFIED" if context.reading.is_verified else "UNVERIFIED"  # PS3.3 C.24.2
    result.SourceInstanceSequence = [_reference(image) for image in images or context.sources.images]
    content = _pages(context, language, plates, frames)
    result.MIMETypeOfEncapsulatedDocument = "application/pdf"
    result.EncapsulatedDocumentLength = len(content)
    result.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return context.finish(result)


def _pages(context: Context, language: Language, plates: Sequence[_Plate], frames: int) -> bytes:
    reading, identity = context.reading, context.identity
    result, findings, report, images, made = _HEADINGS[language]
    opening = (preamble(reading, language), state_words(reading, language), count_words(context, language))
    sections = [Section(result, tuple(filter(None, (*opening, *limits(reading, language)))))]
    if reading.findings:
        rows = tuple(
            _row(context, number, finding, language, plates) for number, finding in enumerate(reading.findings)
        )
        sections.append(Section(findings, table=(_COLUMNS[language], *rows), widths=_WIDTHS))
    narrative = clean_text(reading.narrative.get(language, ""))
    if narrative:
        sections.append(Section(report, tuple(narrative.split("\r\n"))))
    if plates:
        more = (_NOT_SHOWN[language].format(count=frames - len(plates)),) if frames > len(plates) else ()
        shown = tuple(
            (plate.drawn[language], _caption(plate, number, language)) for number, plate in enumerate(plates, 1)
        )
        sections.append(Section(images, more, pictures=shown))
    model = f"{identity.manufacturer} {identity.name} {identity.version}"
    when = context.local_time.isoformat(" ", "minutes")
    sections.append(Section(made, (f"{model}, {when}", identity.parameters), small=True))
    return report_pdf(_TITLE[language], warning(context, (language,)), model, language, reading.created, sections)


def _row(
    context: Context, number: int, finding: Finding, language: Language, plates: Sequence[_Plate]
) -> tuple[str, ...]:
    places = {(plate.image.sop_instance_uid, plate.frame): place for place, plate in enumerate(plates, 1)}
    on = sorted(
        {places[key] for region in finding.regions if (key := (region.sop_instance_uid, region.frame)) in places}
    )
    sentences = (finding.text.get(language, ""), *finding.notes, size_words(context, finding, language))
    return (
        str(number + 1),
        clean_line(finding_name(finding, language)),
        "\n".join(filter(None, map(clean_text, sentences))),
        certainty_words(finding, language),
        ", ".join(map(str, on)),
    )


def _caption(plate: _Plate, number: int, language: Language) -> str:
    series, instance = (_number(plate.image.header.get(word)) for word in ("SeriesNumber", "InstanceNumber"))
    return _CAPTION[language].format(number=number, series=series, image=instance, frame=plate.frame)


def _reference(image: SourceImage) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
    return item


def _number(value: object) -> str:
    """Give a number of a series or image; a dash where the header has none."""
    return str(value) if isinstance(value, int) else "-"
