"""Breasts against air, with masses, specks and fibres, as in the accreditation phantom for mammography."""

from __future__ import annotations

import numpy as np

from engine.phantom.drawing import Insert, Outline, Scene
from engine.phantom.shapes import Point, Rng, blob, circle, curve, extent_of, flip, inside, place, rectangle, turned


def _breast_outline(rng: Rng, extent: Point) -> Outline:
    width, height = extent
    reach = rng.uniform(0.35, 0.92) * width
    top, bottom = rng.uniform(0.0, 0.16) * height, rng.uniform(0.84, 1.0) * height
    if rng.random() < 0.3:
        top = -rng.uniform(0.0, 0.2) * height
    if rng.random() < 0.3:
        bottom = height * rng.uniform(1.0, 1.2)
    t = np.linspace(0, 1, 80)
    power = rng.uniform(1.6, 3.2)
    profile = (1 - np.abs(2 * t - 1) ** power) ** (1 / rng.uniform(1.3, 2.2))
    skew = t + rng.uniform(-0.22, 0.22) * np.sin(np.pi * t)
    wave = 1 + rng.normal() * 0.04 * np.sin(2 * np.pi * t) + rng.normal() * 0.025 * np.sin(4 * np.pi * t)
    x, y = reach * profile * wave, top + (bottom - top) * skew
    outline = np.concatenate([np.stack([x, y], 1), [[-0.05, bottom], [-0.05, top]]])
    placed: Outline = outline / np.asarray(extent)
    return placed


def _detail(rng: Rng, extent: Point) -> Insert:
    label = ("mass", "specks", "fibre")[rng.integers(3)]
    centre = (rng.uniform(0, extent[0]), rng.uniform(0, extent[1]))
    angle = rng.uniform(0, 2 * np.pi)
    if label == "mass":
        half = rng.uniform(0.07, 0.16)
        part = curve(blob(rng, 0.1), centre, half, angle, extent)
        return Insert(label, (part,), rng.uniform(0.16, 0.34), softness=0.006)
    if label == "specks":
        half, dot = rng.uniform(0.07, 0.13), rng.uniform(0.012, 0.019)
        turns = angle + np.linspace(0, 2 * np.pi, int(rng.integers(5, 8)), endpoint=False)
        places = half * np.stack([np.cos(turns), np.sin(turns)], 1) * rng.uniform(0.8, 1.0, (len(turns), 1))
        places = np.concatenate([places, [[0.0, 0.0]]]) + np.asarray(centre)
        parts = tuple(curve(circle(n=16), (p[0], p[1]), dot, 0, extent) for p in places)
        return Insert(label, parts, rng.uniform(0.3, 0.5))
    half, thick = rng.uniform(0.1, 0.2), rng.uniform(0.011, 0.019)
    # Laid obliquely: a box says little about a line that runs along an axis.
    angle = np.deg2rad(rng.uniform(28, 62)) + np.pi / 2 * rng.integers(2)
    strip = rectangle(-1, -thick / half, 1, thick / half)
    return Insert(label, (curve(strip, centre, half, angle, extent),), rng.uniform(0.22, 0.42))


def breast(rng: Rng, aspect: float) -> Scene:
    """A breast against air, attached to the left or right edge, with up to three details in it."""
    extent = extent_of(aspect)
    flipped = rng.random() < 0.5
    outline = shape = _breast_outline(rng, extent)
    air, level = rng.uniform(0.0, 0.12), rng.uniform(0.18, 0.5)
    decoys: list[Insert] = []
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.5 else 0):
        x, y = rng.uniform(0.72, 0.97), rng.uniform(0.02, 0.95)
        w, h = rng.uniform(0.01, 0.08), rng.uniform(0.01, 0.08)
        decoys.append(Insert("label", (rectangle(x, y, x + w, y + h),), rng.uniform(0.2, 0.9)))
    if rng.random() < 0.3:  # the border of a scanned film
        edge = rng.uniform(0.004, 0.03)
        side = rectangle(1 - edge, 0, 1, 1) if rng.random() < 0.5 else rectangle(0, 1 - edge, 1, 1)
        decoys.append(Insert("film", (side,), rng.uniform(0.2, 0.9)))
    if rng.random() < 0.25:
        edge = rng.uniform(0.003, 0.02)
        decoys.append(Insert("film", (rectangle(0, 0, edge, 1),), -0.3))
    body = Insert("breast", (outline,), level, softness=rng.uniform(0.004, 0.02))
    glands: list[Insert] = []
    for _ in range(int(rng.integers(0, 4))):
        centre = (rng.uniform(0.05, 0.5) * extent[0], rng.uniform(0.25, 0.75) * extent[1])
        gland = curve(blob(rng, 0.35), centre, rng.uniform(0.1, 0.3), 0, extent)
        if inside(outline, gland):
            glands.append(Insert("gland", (gland,), rng.uniform(0.03, 0.18), softness=rng.uniform(0.015, 0.08)))
    for _ in range(int(rng.integers(0, 14)) if rng.random() < 0.6 else 0):  # ducts and vessels: not fibres to be found
        centre = (rng.uniform(0.02, 0.7) * extent[0], rng.uniform(0.15, 0.85) * extent[1])
        thin = rng.uniform(0.02, 0.08)
        duct = curve(rectangle(-1, -thin, 1, thin), centre, rng.uniform(0.05, 0.2), rng.uniform(0, 2 * np.pi), extent)
        if inside(outline, duct):
            glands.append(Insert("duct", (duct,), rng.uniform(0.02, 0.1), softness=rng.uniform(0.0, 0.006)))
    if rng.random() < 0.6:  # the pectoral muscle, in the upper corner of an oblique view
        across, down = rng.uniform(0.1, 0.4), rng.uniform(0.25, 0.6)
        slope = np.linspace(0.02, 0.98, 12)[:, None] * [across, -down] + [0.0, down]
        if inside(outline, slope.clip(0.002, None)):
            muscle = np.array([[0, 0], [across, 0], [0, down]])
            glands.append(Insert("muscle", (muscle,), rng.uniform(0.05, 0.3), softness=0.01))
    count = int(rng.choice([0, 1, 2, 3], p=[0.34, 0.34, 0.22, 0.1]))

    def fits(detail: Insert) -> bool:
        points = np.concatenate(detail.parts)
        return bool(points.min() > 0.01 and points.max() < 0.99) and inside(shape, points)

    details = place(lambda: _detail(rng, extent), count, fits)
    if flipped:
        body, outline = turned(body), flip(outline)
        decoys, glands, details = ([turned(i) for i in part] for part in (decoys, glands, details))
    return Scene(
        kind="breast",
        inserts=(body, *details),
        background=air,
        decoys=(*decoys, *glands),
        texture=rng.uniform(0.015, 0.12),
        noise=rng.uniform(0.0, 0.03),
        seed=int(rng.integers(2**31)),
        texture_inside=outline,
    )
