"""Random scenes: plates with inserts, breasts with details, and images that are neither.

Coordinates are drawn in physical units (the smaller side of the image is 1) and stored as fractions of width and
height, so that inserts keep their shape on images of any aspect ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engine.phantom.drawing import PLATE_LABELS, Insert, Outline, Scene

Rng = np.random.Generator
Point = tuple[float, float]


def _curve(points: Outline, centre: Point, size: float, angle: float, extent: Point) -> Outline:
    """Unit outline -> scaled, turned, moved, in fractions of `extent` (width, height)."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned = points @ np.array([[cos, sin], [-sin, cos]])
    placed: Outline = (turned * size + np.asarray(centre)) / np.asarray(extent)
    return placed


def _circle(radius: float = 1.0, n: int = 64) -> Outline:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> Outline:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def _blob(rng: Rng, roughness: float, n: int = 96) -> Outline:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    radius = np.ones(n)
    for order in range(2, 6):
        radius += roughness * rng.normal() / order * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    blob: Outline = np.clip(radius, 0.4, 1.6)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return blob


def _parts(label: str, rng: Rng) -> list[Outline]:
    """Outlines of an insert of half-size 1 around the origin."""
    if label == "disc":
        return [_circle()]
    if label == "ring":
        return [_circle(), _circle(rng.uniform(0.5, 0.68))]
    if label == "bar pattern":
        bars = int(rng.integers(3, 5))
        width = 2 * 0.9 / (2 * bars - 1)
        return [_rectangle(-0.9 + 2 * i * width, -0.9, -0.9 + (2 * i + 1) * width, 0.9) for i in range(bars)]
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


def _clear(box: tuple[float, float, float, float], others: list[Insert], gap: float) -> bool:
    x0, y0, x1, y1 = box
    return all(
        x1 + gap < o[0] or o[2] + gap < x0 or y1 + gap < o[1] or o[3] + gap < y0
        for o in (other.box for other in others)
    )


def _place(make: Callable[[], Insert], count: int, fits: Callable[[Insert], bool]) -> list[Insert]:
    placed: list[Insert] = []
    for _ in range(count * 12):
        if len(placed) == count:
            break
        insert = make()
        if fits(insert) and _clear(insert.box, placed, 0.02):
            placed.append(insert)
    return placed


def _sign(rng: Rng) -> int:
    return 1 if rng.random() < 0.5 else -1


def plate(rng: Rng, aspect: float) -> Scene:
    """A plate with a rim and corner marks, and up to four inserts.

    Parameters
    ----------
    rng : Generator
    aspect : float
        Width over height of the image in physical units.
    """
    extent = (aspect, 1.0) if aspect >= 1 else (1.0, 1.0 / aspect)
    width, height = extent
    margin = rng.uniform(0.015, 0.09, 4)
    x0, y0, x1, y1 = margin[0], margin[1], width - margin[2], height - margin[3]
    background, level = rng.uniform(0.0, 0.25), rng.uniform(0.35, 0.65)
    if rng.random() < 0.5:
        background = 1 - background
    rim, step = rng.uniform(0.012, 0.03), _sign(rng) * rng.uniform(0.15, 0.3)
    scale = np.asarray(extent)
    decoys = [Insert("plate", (_rectangle(x0, y0, x1, y1) / scale,), level - background)]
    inset = rim * rng.uniform(1.0, 2.0)
    outer = (x0 + inset, y0 + inset, x1 - inset, y1 - inset)
    decoys.append(Insert("plate", (_rectangle(*outer) / scale,), step))
    inner = (outer[0] + rim, outer[1] + rim, outer[2] - rim, outer[3] - rim)
    decoys.append(Insert("plate", (_rectangle(*inner) / scale,), -step))
    mark = rng.uniform(0.012, 0.022)
    for cx in (inner[0] + 2 * mark, inner[2] - 2 * mark):
        for cy in (inner[1] + 2 * mark, inner[3] - 2 * mark):
            decoys.append(Insert("plate", (_rectangle(cx - mark, cy - mark, cx + mark, cy + mark) / scale,), step))

    def make() -> Insert:
        label = PLATE_LABELS[rng.integers(len(PLATE_LABELS))]
        half = rng.uniform(0.085, 0.2)
        centre = (rng.uniform(inner[0], inner[2]), rng.uniform(inner[1], inner[3]))
        angle = rng.uniform(0, 2 * np.pi)
        parts = tuple(_curve(part, centre, half, angle, extent) for part in _parts(label, rng))
        return Insert(label, parts, _sign(rng) * rng.uniform(0.14, 0.34))

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
        inserts=tuple(_place(make, count, fits)),
        background=background,
        decoys=tuple(decoys),
        gradient=(rng.normal() * 0.05, rng.normal() * 0.05),
        texture=rng.uniform(0, 0.02) * (rng.random() < 0.5),
        noise=rng.uniform(0.0, 0.04),
        seed=int(rng.integers(2**31)),
    )


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


def _flip(outline: Outline) -> Outline:
    return np.stack([1 - outline[:, 0], outline[:, 1]], 1)


def _turned(insert: Insert) -> Insert:
    return replace(insert, parts=tuple(_flip(part) for part in insert.parts))


def _inside(outline: Outline, points: Outline) -> bool:
    """Whether every point lies within a closed curve (even-odd rule)."""
    x, y = points[:, :1], points[:, 1:]
    ax, ay = outline[:, 0][None], outline[:, 1][None]
    bx, by = np.roll(ax, -1), np.roll(ay, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        crosses = ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return bool((crosses.sum(1) % 2 == 1).all())


def _detail(rng: Rng, extent: Point) -> Insert:
    label = ("mass", "specks", "fibre")[rng.integers(3)]
    centre = (rng.uniform(0, extent[0]), rng.uniform(0, extent[1]))
    angle = rng.uniform(0, 2 * np.pi)
    if label == "mass":
        half = rng.uniform(0.07, 0.16)
        part = _curve(_blob(rng, 0.1), centre, half, angle, extent)
        return Insert(label, (part,), rng.uniform(0.16, 0.34), softness=0.006)
    if label == "specks":
        half, dot = rng.uniform(0.07, 0.13), rng.uniform(0.012, 0.019)
        turns = angle + np.linspace(0, 2 * np.pi, int(rng.integers(5, 8)), endpoint=False)
        places = half * np.stack([np.cos(turns), np.sin(turns)], 1) * rng.uniform(0.8, 1.0, (len(turns), 1))
        places = np.concatenate([places, [[0.0, 0.0]]]) + np.asarray(centre)
        parts = tuple(_curve(_circle(n=16), (p[0], p[1]), dot, 0, extent) for p in places)
        return Insert(label, parts, rng.uniform(0.3, 0.5))
    half, thick = rng.uniform(0.1, 0.2), rng.uniform(0.011, 0.019)
    # Laid obliquely: a box says little about a line that runs along an axis.
    angle = np.deg2rad(rng.uniform(28, 62)) + np.pi / 2 * rng.integers(2)
    strip = _rectangle(-1, -thick / half, 1, thick / half)
    return Insert(label, (_curve(strip, centre, half, angle, extent),), rng.uniform(0.22, 0.42))


def breast(rng: Rng, aspect: float) -> Scene:
    """A breast against air, attached to the left or right edge, with up to three details in it."""
    extent = (aspect, 1.0) if aspect >= 1 else (1.0, 1.0 / aspect)
    flipped = rng.random() < 0.5
    outline = shape = _breast_outline(rng, extent)
    air, level = rng.uniform(0.0, 0.12), rng.uniform(0.18, 0.5)
    decoys: list[Insert] = []
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.5 else 0):
        x, y = rng.uniform(0.72, 0.97), rng.uniform(0.02, 0.95)
        w, h = rng.uniform(0.01, 0.08), rng.uniform(0.01, 0.08)
        decoys.append(Insert("label", (_rectangle(x, y, x + w, y + h),), rng.uniform(0.2, 0.9)))
    if rng.random() < 0.3:  # the border of a scanned film
        edge = rng.uniform(0.004, 0.03)
        side = _rectangle(1 - edge, 0, 1, 1) if rng.random() < 0.5 else _rectangle(0, 1 - edge, 1, 1)
        decoys.append(Insert("film", (side,), rng.uniform(0.2, 0.9)))
    if rng.random() < 0.25:
        edge = rng.uniform(0.003, 0.02)
        decoys.append(Insert("film", (_rectangle(0, 0, edge, 1),), -0.3))
    body = Insert("breast", (outline,), level, softness=rng.uniform(0.004, 0.02))
    glands: list[Insert] = []
    for _ in range(int(rng.integers(0, 4))):
        centre = (rng.uniform(0.05, 0.5) * extent[0], rng.uniform(0.25, 0.75) * extent[1])
        gland = _curve(_blob(rng, 0.35), centre, rng.uniform(0.1, 0.3), 0, extent)
        if _inside(outline, gland):
            glands.append(Insert("gland", (gland,), rng.uniform(0.03, 0.18), softness=rng.uniform(0.015, 0.08)))
    for _ in range(int(rng.integers(0, 14)) if rng.random() < 0.6 else 0):  # ducts and vessels: not fibres to be found
        centre = (rng.uniform(0.02, 0.7) * extent[0], rng.uniform(0.15, 0.85) * extent[1])
        thin = rng.uniform(0.02, 0.08)
        duct = _curve(_rectangle(-1, -thin, 1, thin), centre, rng.uniform(0.05, 0.2), rng.uniform(0, 2 * np.pi), extent)
        if _inside(outline, duct):
            glands.append(Insert("duct", (duct,), rng.uniform(0.02, 0.1), softness=rng.uniform(0.0, 0.006)))
    if rng.random() < 0.6:  # the pectoral muscle, in the upper corner of an oblique view
        across, down = rng.uniform(0.1, 0.4), rng.uniform(0.25, 0.6)
        slope = np.linspace(0.02, 0.98, 12)[:, None] * [across, -down] + [0.0, down]
        if _inside(outline, slope.clip(0.002, None)):
            muscle = np.array([[0, 0], [across, 0], [0, down]])
            glands.append(Insert("muscle", (muscle,), rng.uniform(0.05, 0.3), softness=0.01))
    count = int(rng.choice([0, 1, 2, 3], p=[0.34, 0.34, 0.22, 0.1]))

    def fits(detail: Insert) -> bool:
        points = np.concatenate(detail.parts)
        return bool(points.min() > 0.01 and points.max() < 0.99) and _inside(shape, points)

    details = _place(lambda: _detail(rng, extent), count, fits)
    if flipped:
        body, outline = _turned(body), _flip(outline)
        decoys, glands, details = ([_turned(i) for i in part] for part in (decoys, glands, details))
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


def other(rng: Rng, aspect: float) -> Scene:
    """An image that is neither phantom: bodies with organs, chests, fields, plain texture."""
    extent = (aspect, 1.0) if aspect >= 1 else (1.0, 1.0 / aspect)
    width, height = extent
    decoys: list[Insert] = []
    style = rng.integers(6)
    background = rng.uniform(0.0, 0.2) if rng.random() < 0.7 else rng.uniform(0, 1)
    centre = (width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.65))

    def ellipse(c: Point, rx: float, ry: float, contrast: float, soft: float = 0.004) -> Insert:
        shape = _blob(rng, rng.uniform(0, 0.2)) * [1.0, ry / rx]
        return Insert("organ", (_curve(shape, c, rx, rng.normal() * 0.3, extent),), contrast, softness=soft)

    if style <= 1:  # a body in cross-section, or a head
        rx, ry = rng.uniform(0.25, 0.6) * width, rng.uniform(0.22, 0.6) * height
        decoys.append(ellipse(centre, rx, ry, rng.uniform(0.2, 0.7)))
        for _ in range(int(rng.integers(2, 12))):
            c = (centre[0] + rng.normal() * rx * 0.35, centre[1] + rng.normal() * ry * 0.35)
            size = rng.uniform(0.02, 0.25)
            decoys.append(ellipse(c, size, size * rng.uniform(0.5, 1.8), rng.normal() * 0.25, rng.uniform(0, 0.02)))
    elif style == 2:  # a chest
        background = rng.uniform(0.4, 0.8)
        for side in (-1, 1):
            c = (centre[0] + side * 0.22 * width, centre[1])
            decoys.append(ellipse(c, 0.16 * width, 0.32 * height, -rng.uniform(0.2, 0.5), 0.02))
        for k in range(int(rng.integers(4, 10))):
            y = height * (0.15 + 0.08 * k)
            strip = _rectangle(0.1 * width, y, 0.9 * width, y + 0.02 * height) / np.asarray(extent)
            decoys.append(Insert("rib", (strip,), rng.uniform(0.02, 0.12), softness=0.008))
        decoys.append(ellipse((centre[0] + 0.08, centre[1] + 0.12), 0.16, 0.18, rng.uniform(0.1, 0.3), 0.02))
    elif style == 3:  # a round field of view, a spot
        decoys.append(ellipse(centre, rng.uniform(0.2, 0.55), rng.uniform(0.2, 0.55), rng.uniform(0.2, 0.7), 0.01))
        for _ in range(int(rng.integers(0, 6))):
            c = (rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height)
            decoys.append(ellipse(c, rng.uniform(0.02, 0.2), rng.uniform(0.02, 0.2), rng.normal() * 0.3, 0.02))
    elif style == 4:  # a fan, bars of grey, words
        for _ in range(int(rng.integers(1, 25))):
            x, y = rng.uniform(0, 1, 2)
            w, h = rng.uniform(0.01, 0.4), rng.uniform(0.005, 0.06)
            decoys.append(Insert("text", (_rectangle(x, y, x + w, y + h),), rng.normal() * 0.4))
        apex = np.array([[0.5, 0.02], [0.95, 0.9], [0.5, 0.98], [0.05, 0.9]])
        if rng.random() < 0.6:
            decoys.append(Insert("fan", (apex,), rng.uniform(0.1, 0.4), softness=0.004))
    if style == 1 and rng.random() < 0.5:  # reaches two opposite edges, as a limb or a neck does
        x0, x1 = sorted(rng.uniform(0.1, 0.9, 2))
        decoys.append(Insert("limb", (_rectangle(x0, -0.1, x1, 1.1),), rng.uniform(0.2, 0.5), softness=0.01))
    return Scene(
        kind="other",
        inserts=(),
        background=background,
        decoys=tuple(decoys),
        gradient=(rng.normal() * 0.1, rng.normal() * 0.1),
        texture=rng.uniform(0.0, 0.15),
        noise=rng.uniform(0.0, 0.06),
        seed=int(rng.integers(2**31)),
    )


def random_scene(rng: Rng) -> Scene:
    """A scene as the model is trained on: half plates, a third breasts, the rest neither."""
    aspect = float(np.exp(rng.uniform(np.log(0.6), np.log(1.6))))
    draw = rng.random()
    if draw < 0.47:
        return plate(rng, aspect)
    if draw < 0.80:
        return breast(rng, float(np.exp(rng.uniform(np.log(0.5), np.log(1.2)))))
    return other(rng, aspect)


def mirrored(scene: Scene) -> Scene:
    """The scene seen from behind; its drawing is the mirror image but for texture and noise."""
    return replace(scene, inserts=tuple(map(_turned, scene.inserts)), decoys=tuple(map(_turned, scene.decoys)))
