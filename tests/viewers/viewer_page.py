"""OHIF in a browser: what it shows, what it draws, and where."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, Page
from pydicom.dataset import Dataset

from engine.findings import Box

MILLISECONDS = 120_000.0
"""Longest wait for anything; every wait ends with the event it waits for."""
WIDTH, COLOURS = 1000, 64
"""Of the pictures that are kept."""
_HIDE_TOUR = """document.addEventListener('DOMContentLoaded', () => {
    const style = document.createElement('style');
    style.textContent = '.shepherd-modal-overlay-container, .shepherd-element { display: none !important }';
    document.head.append(style);
})"""
_SHOWN = """() => (window.cornerstone?.getEnabledElements() ?? []).some(
    ({viewport}) =>
        viewport.viewportStatus === 'rendered' && viewport.getCurrentImageId?.() && viewport.getImageData())"""
_PLACEMENT = """() => {
    const {viewport} = cornerstone.getEnabledElements()[0];
    const {origin, spacing, direction, dimensions} = viewport.getImageData();
    const corner = (x, y) => viewport.worldToCanvas([0, 1, 2].map(k =>
        origin[k] + direction[k] * spacing[0] * (x - 0.5) + direction[3 + k] * spacing[1] * (y - 0.5)));
    const place = viewport.canvas.getBoundingClientRect();
    return {
        imageId: viewport.getCurrentImageId(), columns: dimensions[0], rows: dimensions[1],
        corners: [corner(0, 0), corner(dimensions[0], 0), corner(0, dimensions[1])],
        clip: {x: place.x, y: place.y, width: place.width, height: place.height},
    };
}"""
_RECTANGLES = """() => [...document.querySelectorAll('svg.svg-layer rect[data-id]')].map(shape =>
    [shape.x, shape.y, shape.width, shape.height].map(length => length.baseVal.value))"""
_SEGMENTATIONS = """() => cornerstoneTools.segmentation.state.getSegmentations().length > 0"""
_SHOW_SEGMENTATIONS = """visible => {
    const {viewport} = cornerstone.getEnabledElements()[0];
    const {state, config} = cornerstoneTools.segmentation;
    for (const {segmentationId, type} of state.getSegmentationRepresentations(viewport.id))
        config.visibility.setSegmentationRepresentationVisibility(viewport.id, {segmentationId, type}, visible);
    viewport.render();
    return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


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
class OhifPage:
    """A study open in OHIF."""

    page: Page
    errors: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(cls, browser: BrowserContext, site: str, study_instance_uid: str, failed: Path) -> Iterator[OhifPage]:
        """Open a study; a picture is left at `failed` if the block fails."""
        page = browser.new_page()
        page.set_default_timeout(MILLISECONDS)
        self = cls(page)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("response", lambda answer: self._refused(answer.status, answer.url))
        page.on("crash", lambda _: self.errors.append("the page crashed"))
        page.add_init_script(_HIDE_TOUR)
        try:
            page.goto(f"{site}/viewer?StudyInstanceUIDs={study_instance_uid}")
            page.wait_for_function(_SHOWN)
            yield self
        except BaseException:
            page.screenshot(path=failed)
            raise
        finally:
            page.close()

    def load(self, result: Dataset) -> None:
        """Open a result by a double click on its thumbnail, and say yes to having it tracked or loaded."""
        thumbnails = self.page.locator('[data-cy="study-browser-thumbnail-no-image"]')
        thumbnails.filter(has_text=f"S:{result.SeriesNumber}").dblclick()
        # What is asked of a person: whether a report's measurements, or segmentations, are to be taken over.
        question = self.page.get_by_role("button", name="Yes", exact=True)
        until = time.monotonic() + MILLISECONDS / 1000
        while not question.is_visible():
            assert not self.refusals, self.refusals
            assert time.monotonic() < until, "OHIF did not offer to take the result over"
            self.page.wait_for_timeout(200)
        question.click()
        segmentation = result.Modality == "SEG"
        self.page.wait_for_function(_SEGMENTATIONS if segmentation else f"() => ({_RECTANGLES})().length > 0")
        self.page.wait_for_function(_SHOWN)
        self.page.mouse.move(0, 0)
        self.settle()

    def _refused(self, status: int, url: str) -> None:
        if status >= 400 and "/dicom-web/" in url:
            self.refusals.append(f"{status} {url.split('/dicom-web/')[1]}")

    def settle(self) -> None:
        """Wait until two pictures in a row are the same: the viewer has drawn what it will draw."""
        last = b""
        while last != (last := self.page.screenshot()):
            self.page.wait_for_timeout(500)

    def placement(self) -> Placement:
        """Where the image of the viewport is drawn."""
        found = self.page.evaluate(_PLACEMENT)
        (x0, y0), (x1, y1), (x2, y2) = found["corners"]
        columns, rows = found["columns"], found["rows"]
        matrix = np.array([[(x1 - x0) / columns, (x2 - x0) / rows, x0], [(y1 - y0) / columns, (y2 - y0) / rows, y0]])
        parts = found["imageId"].split("/")
        return Placement(parts[parts.index("instances") + 1], int(parts[parts.index("frames") + 1]), matrix)

    def rectangles(self) -> list[Box]:
        """Every rectangle drawn over the image, in canvas pixels."""
        return [(x, y, x + width, y + height) for x, y, width, height in self.page.evaluate(_RECTANGLES)]

    def canvas(self) -> NDArray[np.uint8]:
        """The viewport as it is on the screen."""
        clip: Any = self.page.evaluate(_PLACEMENT)["clip"]
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(clip=clip))).convert("RGB"))

    def canvas_without_segmentations(self) -> NDArray[np.uint8]:
        """The viewport with its segmentations hidden for the while."""
        self.page.evaluate(_SHOW_SEGMENTATIONS, False)
        self.settle()
        found = self.canvas()
        self.page.evaluate(_SHOW_SEGMENTATIONS, True)
        self.settle()
        return found

    def keep(self, path: Path) -> None:
        """Keep a small picture of the whole page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        picture = picture.resize((WIDTH, picture.height * WIDTH // picture.width), Image.Resampling.LANCZOS)
        picture.quantize(COLOURS, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)
