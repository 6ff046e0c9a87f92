"""The eight ways a picture can lie on its grid, for pixels, boxes and orientations, and their names in plain words."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicom_node.commissioning.cases import Turn
from engine.findings import Box

_STEPS: Final[dict[Turn, tuple[bool, bool, bool]]] = {
    "none": (False, False, False),
    "left-right": (False, True, False),
    "up-down": (False, False, True),
    "half": (False, True, True),
    "transposed": (True, False, False),
    "quarter": (True, True, False),
    "quarter-back": (True, False, True),
    "anti-transposed": (True, True, True),
}
"""Whether rows and columns change places; then whether it is mirrored left to right, and top to bottom."""

WORDS: Final[dict[Turn, str]] = {
    "left-right": "flipped left to right",
    "up-down": "flipped top to bottom",
    "half": "turned by 180 degrees",
    "transposed": "transposed (rows and columns have changed places)",
    "quarter": "turned by 90 degrees clockwise",
    "quarter-back": "turned by 90 degrees anticlockwise",
    "anti-transposed": "transposed and turned by 180 degrees",
}


def turned(image: npt.NDArray[Any], turn: Turn) -> npt.NDArray[Any]:
    """Turn an image, [rows, columns, ...]."""
    swap, mirror, flip = _STEPS[turn]
    image = image.swapaxes(0, 1) if swap else image
    image = image[:, ::-1] if mirror else image
    return np.ascontiguousarray(image[::-1] if flip else image)


def turned_box(box: Box, rows: int, columns: int, turn: Turn) -> Box:
    """Where a box of an image of that size lies once the image is turned."""
    swap, mirror, flip = _STEPS[turn]
    x0, y0, x1, y1 = box
    width, height = columns, rows
    if swap:
        x0, y0, x1, y1, width, height = y0, x0, y1, x1, height, width
    if mirror:
        x0, x1 = width - x1, width - x0
    if flip:
        y0, y1 = height - y1, height - y0
    return x0, y0, x1, y1


def turned_orientation(orientation: tuple[float, ...], turn: Turn) -> tuple[tuple[float, ...], bool, bool]:
    """Direction cosines of the turned image, and whether its corner is at the far end of the old rows and columns."""
    swap, mirror, flip = _STEPS[turn]
    along, down = orientation[:3], orientation[3:]
    if swap:
        along, down = down, along
    along = tuple(-value for value in along) if mirror else along
    down = tuple(-value for value in down) if flip else down
    return (*along, *down), (flip if swap else mirror), (mirror if swap else flip)


def turn_between(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Turn | None:
    """How an image was turned; None where it was changed in another way."""
    return next((turn for turn in _STEPS if np.array_equal(turned(before, turn), after)), None)
