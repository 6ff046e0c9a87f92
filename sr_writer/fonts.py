"""The font of everything that is drawn: it comes with a package, so that no result depends on a system's fonts."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

import pylopdf_fonts_zh_cn
from PIL import ImageFont

_HAN: Final = "⺀-〿㐀-鿿豈-﫿＀-￯"
# A line may end after each Chinese character, but not before closing punctuation; after a Latin word only at a blank.
_CLOSING: Final = "、。，．：；！？）》」』】〉"
_PIECES: Final = re.compile(rf"[{_HAN}][{_CLOSING}]*|[^\s{_HAN}]+[{_CLOSING}]*|\s+")


def font_path() -> Path:
    """Find Noto Sans SC: Latin and the whole of simplified Chinese, under the SIL Open Font License."""
    return pylopdf_fonts_zh_cn.sans_path()


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font at a size in pixels."""
    # The basic layout is the same wherever Pillow runs; the other one is there or not.
    return ImageFont.truetype(font_path(), size, layout_engine=ImageFont.Layout.BASIC)


def wrapped(words: str, size: int, width: float) -> list[str]:
    """Break words into lines.

    Parameters
    ----------
    words : str
        In English, Chinese or both.
    size : int
        Of the font, pixels.
    width : float
        Pixels that a line may have.
    """
    measure = font(size).getlength
    lines = [""]
    for piece in _PIECES.findall(words):
        if measure(lines[-1] + piece.rstrip()) <= width:
            lines[-1] += piece
            continue
        lines.append("")
        for character in piece.lstrip():
            # Only what is longer than a whole line is broken within itself.
            if lines[-1] and measure(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [line.strip() for line in lines if line.strip()]
