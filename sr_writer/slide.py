"""Regions on a slide: from a tile's pixels to mm in the slide's own coordinates (PS3.3 C.8.12.2.1)."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from highdicom.spatial import ImageToReferenceTransformer
from pydicom.dataset import Dataset

from engine.findings import Region
from sr_writer.geometry import decimals, group_value, orthonormal
from sr_writer.sources import SourceImage

_MODALITY: Final = "SM"


def slide_polygon(region: Region, image: SourceImage) -> np.ndarray | None:
    """Draw a box as SCOORD3D does: a closed, planar POLYGON of five points (PS3.3 C.18.9).

    Parameters
    ----------
    region : Region
        On a frame (tile) of a whole-slide image, in the tile's pixels.
    image : SourceImage

    Returns
    -------
    ndarray of float32, [5, 3], or None
        (x, y, z) in mm from the slide's origin; None where the image is no slide or does not tell its place.
    """
    header = image.header
    if image.modality != _MODALITY or not header.get("FrameOfReferenceUID"):
        return None
    origin = (header.get("TotalPixelMatrixOriginSequence") or [Dataset()])[0]
    place = [
        decimals(origin.get(f"{axis}OffsetInSlideCoordinateSystem", default), 1)
        for axis, default in (("X", None), ("Y", None), ("Z", 0.0))
    ]
    orientation = decimals(header.get("ImageOrientationSlide"), 6)
    spacing = decimals(group_value(header, region.frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
    corner = _tile_corner(image, region.frame)
    if not (all(place) and orientation and orthonormal(orientation) and spacing and min(spacing) > 0 and corner):
        return None
    to_slide = ImageToReferenceTransformer(
        image_position=[float(value[0]) for value in place],
        image_orientation=[float(value) for value in orientation],
        pixel_spacing=[float(value) for value in spacing],
    )
    x0, y0, x1, y1 = region.box
    box = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], dtype=np.float64)
    return np.asarray(to_slide(box + np.asarray(corner, dtype=np.float64)), dtype=np.float32)


def _tile_corner(image: SourceImage, frame: int) -> tuple[int, int] | None:
    """Columns and rows of the whole slide before a tile's first pixel (PS3.3 C.7.6.17.3, C.8.12.14)."""
    header = image.header
    column, row = (
        group_value(header, frame, "PlanePositionSlideSequence", f"{name}PositionInTotalImagePixelMatrix")
        for name in ("Column", "Row")
    )
    if isinstance(column, int) and isinstance(row, int):
        return column - 1, row - 1
    width, height = (int(header.get(f"TotalPixelMatrix{name}") or 0) for name in ("Columns", "Rows"))
    if image.frames > 1 and str(header.get("DimensionOrganizationType")) != "TILED_FULL":
        return None
    across, down = math.ceil(width / image.columns), math.ceil(height / image.rows)
    if across * down == 0:
        return None
    tile = (frame - 1) % (across * down)  # every focal plane and optical path has all tiles
    return tile % across * image.columns, tile // across * image.rows
