"""The report as PDF pages for people: what was found, where, by which model, and what it is not for.

One language a document. The words are text that can be searched and copied, in a font of which a subset is embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import Final, cast

from fpdf import FPDF, FontFace
from fpdf.enums import MethodReturnValue
from PIL import Image

from engine.findings import Language
from sr_writer.drawing import Colour
from sr_writer.fonts import font_path

_FAMILY: Final = "report"
_MARGIN: Final = 15.0
"""Millimetres, as all lengths here."""
_TEXT: Final = 10.0
"""Points."""
_SMALL: Final = 7.5
_LINE: Final = 5.2
_MOST_LINES: Final = 36
"""In one row of a table, which cannot go on on the next page."""
_BAND: Final[Colour] = (255, 193, 7)
_HEAD: Final[Colour] = (233, 236, 239)
_SINGLE: Final = (150.0, 110.0)
_SIDE_BY_SIDE: Final = (87.0, 100.0)
_GAP: Final = 6.0
_JPEG_QUALITY: Final = 88
_TAGS: Final[dict[Language, str]] = {"en": "en-US", "zh": "zh-CN"}


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and what stands below it: paragraphs, then a table, then pictures with their captions."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    """The first row holds the headings."""
    widths: tuple[int, ...] = ()
    """Of the table's columns, in proportion."""
    pictures: tuple[tuple[Image.Image, str], ...] = ()
    small: bool = False
    """Set in small letters: for those who look into it."""


def report_pdf(
    title: str, warning: str, author: str, language: Language, created: datetime, sections: Sequence[Section]
) -> bytes:
    """Set a report.

    Parameters
    ----------
    title, warning : str
        On every page.
    author : str
        The model, for the document's properties.
    language : Language
    created : datetime
        Timezone aware; the same input gives the same bytes.
    sections : sequence of Section
    """
    pdf = _Pages(title, warning)
    pdf.set_creation_date(created)
    pdf.set_title(title)
    pdf.set_author(author)
    pdf.set_lang(_TAGS[language])
    pdf.add_page()
    for section in sections:
        _set(pdf, section)
    return bytes(pdf.output())


class _Pages(FPDF):
    """A4 with the title and the warning above, and the page's number below."""

    def __init__(self, title: str, warning: str) -> None:
        super().__init__(format="A4")
        self._words = title, warning
        self.set_margin(_MARGIN)
        self.set_auto_page_break(True, _MARGIN + 7)
        self.add_font(_FAMILY, fname=font_path())
        self.set_font(_FAMILY, size=_TEXT)

    def header(self) -> None:
        title, warning = self._words
        self.set_font(_FAMILY, size=14)
        self.multi_cell(0, 8, title, align="L", new_x="LMARGIN", new_y="NEXT")
        self.set_font(_FAMILY, size=_TEXT)
        self.set_fill_color(*_BAND)
        self.multi_cell(0, 7, warning, align="L", fill=True, new_x="LMARGIN", new_y="NEXT")
        self.ln(3)

    def footer(self) -> None:
        self.set_y(-_MARGIN)
        self.set_font(_FAMILY, size=_SMALL)
        self.cell(0, 6, f"{self.page_no()} / {{nb}}", align="C")


def _set(pdf: FPDF, section: Section) -> None:
    pdf.set_font(_FAMILY, size=12)
    # A heading stands on the page of what it heads.
    first_line = max((tall for _, tall in _sizes(section.pictures)[:2]), default=0.0)
    if pdf.will_page_break(first_line + 5 * _LINE):
        pdf.add_page()
    pdf.multi_cell(0, 8, section.heading, align="L", new_x="LMARGIN", new_y="NEXT")
    size, line = (_SMALL, _LINE * _SMALL / _TEXT) if section.small else (_TEXT, _LINE)
    pdf.set_font(_FAMILY, size=size)
    for paragraph in section.paragraphs:
        pdf.multi_cell(0, line, paragraph, align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.ln(1)
    if section.table:
        style = FontFace(fill_color=_HEAD)
        with pdf.table(
            [_fitting(pdf, row, section.widths) for row in section.table],
            col_widths=section.widths,
            headings_style=style,
            line_height=_LINE,
            text_align="LEFT",
            v_align="TOP",
            padding=1,
        ):
            pass
    _set_pictures(pdf, section.pictures)
    pdf.ln(3)


def _fitting(pdf: FPDF, row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Cut cells that would not fit on a page; their words are in the SR in full."""
    cells = []
    for words, width in zip(row, widths, strict=True):
        inner = pdf.epw * width / sum(widths) - 2
        told = pdf.multi_cell(inner, _LINE, words, align="L", dry_run=True, output=MethodReturnValue.LINES)
        lines = cast("list[str]", told)  # what is returned depends on what is asked for
        cells.append(words if len(lines) <= _MOST_LINES else "\n".join([*lines[: _MOST_LINES - 1], "…"]))
    return cells


def _set_pictures(pdf: FPDF, pictures: Sequence[tuple[Image.Image, str]]) -> None:
    """Set pictures with their captions, two beside each other where there are several."""
    across, (widest, _) = _layout(pictures)
    for start in range(0, len(pictures), across):
        line, sizes = pictures[start : start + across], _sizes(pictures)[start : start + across]
        height = max(tall for _, tall in sizes)
        if pdf.will_page_break(height + 3 * _LINE):
            pdf.add_page()
        top, bottom = pdf.get_y(), 0.0
        for place, ((picture, caption), (wide, tall)) in enumerate(zip(line, sizes, strict=True)):
            left = _MARGIN + place * (widest + _GAP)
            pdf.image(_jpeg(picture), x=left, y=top, w=wide, h=tall, alt_text=caption)
            pdf.set_xy(left, top + height + 1)
            pdf.multi_cell(widest, _LINE, caption, align="L", new_x="LMARGIN", new_y="NEXT")
            bottom = max(bottom, pdf.get_y())
        pdf.set_xy(_MARGIN, bottom + 2)


def _layout(pictures: Sequence[tuple[Image.Image, str]]) -> tuple[int, tuple[float, float]]:
    """How many pictures stand beside each other, and how wide and tall each may be."""
    return (1, _SINGLE) if len(pictures) == 1 else (2, _SIDE_BY_SIDE)


def _sizes(pictures: Sequence[tuple[Image.Image, str]]) -> list[tuple[float, float]]:
    _, (widest, tallest) = _layout(pictures)
    scales = [min(widest / picture.width, tallest / picture.height) for picture, _ in pictures]
    return [
        (picture.width * scale, picture.height * scale) for (picture, _), scale in zip(pictures, scales, strict=True)
    ]


def _jpeg(picture: Image.Image) -> BytesIO:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    buffer.seek(0)
    return buffer
