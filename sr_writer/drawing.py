"""Marks on pictures: boxes, outlines and names over a rendered frame, in the proportions that it is seen in.

The one drawer of everything that is burned in: secondary captures, the report's pictures, the overlay picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFilter

from engine.findings import Box, Mask
from sr_writer.fonts import font, wrapped
from sr_writer.pixels import unpack

Rgb = npt.NDArray[np.uint8]
"""A rendered frame in its own pixel grid, [rows, columns, 3]."""
Colour = tuple[int, int, int]
Place = tuple[float, float, float, float]
"""Left, top, right, bottom."""

COLOUR_NAMES: Final = (
    "red",
    "lime",
    "dodgerblue",
    "gold",
    "magenta",
    "cyan",
    "orange",
    "violet",
    "springgreen",
    "salmon",
)
"""One a finding, in turn: the same in segmentations, presentation states and pictures. All are light enough to carry
black letters."""
WARNING: Final[Colour] = (255, 176, 0)
LETTERS: Final = 36
"""Lines of letters that a picture's shorter side has room for."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What is drawn on a frame for one region.

    Parameters
    ----------
    box : Box
        In the frame's own pixel grid.
    name : str
    colour : tuple of int
        Red, green, blue.
    mask : Mask, optional
    """

    box: Box
    name: str
    colour: Colour
    mask: Mask | None = None


def colour_name(index: int) -> str:
    """Name the colour of a finding, by its place in the reading from 0."""
    return COLOUR_NAMES[index % len(COLOUR_NAMES)]


def colour(index: int) -> Colour:
    """Give the colour of a finding, by its place in the reading from 0."""
    red, green, blue = ImageColor.getrgb(colour_name(index))[:3]
    return red, green, blue


def draw_marks(
    rgb: Rgb, marks: Sequence[Mark], *, aspect: float, limit: tuple[float, float], least: int, letters: int = LETTERS
) -> Image.Image:
    """Draw marks on a frame, with square pixels.

    Parameters
    ----------
    rgb : ndarray of uint8, [rows, columns, 3]
    marks : sequence of Mark
    aspect : float
        Height of the frame's pixels in units of their width.
    limit : tuple of float
        Greatest width and height of the picture, pixels.
    least : int
        Smaller frames are enlarged to this width and height where the limit allows, so that names can be read.
    letters : int
        How many lines of letters the shorter side has room for.
    """
    rows, columns = rgb.shape[:2]
    wide, tall = (columns, rows * aspect) if aspect >= 1 else (columns / aspect, float(rows))
    scale = min(limit[0] / wide, limit[1] / tall, max(1.0, least / min(wide, tall)))
    size = (max(1, round(wide * scale)), max(1, round(tall * scale)))
    picture = Image.fromarray(rgb)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    height = letter_size(size, letters)
    line = max(2, round(min(size) / 300))
    taken: list[Place] = []
    for mark in marks:
        if mark.mask is not None:
            _outline(picture, mark.mask, mark.colour, (columns, rows), line)
        x0, y0, x1, y1 = (
            value * side / length for value, side, length in zip(mark.box, size * 2, (columns, rows) * 2, strict=True)
        )
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=mark.colour, width=line)
        name = _fitting(mark.name, height, size[0] - 6)
        if not name:
            continue
        taken.append(free_place(draw.textbbox((0, 0), name, font=font(height)), (x0, y0, x1, y1), size, taken))
        draw.rectangle(taken[-1], fill=mark.colour)
        draw.text((taken[-1][0] + 3, taken[-1][1] + 2), name, fill="black", font=font(height))
    return picture


def letter_size(size: tuple[int, int], letters: int = LETTERS) -> int:
    """Give the height of letters, pixels, that can be read on a picture of a size."""
    return max(14, round(min(size) / letters))


def with_lines(picture: Image.Image, lines: Sequence[tuple[str, Colour]], *, above: bool = False) -> Image.Image:
    """Put words below (or above) a picture, where they cover nothing of it.

    Parameters
    ----------
    picture : PIL.Image.Image
    lines : sequence of (str, tuple of int)
        Words and their colour; broken where the picture is too narrow for them.
    above : bool
    """
    letters = letter_size(picture.size)
    broken = [(part, ink) for words, ink in lines for part in wrapped(words, letters, picture.width - 12)]
    if not broken:
        return picture
    step = round(letters * 1.4)
    whole = Image.new("RGB", (picture.width, picture.height + step * len(broken) + 8), "black")
    whole.paste(picture, (0, whole.height - picture.height if above else 0))
    draw = ImageDraw.Draw(whole)
    top = 0 if above else picture.height
    for number, (words, ink) in enumerate(broken):
        draw.text((6, top + 2 + step * number), words, fill=ink, font=font(letters))
    return whole


def _outline(picture: Image.Image, mask: Mask, ink: Colour, grid: tuple[int, int], line: int) -> None:
    """Draw the edge of a mask, inside it."""
    across, down = picture.width / grid[0], picture.height / grid[1]
    size = (max(1, round(mask.columns * across)), max(1, round(mask.rows * down)))
    inside = Image.new("L", (size[0] + 2 * line, size[1] + 2 * line))  # what is beyond the mask is outside it
    inside.paste(
        Image.fromarray(unpack(mask).astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST), (line,) * 2
    )
    core = inside.filter(ImageFilter.MinFilter(2 * line + 1))
    edge = Image.fromarray(np.asarray(inside) - np.asarray(core))
    picture.paste(ink, (round(mask.x * across) - line, round(mask.y * down) - line), edge)


def _fitting(name: str, size: int, width: float) -> str:
    """Cut a name to a width, with an ellipsis."""
    measure = font(size).getlength
    if measure(name) <= width:
        return name
    while name and measure(name + "…") > width:
        name = name[:-1]
    return name + "…" if name else ""


def free_place(text: Place, box: Place, size: tuple[int, int], taken: Sequence[Place]) -> Place:
    """Where the name goes: above the box, else below, else inside; never outside the picture or over another name."""
    width, height = text[2] + 6, text[3] + 5
    x = max(0.0, min(box[0], size[0] - width))
    for y in (box[1] - height, box[3], box[1], box[3] - height, *(box[1] + n * height for n in range(1, 6))):
        place = (x, y, x + width, y + height)
        inside = y >= 0 and y + height <= size[1]
        if inside and not any(_overlap(place, other) for other in taken):
            return place
    y = max(0.0, min(box[1], size[1] - height))
    return (x, y, x + width, y + height)


def _overlap(a: Place, b: Place) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
