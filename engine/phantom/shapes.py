"""Outlines of phantoms and how they are placed.

Coordinates are drawn in physical units (the smaller side of the image is 1) and stored as fractions of width and
height, so that inserts keep their shape on images of any aspect ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engine.phantom.drawing import Insert, Outline

Rng = np.random.Generator
Point = tuple[float, float]


def extent_of(aspect: float) -> Point:
    """Width and height of an image of that aspect ratio (width over height); the smaller is 1."""
    return (aspect, 1.0) if aspect >= 1 else (1.0, 1.0 / aspect)


def curve(points: Outline, centre: Point, size: float, angle: float, extent: Point) -> Outline:
    """Unit outline -> scaled, turned, moved, in fractions of `extent` (width, height)."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned = points @ np.array([[cos, sin], [-sin, cos]])
    placed: Outline = (turned * size + np.asarray(centre)) / np.asarray(extent)
    return placed


def circle(radius: float = 1.0, n: int = 64) -> Outline:
    """A circle around the origin."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Outline:
    """An upright rectangle."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def blob(rng: Rng, roughness: float, n: int = 96) -> Outline:
    """A circle around the origin with a wavy edge."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    radius = np.ones(n)
    for order in range(2, 6):
        radius += roughness * rng.normal() / order * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    blob: Outline = np.clip(radius, 0.4, 1.6)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return blob


def _clear(box: tuple[float, float, float, float], others: list[Insert], gap: float) -> bool:
    x0, y0, x1, y1 = box
    return all(
        x1 + gap < o[0] or o[2] + gap < x0 or y1 + gap < o[1] or o[3] + gap < y0
        for o in (other.box for other in others)
    )


def place(make: Callable[[], Insert], count: int, fits: Callable[[Insert], bool]) -> list[Insert]:
    """Up to `count` inserts that fit and keep clear of each other."""
    placed: list[Insert] = []
    for _ in range(count * 12):
        if len(placed) == count:
            break
        insert = make()
        if fits(insert) and _clear(insert.box, placed, 0.02):
            placed.append(insert)
    return placed


def sign(rng: Rng) -> int:
    """1 or -1."""
    return 1 if rng.random() < 0.5 else -1


def flip(outline: Outline) -> Outline:
    """The outline in a mirror."""
    return np.stack([1 - outline[:, 0], outline[:, 1]], 1)


def turned(insert: Insert) -> Insert:
    """The insert in a mirror."""
    return replace(insert, parts=tuple(flip(part) for part in insert.parts))


def inside(outline: Outline, points: Outline) -> bool:
    """Whether every point lies within a closed curve (even-odd rule)."""
    x, y = points[:, :1], points[:, 1:]
    ax, ay = outline[:, 0][None], outline[:, 1][None]
    bx, by = np.roll(ax, -1), np.roll(ay, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        crosses = ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return bool((crosses.sum(1) % 2 == 1).all())
