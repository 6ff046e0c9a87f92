"""What must hold of a viewer's picture: the image, the rectangles and the overlays are where the reading has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from viewer_page import Placement

from engine.findings import Box
from engine.runtime import Rgb

PIXELS = 2.0
"""How far from its place anything may be drawn, in pixels of the image, and never less than that on the screen."""
OUTLINE = 4.0
"""Of a segment, which the viewer draws over the overlay: pixels of the screen to each side of its edge."""


def tolerance(placement: Placement) -> float:
    return PIXELS * max(1.0, placement.scale)


def assert_image_is_there(canvas: NDArray[np.uint8], picture: Rgb, placement: Placement) -> None:
    """The canvas shows this picture at this place: more like it than the same shifted, and much like it."""
    gray = picture.astype(float).mean(axis=2)
    rows, columns = gray.shape
    x, y = placement.source(canvas.shape[:2])
    shift = max(3.0, 3.0 / placement.scale)
    # Away from the edges, and from what the viewer writes into the corners of its viewport.
    inside = (x > 2 * shift) & (x < columns - 2 * shift) & (y > rows * 0.1) & (y < rows * 0.9)
    shown = canvas.astype(float).mean(axis=2)[inside]

    def likeness(dx: float, dy: float) -> float:
        shifted = gray[(y[inside] + dy).astype(int), (x[inside] + dx).astype(int)]
        return float(np.corrcoef(shown, shifted)[0, 1])

    here = likeness(0, 0)
    assert here > 0.9
    assert here > max(likeness(dx, dy) for dx in (-shift, 0, shift) for dy in (-shift, 0, shift) if dx or dy)


def assert_rectangles_are_there(drawn: Sequence[Box], wanted: Sequence[Box], placement: Placement) -> None:
    """As many rectangles as wanted are drawn on the canvas, each wanted one in its place."""
    assert wanted, "the viewer did not go to the frame of a finding"
    assert len(drawn) == len(wanted)
    for box in wanted:
        assert min(np.abs(np.subtract(box, one)).max() for one in drawn) <= tolerance(placement), (wanted, drawn)


def assert_overlay_is_there(
    plain: NDArray[np.uint8], covered: NDArray[np.uint8], wanted: Sequence[Box], placement: Placement
) -> None:
    """The boxes wanted on the canvas are filled with colour, each with its own, and nothing else is."""
    assert wanted, "the viewer did not go to the frame of a finding"
    changed = np.abs(covered.astype(int) - plain).max(axis=2) > 12
    assert changed[inside_boxes(changed.shape, wanted, -tolerance(placement))].mean() > 0.99
    assert not changed[~inside_boxes(changed.shape, wanted, tolerance(placement))].any()
    _assert_tints_are_even(plain, covered, wanted)


def inside_boxes(shape: tuple[int, ...], boxes: Sequence[Box], margin: float) -> NDArray[np.bool_]:
    """Which pixels of a canvas lie in one of the boxes made larger by a margin."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    found = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes:
        found |= (x > x0 - margin) & (x < x1 + margin) & (y > y0 - margin) & (y < y1 + margin)
    return found


def _assert_tints_are_even(plain: NDArray[np.uint8], covered: NDArray[np.uint8], boxes: Sequence[Box]) -> None:
    """Pixels that the same segments cover are coloured alike: each segment is in its place, not only all together."""
    covers = [inside_boxes(plain.shape[:2], [box], 0.0) for box in boxes]
    edges = np.zeros(plain.shape[:2], bool)
    for box in boxes:
        edges |= inside_boxes(edges.shape, [box], OUTLINE) & ~inside_boxes(edges.shape, [box], -OUTLINE)
    which = sum((cover.astype(int) << number for number, cover in enumerate(covers)), np.zeros(edges.shape, int))
    for one in np.unique(which[which > 0]):
        here = (which == one) & ~edges
        if here.sum() < 50:
            continue
        for channel in range(3):
            before, after = plain[here, channel].astype(float), covered[here, channel].astype(float)
            fit = np.polyfit(before, after, 1) if np.ptp(before) > 8 else (0.0, np.median(after))
            assert (np.abs(np.polyval(fit, before) - after) > 24).mean() < 0.001
