"""OHIF: how its page is set up, and what it says of what it draws."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from viewer_page import MILLISECONDS, Placement, ViewerPage

from engine.findings import Box

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
_SEGMENTATIONS = """count => cornerstoneTools.segmentation.state.getSegmentations().length >= count"""
_GO = """([uid, frame]) => {
    const {viewport} = cornerstone.getEnabledElements()[0];
    const wanted = new RegExp(`/instances/${uid}/frames/${frame}([^0-9]|$)`);
    return viewport.setImageIdIndex(viewport.getImageIds().findIndex(imageId => wanted.test(imageId)));
}"""
_SHOW_SEGMENTATIONS = """visible => {
    const {viewport} = cornerstone.getEnabledElements()[0];
    const {state, config} = cornerstoneTools.segmentation;
    for (const {segmentationId, type} of state.getSegmentationRepresentations(viewport.id))
        config.visibility.setSegmentationRepresentationVisibility(viewport.id, {segmentationId, type}, visible);
    viewport.render();
    return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""
_SHOW_RECTANGLES = """visible => document.querySelectorAll('svg.svg-layer').forEach(
    layer => { layer.style.visibility = visible ? '' : 'hidden' })"""


@dataclass
class OhifPage(ViewerPage):
    """A study open in OHIF."""

    refusals: list[str] = field(default_factory=list)
    segmentations: int = 0

    def prepare(self) -> None:
        self.page.on("response", lambda answer: self._refused(answer.status, answer.url))

    def _refused(self, status: int, url: str) -> None:
        if status >= 400 and "/dicom-web/" in url:
            self.refusals.append(f"{status} {url.split('/dicom-web/')[1]}")

    def wait_for_image(self) -> None:
        """Wait until the viewport shows one."""
        self.page.wait_for_function(_SHOWN)

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
        if result.Modality == "SEG":
            self.segmentations += 1
            self.page.wait_for_function(_SEGMENTATIONS, arg=self.segmentations)
        else:
            self.page.wait_for_function(f"() => ({_RECTANGLES})().length > 0")
        self.wait_for_image()
        self.page.mouse.move(0, 0)
        self.settle()

    def show(self, image: Dataset) -> None:
        """Open an image's series by a double click on its thumbnail, and wait until the image itself is shown."""
        thumbnails = self.page.locator('[data-cy="study-browser-thumbnail"]')
        thumbnails.filter(has_text=f"S:{image.SeriesNumber}").dblclick()
        self.page.wait_for_function(
            f"uid => ({_SHOWN})() && ({_PLACEMENT})().imageId.includes(uid)", arg=image.SOPInstanceUID
        )
        self.page.mouse.move(0, 0)
        self.settle()

    def go(self, sop_instance_uid: str, frame: int) -> None:
        """Go to a frame of the series that is shown."""
        self.page.evaluate(_GO, [sop_instance_uid, frame])
        self.wait_for_image()
        self.settle()

    def document(self, result: Dataset) -> bytes:
        """Open an encapsulated document by a double click on its thumbnail; gives what the browser is given to show."""
        thumbnails = self.page.locator('[data-cy="study-browser-thumbnail-no-image"]')
        thumbnails.filter(has_text=f"S:{result.SeriesNumber}").dblclick()
        address = self.page.wait_for_selector('object[type="application/pdf"][data]').get_attribute("data")
        self.settle()
        fetched = "async address => [...new Uint8Array(await (await fetch(address)).arrayBuffer())]"
        return bytes(self.page.evaluate(fetched, address))

    def placement(self) -> Placement:
        """Where the image of the viewport is drawn."""
        found = self.page.evaluate(_PLACEMENT)
        parts = found["imageId"].split("/")
        uid, frame = parts[parts.index("instances") + 1], int(parts[parts.index("frames") + 1])
        return Placement.from_corners(uid, frame, (found["columns"], found["rows"]), found["corners"])

    def rectangles(self) -> list[Box]:
        """Every rectangle drawn over the image, in canvas pixels."""
        return [(x, y, x + width, y + height) for x, y, width, height in self.page.evaluate(_RECTANGLES)]

    def canvas(self, *, segmentations: bool) -> NDArray[np.uint8]:
        """The viewport without its rectangles, with its segmentations or without."""
        self.page.evaluate(_SHOW_RECTANGLES, False)
        self.page.evaluate(_SHOW_SEGMENTATIONS, segmentations)
        self.settle()
        found = self.picture(self.page.evaluate(_PLACEMENT)["clip"])
        self.page.evaluate(_SHOW_SEGMENTATIONS, True)
        self.page.evaluate(_SHOW_RECTANGLES, True)
        self.settle()
        return found
