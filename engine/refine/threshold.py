"""Outlines by brightness: what stands out from its surroundings, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label, regionprops
from skimage.morphology import remove_small_holes

from engine.findings import Box, Mask
from engine.masks import Pixels, box_slices, pack
from engine.refine import METHOD
from engine.runtime.protocol import Rgb

_SMALLEST: Final = 8
"""Pixels to a side below which a box holds too little to tell figure from ground."""
_FINEST: Final = 768
"""Pixels to a side to which larger boxes are reduced: edges are then true to a thousandth of the box."""
_MARGIN: Final = 0.1
_SMOOTHING: Final = 0.006
"""Both in parts of the box's smaller side."""
_LEAST_PART: Final = 0.15
"""Of the largest part's area: smaller parts are noise."""
_ENCLOSED: Final = 0.6
"""Of a part, within the box: a part other than the largest that goes on outside for more is not what was meant."""
_LARGEST_HOLE: Final = 0.02
"""Of the outline's area: smaller holes are noise, larger ones its shape."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What tells an outline from an accident; measured on the box and a margin around it.

    Parameters
    ----------
    contrast : float
        Grey levels (of 255) between the outline and all around it.
    separation : float
        The same in deviations within the two. A threshold through mere noise gives up to 2.65.
    share : float
        Of the box's area.
    reach : float
        Of the box's width or height, the smaller: a box encloses what it was drawn for.
    border : float
        Part of the box's edge that it touches.
    beyond : float
        Part of the margin that would have been taken too: what goes on outside is not enclosed.
    solidity : float
        Area over that of its parts' convex hulls; ragged parts are texture.
    """

    contrast: float
    separation: float
    share: float
    reach: float
    border: float
    beyond: float
    solidity: float

    @property
    def good(self) -> bool:
        """Whether to show the outline; the limits are measured, see `tests/engine/test_refine.py`."""
        return (
            self.contrast >= 8
            and self.separation >= 2.8
            and 0.02 <= self.share <= 0.97
            and self.reach >= 0.7
            and self.border <= 0.7
            and self.beyond <= 0.5
            and self.solidity >= 0.4
        )


class ThresholdRefiner:
    """Takes what is brighter, or darker, than its surroundings; leaves the box where that is no clear thing."""

    def refine(self, rgb: Rgb, box: Box) -> Mask | None:
        """See `Refiner.refine`."""
        found = outline(rgb, box)
        if found is None or not found[1].good:
            return None
        rows, columns = box_slices(box)
        return pack(found[0], columns.start, rows.start, METHOD)


def outline(rgb: Rgb, box: Box) -> tuple[Pixels, Quality] | None:
    """Divide a box into figure and ground.

    Parameters
    ----------
    rgb : ndarray of uint8, [rows, columns, 3]
    box : tuple of float
        In the SCOORD frame.

    Returns
    -------
    tuple of (ndarray of bool, Quality) or None
        The box's pixels [rows, columns]; None where the box is too small, or has no surroundings.
    """
    height, width = rgb.shape[:2]
    down, across = box_slices(box)
    bottom, right = min(down.stop, height), min(across.stop, width)
    size = (bottom - down.start, right - across.start)
    if min(size) < _SMALLEST:
        return None
    margin = max(3, round(_MARGIN * min(size)))
    top, left = max(down.start - margin, 0), max(across.start - margin, 0)
    seen = rgb[top : bottom + margin, left : right + margin]
    inside: Pixels = np.zeros(seen.shape[:2], bool)
    inside[down.start - top : bottom - top, across.start - left : right - left] = True
    step = ceil(max(size) / _FINEST)
    grey, within = _reduced(seen.mean(axis=2, dtype=np.float32), step), _reduced(inside, step) >= 0.5
    if within.all():
        return None
    figure, quality = _divide(gaussian(grey, max(1.0, _SMOOTHING * min(size) / step)), within)
    tall, wide = inside.shape
    places = np.ix_(np.arange(tall) // step, np.arange(wide) // step)
    return figure[places][inside].reshape(size), quality


def _reduced(image: npt.NDArray[Any], step: int) -> npt.NDArray[np.float32]:
    """Average blocks of pixels; those that the edge cuts are filled up with it."""
    padding = [(0, -size % step) for size in image.shape]
    blocks = np.pad(image, padding, mode="edge").astype(np.float32)
    rows, columns = blocks.shape[0] // step, blocks.shape[1] // step
    reduced: npt.NDArray[np.float32] = blocks.reshape(rows, step, columns, step).mean(axis=(1, 3))
    return reduced


def _divide(grey: npt.NDArray[np.float32], within: Pixels) -> tuple[Pixels, Quality]:
    """Part the figure from the ground, and measure how well that went."""
    around = np.median(grey[~within])
    over = grey - around
    if (over[within] ** 3).sum() < 0:  # the figure is the rarer side: few pixels, far from the ground
        over = -over
    above = over > threshold_otsu(over)
    parts = label(above, connectivity=2)
    areas, whole = np.bincount(parts[within], minlength=parts.max() + 1), np.bincount(parts.ravel())
    areas[0] = 0
    kept = areas >= max(1.0, _LEAST_PART * areas.max())
    kept &= (areas >= _ENCLOSED * whole) | (areas == areas.max())
    figure = kept[parts] & within
    figure = remove_small_holes(figure, max_size=max(1, int(_LARGEST_HOLE * figure.sum())))
    return figure, _quality(over, figure, above, within)


def _quality(over: npt.NDArray[np.float32], figure: Pixels, above: Pixels, within: Pixels) -> Quality:
    count = int(figure.sum())
    if count in (0, figure.size):
        return Quality(0.0, 0.0, count / figure.size, 0.0, 1.0, 1.0, 0.0)
    contrast = float(over[figure].mean() - over[~figure].mean())
    spread = float(np.sqrt((over[figure].var() * count + over[~figure].var() * (figure.size - count)) / figure.size))
    box = within.any(axis=1), within.any(axis=0)
    boxed = figure[np.ix_(*box)]
    edge = np.concatenate([boxed[0], boxed[-1], boxed[:, 0], boxed[:, -1]])
    spans = [np.ptp(np.flatnonzero(boxed.any(axis=1 - axis))) + 1 for axis in (0, 1)]
    regions = regionprops(label(figure, connectivity=2))
    return Quality(
        contrast=contrast,
        separation=contrast / max(spread, 1e-3),
        share=count / boxed.size,
        reach=min(float(span / size) for span, size in zip(spans, boxed.shape, strict=True)),
        border=float(edge.mean()),
        beyond=float(above[~within].mean()),
        solidity=count / sum(float(region.area_convex) for region in regions),
    )
