"""The overlay picture: rendered frames with the boxes and their names, for people to look at.

The marks come from a reading or, to see what was really sent, from an SR read back (`dicom_node.demo.readback`).
Nothing of the patient is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

from engine.findings import Box, ImageRead
from engine.imaging import render_frame
from engine.study import Instance, Study
from sr_writer import drawing
from sr_writer.pictures import Pictures

MAX_HEIGHT: Final = 1200
"""Height in pixels that the whole picture stays near."""
MIN_SIDE: Final = 320
"""Small images are enlarged to this, so that the names can be read."""
MAX_PANELS: Final = 9


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
    colours = {name: drawing.colour(index) for index, name in enumerate(_distinct(marks))}
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
    return drawing.with_lines(_grid(panels, columns), [(note.strip(), drawing.WARNING)])


def pictures_of(study: Study) -> Pictures:
    """Render the study's frames for the result objects that show them."""
    instances = {instance.sop_instance_uid: instance for instance in study.instances}
    return lambda sop_instance_uid, frame: render_frame(instances[sop_instance_uid], frame).rgb


def _distinct(marks: Sequence[Mark]) -> list[str]:
    return list(dict.fromkeys(_word(mark) for mark in marks))


def _word(mark: Mark) -> str:
    """The name without its certainty, so that equal findings share a colour."""
    return mark.name.rstrip("0123456789. ")


def _panel(
    instance: Instance, frame: int, marks: Sequence[Mark], colours: dict[str, drawing.Colour], height: int
) -> Image.Image:
    rendered = render_frame(instance, frame)
    return drawing.draw_marks(
        rendered.rgb,
        [drawing.Mark(mark.box, mark.name, colours[_word(mark)]) for mark in marks],
        aspect=rendered.aspect,  # pixels need not be square; people shall see true proportions
        limit=(height * 1.5, height),
        least=MIN_SIDE,
    )


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
