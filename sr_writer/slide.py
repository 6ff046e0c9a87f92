"""Regions on a slide: from a tile's pixels to mm in the slide's own coordinates (PS3.3 C.8.12.2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from highdicom.spatial import ImageToReferenceTransformer
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

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
    placed = _placement(image, region.frame)
    if placed is None:
        return None
    to_slide, corner = placed
    x0, y0, x1, y1 = region.box
    box = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], dtype=np.float64)
    return np.asarray(to_slide(box + np.asarray(corner, dtype=np.float64)), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class TileGeometry:
    """Where a tile is on its slide (PS3.3 C.7.6.16.2.20, Plane Position (Slide) Sequence).

    Parameters
    ----------
    column, row : int
        Of its first pixel in the whole slide, from 1.
    position : tuple of DSfloat
        x, y, z of its first pixel, mm from the slide's origin.
    """

    column: int
    row: int
    position: tuple[DSfloat, ...]

    @property
    def plane(self) -> tuple[object, ...]:
        """What frames of one segmentation must share: all tiles of an image do."""
        return ()

    @property
    def place(self) -> tuple[float, ...]:
        """What no two frames of one segmentation may share."""
        return (self.column, self.row)

    def position_group(self) -> DataElement:
        """Make the functional group of a frame that says where it is (PS3.3 C.8.12.6.1)."""
        position = Dataset()
        for axis, value in zip("XYZ", self.position, strict=True):
            setattr(position, f"{axis}OffsetInSlideCoordinateSystem", value)
        position.ColumnPositionInTotalImagePixelMatrix = self.column
        position.RowPositionInTotalImagePixelMatrix = self.row
        return DataElement("PlanePositionSlideSequence", "SQ", [position])


def tile_geometry(image: SourceImage, frame: int) -> TileGeometry | None:
    """Find where a tile is on its slide; None where the image is no slide or does not tell its place."""
    placed = _placement(image, frame)
    if placed is None:
        return None
    to_slide, (column, row) = placed
    # The transformer counts from the corner of the first pixel, and a position is the centre of one.
    (position,) = to_slide(np.array([(column + 0.5, row + 0.5)]))
    return TileGeometry(column + 1, row + 1, tuple(DSfloat(float(value), auto_format=True) for value in position))


def tile_stand_in(image: SourceImage, tile: TileGeometry) -> Dataset:
    """Make what the library takes for the slide: one tile, of one pixel."""
    header, shared, group = image.header, Dataset(), Dataset()
    group.add(tile.position_group())
    measures = Dataset()
    for keyword in ("PixelSpacing", "SliceThickness"):
        value = group_value(header, 1, "PixelMeasuresSequence", keyword)
        if value is not None:
            setattr(measures, keyword, value)
    shared.PixelMeasuresSequence = [measures]
    return image.stand_in(
        Rows=1,
        Columns=1,
        NumberOfFrames=1,
        FrameOfReferenceUID=image.frame_of_reference_uid,
        ImageOrientationSlide=list(header.ImageOrientationSlide),
        TotalPixelMatrixOriginSequence=header.TotalPixelMatrixOriginSequence,
        TotalPixelMatrixColumns=int(header.get("TotalPixelMatrixColumns") or image.columns),
        TotalPixelMatrixRows=int(header.get("TotalPixelMatrixRows") or image.rows),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[group],
    )


def _placement(image: SourceImage, frame: int) -> tuple[ImageToReferenceTransformer, tuple[int, int]] | None:
    """Find the way from the whole slide's pixels to mm, and the tile's corner among those pixels."""
    header = image.header
    if image.modality != _MODALITY or not image.frame_of_reference_uid:
        return None
    origin = (header.get("TotalPixelMatrixOriginSequence") or [Dataset()])[0]
    place = [
        decimals(origin.get(f"{axis}OffsetInSlideCoordinateSystem", default), 1)
        for axis, default in (("X", None), ("Y", None), ("Z", 0.0))
    ]
    orientation = decimals(header.get("ImageOrientationSlide"), 6)
    spacing = decimals(group_value(header, frame, "PixelMeasuresSequence", "PixelSpacing"), 2)
    corner = _tile_corner(image, frame)
    if not (all(place) and orientation and orthonormal(orientation) and spacing and min(spacing) > 0 and corner):
        return None
    to_slide = ImageToReferenceTransformer(
        image_position=[float(value[0]) for value in place],
        image_orientation=[float(value) for value in orientation],
        pixel_spacing=[float(value) for value in spacing],
    )
    return to_slide, corner


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
