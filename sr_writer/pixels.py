"""Regions as pixels: the mask of a box holds the pixels whose centre lies inside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine import masks
from engine.errors import WriteError
from engine.findings import Finding, Mask, Region
from engine.masks import Pixels, box_slices
from sr_writer.sources import SourceImage


@dataclass(frozen=True, slots=True)
class SegmentFrames:
    """Frames of one bit a pixel: one for each finding and plane on which it has any.

    Parameters
    ----------
    pixels : int
        In each frame.
    bits : mapping of (int, int) to bytes
        By index of the finding and of the plane; each frame begins with a byte of its own.
    overlap : bool
        Whether two findings share a pixel.
    """

    pixels: int
    bits: Mapping[tuple[int, int], bytes]
    overlap: bool

    @property
    def findings(self) -> list[int]:
        """Index of each finding that has pixels, in order."""
        return sorted({finding for finding, _ in self.bits})

    def alone(self, finding: int, plane: int) -> SegmentFrames:
        """Give one of the frames as the only one; its plane is then the first."""
        return SegmentFrames(self.pixels, {(finding, 0): self.bits[finding, plane]}, overlap=False)

    def joined(self, order: Iterable[tuple[int, int]]) -> bytes:
        """Encode frames as Pixel Data: one bit after another, no gap between frames, of even length (PS3.5 8.1.1)."""
        frames = [self.bits[key] for key in order]
        if self.pixels % 8:
            whole = [
                np.unpackbits(np.frombuffer(frame, np.uint8), count=self.pixels, bitorder="little") for frame in frames
            ]
            frames = [np.packbits(np.concatenate(whole), bitorder="little").tobytes()]
        data = b"".join(frames)
        return data + b"\0" * (len(data) % 2)


def paint_frames(findings: Sequence[Finding], planes: Sequence[tuple[SourceImage, int]]) -> SegmentFrames:
    """Paint findings on planes, a plane at a time: those of a large series would not fit into memory together.

    Parameters
    ----------
    findings : sequence of Finding
    planes : sequence of (SourceImage, int)
        Images, all of the same size, and frame numbers; regions on others are left out.

    Raises
    ------
    WriteError
        See `paint`.
    """
    number_of = {(image.sop_instance_uid, frame): number for number, (image, frame) in enumerate(planes)}
    here: dict[int, dict[int, list[Region]]] = {}
    for index, finding in enumerate(findings):
        for region in finding.regions:
            number = number_of.get((region.sop_instance_uid, region.frame))
            if number is not None:
                here.setdefault(number, {}).setdefault(index, []).append(region)
    bits: dict[tuple[int, int], bytes] = {}
    overlap = False
    for number, regions_of in here.items():
        image = planes[number][0]
        taken = np.zeros((image.rows, image.columns), dtype=np.bool_)
        for index, regions in regions_of.items():
            plane = np.zeros_like(taken)
            for region in regions:
                paint(region, image, plane)
            if plane.any():
                overlap = overlap or bool((taken & plane).any())
                taken |= plane
                bits[index, number] = np.packbits(plane, bitorder="little").tobytes()
    return SegmentFrames(planes[0][0].rows * planes[0][0].columns, bits, overlap)


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
