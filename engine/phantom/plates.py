"""Plates: a rim, corner marks, and inserts of five kinds, as in a radiographic QA phantom."""

from __future__ import annotations

import numpy as np

from engine.phantom.drawing import PLATE_LABELS, Insert, Outline, Scene
from engine.phantom.shapes import Rng, circle, curve, extent_of, place, rectangle, sign


def _parts(label: str, rng: Rng) -> list[Outline]:
    """Outlines of an insert of half-size 1 around the origin."""
    if label == "disc":
        return [circle()]
    if label == "ring":
        return [circle(), circle(rng.uniform(0.5, 0.68))]
    if label == "bar pattern":
        bars = int(rng.integers(3, 5))
        width = 2 * 0.9 / (2 * bars - 1)
        return [rectangle(-0.9 + 2 * i * width, -0.9, -0.9 + (2 * i + 1) * width, 0.9) for i in range(bars)]
    if label == "cross":
        arm = rng.uniform(0.22, 0.34)
        return [
            np.array(
                [
                    [-arm, -1], [arm, -1], [arm, -arm], [1, -arm], [1, arm], [arm, arm],
                    [arm, 1], [-arm, 1], [-arm, arm], [-1, arm], [-1, -arm], [-arm, -arm],
                ]
            )
        ]  # fmt: skip
    return [np.array([[-1.0, 0.62], [1.0, 0.62], [0.0, -0.95]]) * [rng.uniform(0.75, 1.0), 1.0]]


def plate(rng: Rng, aspect: float) -> Scene:
    """A plate with a rim and corner marks, and up to four inserts.

    Parameters
    ----------
    rng : Generator
    aspect : float
        Width over height of the image in physical units.
    """
    extent = extent_of(aspect)
    width, height = extent
    margin = rng.uniform(0.015, 0.09, 4)
    x0, y0, x1, y1 = margin[0], margin[1], width - margin[2], height - margin[3]
    background, level = rng.uniform(0.0, 0.25), rng.uniform(0.35, 0.65)
    if rng.random() < 0.5:
        background = 1 - background
    rim, step = rng.uniform(0.012, 0.03), sign(rng) * rng.uniform(0.15, 0.3)
    scale = np.asarray(extent)
    decoys = [Insert("plate", (rectangle(x0, y0, x1, y1) / scale,), level - background)]
    inset = rim * rng.uniform(1.0, 2.0)
    outer = (x0 + inset, y0 + inset, x1 - inset, y1 - inset)
    decoys.append(Insert("plate", (rectangle(*outer) / scale,), step))
    inner = (outer[0] + rim, outer[1] + rim, outer[2] - rim, outer[3] - rim)
    decoys.append(Insert("plate", (rectangle(*inner) / scale,), -step))
    mark = rng.uniform(0.012, 0.022)
    for cx in (inner[0] + 2 * mark, inner[2] - 2 * mark):
        for cy in (inner[1] + 2 * mark, inner[3] - 2 * mark):
            decoys.append(Insert("plate", (rectangle(cx - mark, cy - mark, cx + mark, cy + mark) / scale,), step))

    def make() -> Insert:
        label = PLATE_LABELS[rng.integers(len(PLATE_LABELS))]
        half = rng.uniform(0.085, 0.2)
        centre = (rng.uniform(inner[0], inner[2]), rng.uniform(inner[1], inner[3]))
        angle = rng.uniform(0, 2 * np.pi)
        parts = tuple(curve(part, centre, half, angle, extent) for part in _parts(label, rng))
        return Insert(label, parts, sign(rng) * rng.uniform(0.14, 0.34))

    def fits(insert: Insert) -> bool:
        a, b, c, d = insert.box
        pad = 0.015
        return bool(
            a * width > inner[0] + pad
            and b * height > inner[1] + pad
            and c * width < inner[2] - pad
            and d * height < inner[3] - pad
        )

    count = int(rng.choice([0, 1, 2, 3, 4], p=[0.08, 0.3, 0.32, 0.2, 0.1]))
    return Scene(
        kind="plate",
        inserts=tuple(place(make, count, fits)),
        background=background,
        decoys=tuple(decoys),
        gradient=(rng.normal() * 0.05, rng.normal() * 0.05),
        texture=rng.uniform(0, 0.02) * (rng.random() < 0.5),
        noise=rng.uniform(0.0, 0.04),
        seed=int(rng.integers(2**31)),
    )
