"""A frame as a person sees it: RGB, 8 bits, in the source frame's own pixel grid (PS3.4 N.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian

from engine.errors import UndecodableError
from engine.geometry import spacing_of
from engine.imaging.color import COLORS, to_rgb
from engine.imaging.decode import Frame, decode_frame
from engine.imaging.grayscale import Window, to_display
from engine.imaging.lut import Palette
from engine.imaging.transform import Transform
from engine.study import READ_ERRORS, Instance

_GRAY: Final = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class RenderedFrame:
    """One frame, rendered.

    Parameters
    ----------
    rgb : ndarray of uint8, [rows, columns, 3]
    transform : Transform
        The way of a box between the model and this frame.
    sop_instance_uid : str
    frame : int
        Frame number, from 1.
    aspect : float
        Height of a pixel in units of its width. `rgb` keeps the source grid, so a viewer stretches by this; the model
        needs no such thing, see `Transform`.
    """

    rgb: npt.NDArray[np.uint8]
    transform: Transform
    sop_instance_uid: str
    frame: int
    aspect: float = 1.0


def render_frame(instance: Instance, frame: int = 1, window: Window | None = None) -> RenderedFrame:
    """Decode one frame and render it.

    Parameters
    ----------
    instance : Instance
    frame : int
        Frame number, from 1.
    window : Window, optional
        For monochrome images, instead of the object's own VOI LUT or window; without any, the whole range of the data.

    Raises
    ------
    NotAnImageError
        If the object is no image of a patient.
    UndecodableError
        If its pixels cannot be decoded or rendered, or exceed a limit.
    """
    decoded = decode_frame(instance, frame)
    try:
        rgb = _rgb(decoded, instance, frame, window)
    except READ_ERRORS as error:
        raise UndecodableError(f"the image cannot be rendered ({type(error).__name__})") from error
    rows, columns = rgb.shape[:2]
    aspect = aspect_of(instance.header, frame)
    return RenderedFrame(rgb, Transform(rows, columns), instance.sop_instance_uid, frame, aspect)


def _rgb(decoded: Frame, instance: Instance, frame: int, window: Window | None) -> npt.NDArray[np.uint8]:
    samples, photometric = decoded.samples, decoded.photometric
    if samples.ndim == 2 and photometric in _GRAY:
        gray = to_display(samples, instance.header, frame, photometric, window, little=_little(instance))
        return np.repeat(gray[:, :, np.newaxis], 3, axis=2)
    if samples.ndim == 2 and photometric == "PALETTE COLOR":
        signed = bool(np.issubdtype(samples.dtype, np.signedinteger))
        return Palette.from_header(instance.header, signed=signed, little=_little(instance)).apply(samples)
    if samples.ndim == 3 and samples.shape[2] == 3 and photometric in COLORS:
        return to_rgb(samples, photometric, decoded.bits)
    raise UndecodableError(f"images in {photometric} with this many samples cannot be rendered")


def _little(instance: Instance) -> bool:
    """Byte order of the header's elements."""
    return instance.transfer_syntax != ExplicitVRBigEndian


def aspect_of(header: Dataset, frame: int = 1) -> float:
    """Return the height of a frame's pixels in units of their width; 1 where nothing tells it.

    Row spacing over column spacing (PS3.3 10.7.1.3), or the aspect ratio (C.7.6.3.1.7).
    """
    if spacing := spacing_of(header, frame):
        return spacing.row_mm / spacing.column_mm
    value = header.get("PixelAspectRatio")
    if isinstance(value, MultiValue | list) and len(value) == 2:
        vertical, horizontal = (int(part) if isinstance(part, int) else 0 for part in value)
        if vertical > 0 and horizontal > 0:
            return vertical / horizontal
    return 1.0
