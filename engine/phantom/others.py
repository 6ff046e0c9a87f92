"""Images that are no phantom: the model is to find nothing in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from engine.phantom.drawing import Insert, Scene
from engine.phantom.shapes import Point, Rng, blob, curve, extent_of, rectangle


def _ellipse(rng: Rng, extent: Point, centre: Point, rx: float, ry: float, contrast: float, soft: float) -> Insert:
    shape = blob(rng, rng.uniform(0, 0.2)) * [1.0, ry / rx]
    return Insert("organ", (curve(shape, centre, rx, rng.normal() * 0.3, extent),), contrast, softness=soft)


def _strip(rng: Rng, extent: Point, centre: Point, half: float, thick: float, angle: float, contrast: float) -> Insert:
    shape = rectangle(-1, -thick / half, 1, thick / half)
    return Insert("bone", (curve(shape, centre, half, angle, extent),), contrast, softness=rng.uniform(0.002, 0.01))


def _middle(rng: Rng, extent: Point, low: float = 0.35, high: float = 0.65) -> Point:
    return rng.uniform(low, high) * extent[0], rng.uniform(low, high) * extent[1]


def _body(rng: Rng, extent: Point) -> list[Insert]:
    """A cross-section, a head, a limb: an outline with organs of strong contrast, sometimes cut by the image's edge."""
    width, height = extent
    cut = rng.random() < 0.5
    centre = _middle(rng, extent, 0.0, 1.0) if cut else _middle(rng, extent)
    rx, ry = rng.uniform(0.25, 0.6) * width, rng.uniform(0.22, 0.6) * height
    found = [_ellipse(rng, extent, centre, rx, ry, rng.uniform(0.2, 0.7), 0.004)]
    for _ in range(int(rng.integers(3, 14))):
        c = (centre[0] + rng.normal() * rx * 0.35, centre[1] + rng.normal() * ry * 0.35)
        size = rng.uniform(0.02, 0.25)
        soft = rng.uniform(0, 0.02)
        contrast = rng.choice([-1, 1]) * rng.uniform(0.08, 0.5)
        found.append(_ellipse(rng, extent, c, size, size * rng.uniform(0.5, 1.8), contrast, soft))
    if rng.random() < 0.3:  # reaches two opposite edges, as a limb or a neck does
        x0, x1 = sorted(rng.uniform(0.1, 0.9, 2))
        found.append(Insert("limb", (rectangle(x0, -0.1, x1, 1.1),), rng.uniform(0.2, 0.5), softness=0.01))
    return found


def _chest(rng: Rng, extent: Point) -> list[Insert]:
    """Lungs, ribs, clavicles, spine, heart, and the letters and wires that lie over them."""
    width, height = extent
    centre = _middle(rng, extent, 0.42, 0.58)
    found = []
    for side in (-1, 1):
        c = (centre[0] + side * rng.uniform(0.18, 0.26) * width, centre[1])
        size = (rng.uniform(0.12, 0.19) * width, rng.uniform(0.26, 0.38) * height)
        found.append(_ellipse(rng, extent, c, *size, -rng.uniform(0.2, 0.5), rng.uniform(0.01, 0.03)))
        for k in range(int(rng.integers(4, 10))):
            c = (centre[0] + side * 0.22 * width, height * (0.15 + 0.08 * k))
            tilt = side * rng.uniform(0.0, 0.5)
            found.append(_strip(rng, extent, c, 0.2 * width, 0.01, tilt, rng.uniform(0.02, 0.14)))
        c = (centre[0] + side * 0.17 * width, 0.14 * height)
        tilt = -side * rng.uniform(0.1, 0.5)
        found.append(_strip(rng, extent, c, 0.17 * width, 0.015, tilt, rng.uniform(0.05, 0.2)))
    spine = (centre[0], 0.5 * height)
    found.append(_strip(rng, extent, spine, 0.5 * height, 0.05 * width, np.pi / 2, rng.uniform(0.05, 0.2)))
    heart = (centre[0] + 0.08 * width, centre[1] + 0.12 * height)
    found.append(_ellipse(rng, extent, heart, 0.16 * width, 0.18 * height, rng.uniform(0.1, 0.3), 0.02))
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0, 1, 2)
        found.append(Insert("letter", (rectangle(x, y, x + rng.uniform(0.01, 0.05), y + 0.03),), rng.uniform(0.2, 0.6)))
    for _ in range(int(rng.integers(0, 4))):
        wire = rng.uniform(0.05, 0.3)
        angle = rng.uniform(0, np.pi)
        found.append(_strip(rng, extent, _middle(rng, extent, 0.1, 0.9), wire, 0.004, angle, rng.uniform(0.1, 0.3)))
    return found


def _field(rng: Rng, extent: Point) -> list[Insert]:
    """A round field of view, or a spot on skin."""
    size = rng.uniform(0.2, 0.55, 2)
    found = [_ellipse(rng, extent, _middle(rng, extent), size[0], size[1], rng.uniform(0.2, 0.7), 0.01)]
    for _ in range(int(rng.integers(0, 6))):
        c = _middle(rng, extent, 0.2, 0.8)
        size = rng.uniform(0.02, 0.2, 2)
        found.append(_ellipse(rng, extent, c, size[0], size[1], rng.normal() * 0.3, 0.02))
    return found


def _fan(rng: Rng, extent: Point) -> list[Insert]:
    """An ultrasound's fan, grey bars, words, a screen."""
    del extent
    found = []
    for _ in range(int(rng.integers(1, 25))):
        x, y = rng.uniform(0, 1, 2)
        w, h = rng.uniform(0.01, 0.4), rng.uniform(0.005, 0.06)
        found.append(Insert("text", (rectangle(x, y, x + w, y + h),), rng.normal() * 0.4))
    if rng.random() < 0.6:
        apex = np.array([[0.5, 0.02], [0.95, 0.9], [0.5, 0.98], [0.05, 0.9]])
        found.append(Insert("fan", (apex,), rng.uniform(0.1, 0.4), softness=0.004))
    return found


def _texture(rng: Rng, extent: Point) -> list[Insert]:
    """Nothing but texture and noise."""
    del rng, extent
    return []


_KINDS: Final[tuple[Callable[[Rng, Point], list[Insert]], ...]] = (
    _body,
    _body,
    _body,
    _chest,
    _chest,
    _field,
    _fan,
    _texture,
)


def other(rng: Rng, aspect: float) -> Scene:
    """An image that is neither phantom: a body, a chest, a field of view, a fan, plain texture."""
    make = _KINDS[rng.integers(len(_KINDS))]
    background = rng.uniform(0.0, 0.2) if rng.random() < 0.7 else rng.uniform(0, 1)
    if make is _chest:
        background = rng.uniform(0.4, 0.8)
    return Scene(
        kind="other",
        inserts=(),
        background=background,
        decoys=tuple(make(rng, extent_of(aspect))),
        gradient=(rng.normal() * 0.1, rng.normal() * 0.1),
        texture=rng.uniform(0.0, 0.15),
        noise=rng.uniform(0.0, 0.06),
        seed=int(rng.integers(2**31)),
    )
