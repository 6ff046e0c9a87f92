"""Pixels of boxes and of masks: a pixel belongs to a box if its centre lies inside; pixel n spans n to n + 1."""

from __future__ import annotations

from math import ceil

import numpy as np
import numpy.typing as npt

from engine.findings import Box, Mask

Pixels = npt.NDArray[np.bool_]


def box_slices(box: Box) -> tuple[slice, slice]:
    """Find the rows and columns of pixels whose centre lies inside a box.

    The stop may exceed an image whose last column the box reaches by rounding; slicing takes no harm from it.
    """
    x0, y0, x1, y1 = box
    return slice(_first(y0), _first(y1)), slice(_first(x0), _first(x1))


def pack(pixels: Pixels, x: int, y: int, method: str) -> Mask | None:
    """Make a mask of the pixels that are set, no larger than it need be.

    Parameters
    ----------
    pixels : ndarray of bool, [rows, columns]
    x, y : int
        Column and row of the first pixel in the source frame.
    method : str
        How it was made, in words.

    Returns
    -------
    Mask or None
        None where no pixel is set.
    """
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    tight = pixels[top : rows[-1] + 1, left : columns[-1] + 1]
    bits = np.packbits(tight, axis=1).tobytes().hex()
    return Mask(x + left, y + top, tight.shape[1], tight.shape[0], bits, method)


def unpack(mask: Mask) -> Pixels:
    """Read a mask's bits.

    Returns
    -------
    ndarray of bool, [rows, columns]

    Raises
    ------
    ValueError
        If they are not hexadecimal, or there are more or fewer than its size says.
    """
    stride = (mask.columns + 7) // 8
    packed = np.frombuffer(bytes.fromhex(mask.bits), dtype=np.uint8)
    if mask.columns < 1 or mask.rows < 1 or packed.size != stride * mask.rows:
        raise ValueError("a mask's bits do not fit its size")
    return np.unpackbits(packed.reshape(mask.rows, stride), axis=1, count=mask.columns).astype(np.bool_)


def _first(edge: float) -> int:
    """Find the first pixel whose centre is not before an edge: of two boxes that share it, one has the pixel."""
    return max(ceil(edge - 0.5), 0)
