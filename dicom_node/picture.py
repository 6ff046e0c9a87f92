"""The overlay picture: rendered frames with the boxes and their names, for people to look at.

The marks come from a reading or, to see what was really sent, from an SR read back (`dicom_node.readback`). Words in
the picture are English, because the font that Pillow brings knows no Chinese; nothing of the patient is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from engine.findings import Box, ImageRead
from engine.imaging import render_frame
from engine.study import Instance, Study

MAX_HEIGHT: Final = 1200
"""Height in pixels that the whole picture stays near."""
MIN_SIDE: Final = 320
"""Small images are enlarged to this, so that the names can be read."""
MAX_PANELS: Final = 9

# Colour-blind safe (Okabe and Ito), bright enough on radiographs; one a finding.
_COLOURS: Final = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")


@dataclass(frozen=True, slots=True)
class Mark:
    """A box with a name on one frame; the box as in `engine.findings`."""

    sop_instance_uid: str
    frame: int
    box: Box
    name: str


def draw_overlay(study: Study, images: Sequence[ImageRead], marks: Sequence[Mark], *, note: str = "") -> Image.Image:
    """Draw one picture of a study: a panel for each frame with marks, or the first frame read where none has any.

    Parameters
    ----------
    study : Study
        Where the images are.
    images : sequence of ImageRead
        The frames that were read; others are not drawn.
    marks : sequence of Mark
    note : str
        A line below the picture, such as that the model is not for clinical use.

    Returns
    -------
    PIL.Image.Image
        RGB. Without any readable image a small panel that says so.
    """
    instances = {item.sop_instance_uid: item for series in study.series for item in series.instances}
    marked = {(mark.sop_instance_uid, mark.frame) for mark in marks}
    frames = [(image.sop_instance_uid, image.frame) for image in images if image.sop_instance_uid in instances]
    chosen = [frame for frame in frames if frame in marked] or frames[:1]
    shown = chosen[:MAX_PANELS]
    columns = math.ceil(math.sqrt(len(shown))) or 1
    height = MAX_HEIGHT // (math.ceil(len(shown) / columns) or 1)
    colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(_distinct(marks))}
    panels = []
    for uid, frame in shown:
        here = [mark for mark in marks if (mark.sop_instance_uid, mark.frame) == (uid, frame)]
        panels.append(_panel(instances[uid], frame, here, colours, height))
    if not panels:
        panels = [Image.new("RGB", (MIN_SIDE * 2, MIN_SIDE // 2))]
        note = "No image was read. " + note
    elif not marked:
        note = "Nothing is marked. " + note
    if len(chosen) > len(shown):
        note = f"{len(chosen) - len(shown)} more images with findings are not shown. {note}"
    return _below(_grid(panels, columns), note.strip())


def _distinct(marks: Sequence[Mark]) -> list[str]:
    return list(dict.fromkeys(_word(mark) for mark in marks))


def _word(mark: Mark) -> str:
    """The name without its certainty, so that equal findings share a colour."""
    return mark.name.rstrip("0123456789. ")


def _panel(instance: Instance, frame: int, marks: Sequence[Mark], colours: dict[str, str], height: int) -> Image.Image:
    rendered = render_frame(instance, frame)
    picture = Image.fromarray(rendered.rgb)
    columns, rows = picture.size
    tall = rows * rendered.aspect  # pixels need not be square; people shall see true proportions
    scale = min(height / tall, height * 1.5 / columns, max(1.0, MIN_SIDE / min(columns, tall)))
    size = (max(1, round(columns * scale)), max(1, round(tall * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(13, round(min(size) / 36)))
    width = max(2, round(min(size) / 300))
    taken: list[tuple[float, float, float, float]] = []
    for mark in marks:
        colour = colours[_word(mark)]
        x0, y0, x1, y1 = (
            value * side / length for value, side, length in zip(mark.box, size * 2, (columns, rows) * 2, strict=True)
        )
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=width)
        place = _free_place(draw.textbbox((0, 0), mark.name, font=font), (x0, y0, x1, y1), size, taken)
        taken.append(place)
        draw.rectangle(place, fill=colour)
        draw.text((place[0] + 3, place[1] + 2), mark.name, fill="black", font=font)
    return picture


def _free_place(
    text: tuple[float, float, float, float],
    box: tuple[float, ...],
    size: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
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


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _grid(panels: Sequence[Image.Image], columns: int) -> Image.Image:
    gap = 6
    lines = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    widths = [max(line[i].width for line in lines if i < len(line)) for i in range(min(columns, len(panels)))]
    heights = [max(panel.height for panel in line) for line in lines]
    whole = Image.new(
        "RGB", (sum(widths) + gap * (len(widths) - 1), sum(heights) + gap * (len(heights) - 1)), "#202020"
    )
    top = 0
    for line, height in zip(lines, heights, strict=True):
        left = 0
        for panel, width in zip(line, widths, strict=False):
            whole.paste(panel, (left, top))
            left += width + gap
        top += height + gap
    return whole


def _below(picture: Image.Image, note: str) -> Image.Image:
    if not note:
        return picture
    font = ImageFont.load_default(15)
    words, lines = note.split(), [""]
    measure = ImageDraw.Draw(picture)
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if measure.textlength(longer, font=font) > picture.width - 12 and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    strip = 8 + 20 * len(lines)
    whole = Image.new("RGB", (picture.width, picture.height + strip), "black")
    whole.paste(picture, (0, 0))
    ImageDraw.Draw(whole).multiline_text((6, picture.height + 3), "\n".join(lines), fill="#E69F00", font=font)
    return whole
