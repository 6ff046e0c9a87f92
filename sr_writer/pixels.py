"""Regions as pixels: the mask of a box holds the pixels whose centre lies inside it."""

from __future__ import annotations

from math import ceil

import numpy as np
import numpy.typing as npt

from engine.errors import WriteError
from engine.findings import Mask, Region
from sr_writer.sources import SourceImage

Pixels = npt.NDArray[np.bool_]


def paint(region: Region, image: SourceImage, plane: Pixels) -> None:
    """Set a region's pixels in a plane of the source frame's size.

    Parameters
    ----------
    region : Region
    image : SourceImage
    plane : ndarray of bool, [rows, columns]
        Changed in place.

    Raises
    ------
    WriteError
        If the region's mask does not fit the image, or its bits do not fit its size.
    """
    if region.mask is not None:
        mask = region.mask
        if min(mask.x, mask.y) < 0 or mask.x + mask.columns > image.columns or mask.y + mask.rows > image.rows:
            raise WriteError(f"a mask leaves the image of {image.columns} x {image.rows} pixels")
        plane[mask.y : mask.y + mask.rows, mask.x : mask.x + mask.columns] |= unpack(mask)
        return
    rows, columns = box_slices(region)
    plane[rows, columns] = True


def box_slices(region: Region) -> tuple[slice, slice]:
    """Find the rows and columns of pixels whose centre lies inside a box; pixel n spans n to n + 1."""
    x0, y0, x1, y1 = region.box
    return slice(_first(y0), _first(y1)), slice(_first(x0), _first(x1))


def unpack(mask: Mask) -> Pixels:
    """Read a mask's bits.

    Returns
    -------
    ndarray of bool, [rows, columns]

    Raises
    ------
    WriteError
        If there are more or fewer bits than its size says.
    """
    stride = (mask.columns + 7) // 8
    try:
        packed = np.frombuffer(bytes.fromhex(mask.bits), dtype=np.uint8)
    except ValueError as error:
        raise WriteError("a mask's bits are not hexadecimal") from error
    if mask.columns < 1 or mask.rows < 1 or packed.size != stride * mask.rows:
        raise WriteError("a mask's bits do not fit its size")
    return np.unpackbits(packed.reshape(mask.rows, stride), axis=1)[:, : mask.columns].astype(np.bool_)


def _first(edge: float) -> int:
    """Find the first pixel whose centre is not before an edge: of two boxes that share it, one has the pixel."""
    return max(ceil(edge - 0.5), 0)
