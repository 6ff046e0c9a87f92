"""Colour images as RGB of 8 bits (PS3.3 C.7.6.3.1.2)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

COLORS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422")

_ROWS_AT_ONCE: Final = 256
"""Colours are converted in floating point, so in strips."""
# Luminance and colour differences to red, green and blue (ITU-R BT.601); the partial ranges are 16-235 and 16-240.
_MATRIX: Final = np.array([[1, 0, 1.402], [1, -0.114 * 1.772 / 0.587, -0.299 * 1.402 / 0.587], [1, 1.772, 0]])
_PARTIAL: Final = np.array([255 / 219, 255 / 224, 255 / 224])


def to_rgb(samples: npt.NDArray[Any], photometric: str, bits: int) -> npt.NDArray[np.uint8]:
    """Return colour samples as RGB.

    Parameters
    ----------
    samples : ndarray of integer, [rows, columns, 3]
    photometric : str
        One of `COLORS`; colour differences have been brought to full resolution.
    bits : int
        Bits stored of a sample.
    """
    eight = np.ascontiguousarray(samples >> (bits - 8) if bits > 8 else samples).astype(np.uint8)
    if photometric == "RGB":
        return eight
    partial = photometric == "YBR_PARTIAL_422"
    matrix = (_MATRIX * _PARTIAL if partial else _MATRIX).astype(np.float32).T
    zero = np.array([16 if partial else 0, 128, 128], np.float32)
    rgb = np.empty_like(eight)
    for top in range(0, len(eight), _ROWS_AT_ONCE):
        strip = slice(top, top + _ROWS_AT_ONCE)
        rgb[strip] = np.clip(np.round((eight[strip].astype(np.float32) - zero) @ matrix), 0, 255)
    return rgb
