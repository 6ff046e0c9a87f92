"""A frame as a person sees it: RGB, 8 bits, in the source frame's own pixel grid (PS3.4 N.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut

from engine.errors import UndecodableError
from engine.imaging.decode import Frame, decode_frame
from engine.imaging.grayscale import Window, to_display
from engine.imaging.transform import Transform
from engine.study import READ_ERRORS, Instance

_GRAY: Final = ("MONOCHROME1", "MONOCHROME2")
_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


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
        rgb = _rgb(decoded, instance.header, frame, window)
    except READ_ERRORS as error:
        raise UndecodableError(f"the image cannot be rendered ({type(error).__name__})") from error
    rows, columns = rgb.shape[:2]
    return RenderedFrame(rgb, Transform(rows, columns), instance.sop_instance_uid, frame, _aspect(instance.header))


def _rgb(decoded: Frame, header: Dataset, frame: int, window: Window | None) -> npt.NDArray[np.uint8]:
    samples = decoded.samples
    if decoded.photometric in _GRAY and samples.ndim == 2:
        gray = to_display(samples, header, frame, decoded.photometric, window)
        return np.repeat(gray[:, :, np.newaxis], 3, axis=2)
    if decoded.photometric == "PALETTE COLOR" and samples.ndim == 2:
        mapped = apply_color_lut(samples, header)
        return _eight_bits(mapped[:, :, :3], mapped.dtype.itemsize * 8)
    if decoded.photometric == "RGB" and samples.ndim == 3 and samples.shape[2] == 3:
        return _eight_bits(samples, decoded.bits)
    raise UndecodableError(f"images in {decoded.photometric} with this many samples cannot be rendered")


def _eight_bits(samples: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(samples >> (bits - 8) if bits > 8 else samples).astype(np.uint8)


def _aspect(header: Dataset) -> float:
    """Row spacing over column spacing (PS3.3 10.7.1.3), or the aspect ratio (C.7.6.3.1.7); 1 where neither is told."""
    for keyword in _SPACINGS:
        value = header.get(keyword)
        if isinstance(value, MultiValue | list) and len(value) == 2:
            try:
                vertical, horizontal = float(value[0]), float(value[1])
            except (TypeError, ValueError):
                continue
            if vertical > 0 and horizontal > 0:
                return vertical / horizontal
    return 1.0
