"""A viewer's page in a browser, whichever viewer it is: where it draws an image, and what it shows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, Page

from engine.findings import Box

MILLISECONDS = 120_000.0
"""Longest wait for anything; every wait ends with the event it waits for."""
WIDTH, QUALITY = 900, 70
"""Of the pictures that are kept."""


@dataclass(frozen=True)
class Placement:
    """Where the viewer draws an image.

    Parameters
    ----------
    sop_instance_uid : str
    frame : int
    matrix : array of shape (2, 3)
        From (column, row, 1) in the SCOORD frame of the image (PS3.3 C.18.6) to the canvas, in its pixels.
    """

    sop_instance_uid: str
    frame: int
    matrix: NDArray[np.float64]

    @classmethod
    def from_corners(cls, sop_instance_uid: str, frame: int, size: tuple[int, int], corners: list[list[float]]) -> Self:
        """Make one of where the outer corners are: top left, top right, bottom left; size is columns, rows."""
        (x0, y0), (x1, y1), (x2, y2) = corners
        columns, rows = size
        matrix = np.array([[(x1 - x0) / columns, (x2 - x0) / rows, x0], [(y1 - y0) / columns, (y2 - y0) / rows, y0]])
        return cls(sop_instance_uid, frame, matrix)

    @property
    def scale(self) -> float:
        """Canvas pixels an image pixel, along the shorter of its sides."""
        return float(np.linalg.norm(self.matrix[:, :2], axis=0).min())

    def canvas(self, box: Box) -> Box:
        """A box of the image on the canvas."""
        points = self.matrix @ np.array([[box[0], box[2]], [box[1], box[3]], [1.0, 1.0]])
        (x0, y0), (x1, y1) = points.min(axis=1), points.max(axis=1)
        return float(x0), float(y0), float(x1), float(y1)

    def source(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Column and row in the image of the centre of every pixel of a canvas of that shape."""
        y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
        shifted = np.stack([x - self.matrix[0, 2], y - self.matrix[1, 2]])
        return np.einsum("ij,jrc->irc", np.linalg.inv(self.matrix[:, :2]), shifted)


@dataclass
class ViewerPage:
    """A page of a viewer; what went wrong in it is in `errors`."""

    page: Page
    errors: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(cls, browser: BrowserContext, address: str) -> Iterator[Self]:
        """Open an address in a page of its own."""
        page = browser.new_page()
        page.set_default_timeout(MILLISECONDS)
        self = cls(page)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("crash", lambda _: self.errors.append("the page crashed"))
        self.prepare()
        try:
            page.goto(address)
            yield self
        finally:
            page.close()

    def prepare(self) -> None:
        """Do what is to be done before the page is loaded."""

    def settle(self) -> None:
        """Wait until two pictures in a row are the same: the viewer has drawn what it will draw."""
        last = b""
        while last != (last := self.page.screenshot()):
            self.page.wait_for_timeout(500)

    def picture(self, clip: Any = None) -> NDArray[np.uint8]:
        """The page, or a part of it (x, y, width, height), as it is on the screen."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(clip=clip))).convert("RGB"))

    def keep(self, path: Path) -> None:
        """Keep a small picture of the whole page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        picture = picture.resize((WIDTH, picture.height * WIDTH // picture.width), Image.Resampling.LANCZOS)
        picture.save(path, quality=QUALITY, optimize=True)
