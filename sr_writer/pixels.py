"""Regions as pixels: the mask of a box holds the pixels whose centre lies inside it."""

from __future__ import annotations

from engine import masks
from engine.errors import WriteError
from engine.findings import Mask, Region
from engine.masks import Pixels, box_slices
from sr_writer.sources import SourceImage


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
    rows, columns = box_slices(region.box)
    plane[rows, columns] = True


def unpack(mask: Mask) -> Pixels:
    """Read a mask's bits.

    Returns
    -------
    ndarray of bool, [rows, columns]

    Raises
    ------
    WriteError
        If they are not hexadecimal, or there are more or fewer than its size says.
    """
    try:
        return masks.unpack(mask)
    except ValueError as error:
        raise WriteError("a mask's bits are not hexadecimal, or do not fit its size") from error
