"""Frames as pictures: what a caller can render, and the proportions in which it is seen."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from pydicom import dcmwrite
from pydicom.dataset import Dataset

from engine.errors import ImageError
from engine.geometry import spacing_of
from engine.imaging import render_frame
from engine.study import load_instance
from sr_writer.drawing import Rgb

_STEEPEST: Final = 50.0
"""Of pixels that are not square: those of the flattest ultrasound scans are below it."""

Pictures = Callable[[str, int], Rgb]
"""Renders a frame of a source image (SOP instance UID, frame from 1), [rows, columns, 3]; raises `ImageError`, or
`KeyError` for an image that it does not have."""


def pictures_of(sources: Iterable[Dataset]) -> Pictures:
    """Render those source datasets that still have their pixels."""
    with_pixels = {str(source.get("SOPInstanceUID")): source for source in sources if "PixelData" in source}

    def render(sop_instance_uid: str, frame: int) -> Rgb:
        with tempfile.TemporaryDirectory() as folder:  # the engine reads files, frame by frame
            path = Path(folder) / "image.dcm"
            dcmwrite(path, with_pixels[sop_instance_uid])
            return render_frame(load_instance(path), frame).rgb

    return render


def picture_of(pictures: Pictures, sop_instance_uid: str, frame: int) -> Rgb | None:
    """Render a frame; None where it cannot be: a result without its picture is better than none."""
    try:
        return pictures(sop_instance_uid, frame)
    except (ImageError, KeyError):
        return None


def aspect_of(header: Dataset, frame: int) -> float:
    """Height of a frame's pixels in units of their width (PS3.3 10.7.1.3, C.7.6.3.1.7).

    1 where nothing tells it, or what tells it is beyond all sense.
    """
    spacing = spacing_of(header, frame)
    if spacing is not None:
        return _sensible(spacing.row_mm, spacing.column_mm)
    try:
        vertical, horizontal = (float(value) for value in header.get("PixelAspectRatio") or ())
    except (TypeError, ValueError):
        return 1.0
    return _sensible(vertical, horizontal)


def _sensible(vertical: float, horizontal: float) -> float:
    aspect = vertical / horizontal if horizontal > 0 else 0.0
    return aspect if 1 / _STEEPEST <= aspect <= _STEEPEST else 1.0
