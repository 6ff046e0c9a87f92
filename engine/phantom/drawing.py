"""Drawing phantoms: plates with inserts, and breasts with details, from a description in physical units.

A scene is described once and can be drawn on any pixel grid: the same code makes the DICOM images that the node reads
and the small squares that the model is trained on. Every box is computed from the description, never from pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFilter

Image = npt.NDArray[np.float32]
Outline = npt.NDArray[np.float64]
"""Vertices of a closed curve, [n, 2], (x, y) in units of the image's (width, height): 0 to 1."""

PLATE_LABELS: Final = ("disc", "ring", "bar pattern", "cross", "wedge")
BREAST_LABELS: Final = ("breast", "mass", "specks", "fibre")
LABELS: Final = PLATE_LABELS + BREAST_LABELS

Kind = Literal["plate", "breast", "other"]


@dataclass(frozen=True)
class Insert:
    """One thing to find.

    Parameters
    ----------
    label : str
        One of `LABELS`.
    parts : tuple of Outline
        Filled curves that make it up (a ring's second one is a hole).
    contrast : float
        What it adds to the background; negative is darker.
    softness : float
        Width of its edge in units of the smaller side.
    """

    label: str
    parts: tuple[Outline, ...]
    contrast: float
    softness: float = 0.0

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) in units of the image's width and height, clipped to the image."""
        points = np.concatenate(self.parts)
        (x0, y0), (x1, y1) = points.min(0).clip(0, 1), points.max(0).clip(0, 1)
        return float(x0), float(y0), float(x1), float(y1)

    @property
    def bright(self) -> bool:
        """Whether it is brighter than what surrounds it."""
        return self.contrast > 0


@dataclass(frozen=True)
class Scene:
    """A whole image: what to find, and everything around it.

    Parameters
    ----------
    kind : {"plate", "breast", "other"}
    inserts : tuple of Insert
        In drawing order.
    background : float
        Grey value (0 to 1) of the air around the phantom.
    decoys : tuple of Insert
        Drawn but not to be found (the plate itself, film labels, muscle, organs).
    gradient : tuple of float
        Shading across the image in x and y.
    texture, noise : float
        Amplitude of low-frequency structure and of pixel noise.
    seed : int
        For texture and noise.
    """

    kind: Kind
    inserts: tuple[Insert, ...]
    background: float
    decoys: tuple[Insert, ...] = ()
    gradient: tuple[float, float] = (0.0, 0.0)
    texture: float = 0.0
    noise: float = 0.0
    seed: int = 0
    texture_inside: Outline | None = field(default=None)


def coverage(outline: Outline, rows: int, columns: int, softness: float = 0.0) -> tuple[slice, slice, Image] | None:
    """How much of each pixel a closed curve covers, within the curve's own window.

    A polygon is filled on a grid four times as fine and averaged; a soft edge is a blur of it.

    Returns
    -------
    tuple of slice, slice, ndarray or None
        Rows, columns, and coverage 0 to 1; None when the curve lies outside the image.
    """
    pad = softness * min(rows, columns) * 2 + 1
    x, y = outline[:, 0] * columns, outline[:, 1] * rows
    c0, c1 = max(0, int(x.min() - pad)), min(columns, int(np.ceil(x.max() + pad)))
    r0, r1 = max(0, int(y.min() - pad)), min(rows, int(np.ceil(y.max() + pad)))
    if c0 >= c1 or r0 >= r1:
        return None
    fine = 4 if max(c1 - c0, r1 - r0) < 600 else 2
    canvas = Pillow.new("L", ((c1 - c0) * fine, (r1 - r0) * fine))
    # Pillow's polygon includes its border pixels, whose centres are at integers: half a fine pixel back.
    points = np.stack([(x - c0) * fine - 0.5, (y - r0) * fine - 0.5], 1)
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in points], fill=255)
    small = canvas.reduce(fine)
    if softness:
        small = small.filter(ImageFilter.GaussianBlur(softness * min(rows, columns)))
    return slice(r0, r1), slice(c0, c1), np.asarray(small, np.float32) / 255.0


def structure(rng: np.random.Generator, rows: int, columns: int) -> Image:
    """Low-frequency structure of zero mean and about unit deviation, like overlapping tissue."""
    total = np.zeros((rows, columns), np.float32)
    for cells, weight in ((4, 1.0), (9, 0.7), (20, 0.45), (45, 0.3), (90, 0.15)):
        coarse = rng.standard_normal((cells, cells), np.float32)
        grown = Pillow.fromarray(coarse).resize((columns, rows), Pillow.Resampling.BICUBIC)
        total += weight * np.asarray(grown, np.float32)
    return total / 1.2


def paint(image: Image, insert: Insert) -> None:
    """Add an insert to an image, in place."""
    rows, columns = image.shape
    for part, outline in enumerate(insert.parts):
        covered = coverage(outline, rows, columns, insert.softness)
        if covered is None:
            continue
        down, across, amount = covered
        hole = insert.label == "ring" and part == 1
        image[down, across] += (-insert.contrast if hole else insert.contrast) * amount


def draw(scene: Scene, rows: int, columns: int) -> Image:
    """Draw a scene on a pixel grid.

    Returns
    -------
    ndarray of float32, [rows, columns]
        Grey values, 0 (black) to 1 (white).
    """
    rng = np.random.default_rng(scene.seed)
    image = np.full((rows, columns), scene.background, np.float32)
    for decoy in scene.decoys:
        paint(image, decoy)
    if scene.kind == "breast":
        paint(image, scene.inserts[0])
    if scene.texture:
        grain = scene.texture * structure(rng, rows, columns)
        if scene.texture_inside is not None:
            covered = coverage(scene.texture_inside, rows, columns, 0.01)
            if covered is not None:
                down, across, amount = covered
                image[down, across] += grain[down, across] * amount
        else:
            image += grain
    if any(scene.gradient):
        ramp_x = np.linspace(-0.5, 0.5, columns, dtype=np.float32)[None]
        ramp_y = np.linspace(-0.5, 0.5, rows, dtype=np.float32)[:, None]
        image += scene.gradient[0] * ramp_x + scene.gradient[1] * ramp_y
    for insert in scene.inserts[1:] if scene.kind == "breast" else scene.inserts:
        paint(image, insert)
    if scene.noise:
        image += scene.noise * rng.standard_normal((rows, columns), np.float32)
    return np.clip(image, 0.0, 1.0)
