"""OHIF draws what we write: a rectangle for each region of the SR, a colour for each segment, in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from peers import Orthanc
from playwright.sync_api import BrowserContext
from pydicom.dataset import Dataset
from viewer_cases import CASES, Case
from viewer_page import OhifPage, Placement

from engine.findings import Box
from sr_writer import dump, kind_of

pytestmark = pytest.mark.timeout(900)
IMAGES = Path(__file__).parent.parent.parent / "deploy" / "images" / "viewers"
PIXELS = 2.0
"""How far from its place anything may be drawn, in pixels of the image, and never less than that on the screen."""
NOT_SQUARE = "OHIF 3.13.2 draws SR rectangles displaced where PixelSpacing is not square"
OUTLINE = 4.0
"""Of a segment, which the viewer draws over the overlay: pixels of the screen to each side of its edge."""
ODD = "OHIF 3.13.2 (its dcmjs) misreads bits of several frames that do not fill bytes, or end in padding"


def cases(**flaws: str) -> list[object]:
    """Every case; those that a viewer is known to get wrong are to fail, so that it is seen when it learns them."""
    marks = {name.replace("_", "-"): pytest.mark.xfail(strict=True, reason=flaws[name]) for name in flaws}
    return [pytest.param(name, marks=marks.get(name, ())) for name in CASES]


@pytest.fixture(scope="module")
def stored(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every case asked for, once it was stored."""

    class Stored(dict[str, Case]):
        def __missing__(self, name: str) -> Case:
            case = self[name] = CASES[name](tmp_path_factory.mktemp(name))
            for instance in case.study.instances:
                orthanc.post("/instances", instance.path.read_bytes())
            for result in case.results:
                orthanc.post("/instances", dump(result))
            return case

    return Stored()


def result_of(case: Case, kind: str) -> Dataset:
    (found,) = [result for result in case.results if kind_of(result) == kind]
    return found


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def assert_image_is_there(canvas: NDArray[np.uint8], case: Case, placement: Placement) -> None:
    """The canvas shows this frame at this place: more like it than the same shifted, and much like it."""
    picture = case.picture(placement.sop_instance_uid, placement.frame).astype(float).mean(axis=2)
    rows, columns = picture.shape
    x, y = placement.source(canvas.shape[:2])
    shift = max(3.0, 3.0 / placement.scale)
    # Away from the edges, and from what the viewer writes into the corners of its viewport.
    inside = (x > 2 * shift) & (x < columns - 2 * shift) & (y > rows * 0.1) & (y < rows * 0.9)
    shown = canvas.astype(float).mean(axis=2)[inside]

    def likeness(dx: float, dy: float) -> float:
        return correlation(shown, picture[(y[inside] + dy).astype(int), (x[inside] + dx).astype(int)])

    here = likeness(0, 0)
    assert here > 0.9
    assert here > max(likeness(dx, dy) for dx in (-shift, 0, shift) for dy in (-shift, 0, shift) if dx or dy)


def inside_boxes(shape: tuple[int, int], boxes: list[Box], margin: float) -> NDArray[np.bool_]:
    """Which pixels of a canvas lie in one of the boxes made larger by a margin."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    found = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes:
        found |= (x > x0 - margin) & (x < x1 + margin) & (y > y0 - margin) & (y < y1 + margin)
    return found


def assert_tints_are_even(plain: NDArray[np.uint8], covered: NDArray[np.uint8], boxes: list[Box]) -> None:
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


@pytest.mark.parametrize("name", cases(ct_not_square=NOT_SQUARE))
def test_rectangles_of_the_report_are_where_the_reading_has_them(
    name: str, stored: dict[str, Case], browser: BrowserContext, site: str, tmp_path: Path
) -> None:
    case = stored[name]
    with OhifPage.open(browser, site, case.study.study_instance_uid, tmp_path / "failed.png") as ohif:
        ohif.load(result_of(case, "sr"))
        ohif.keep(IMAGES / f"{name}-sr.png")
        placement = ohif.placement()
        wanted = [placement.canvas(one.box) for one in case.regions(placement.sop_instance_uid, placement.frame)]
        drawn = ohif.rectangles()
        assert wanted, "the viewer did not go to the frame of a finding"
        assert len(drawn) == len(wanted)
        tolerance = PIXELS * max(1.0, placement.scale)
        for box in wanted:
            assert min(np.abs(np.subtract(box, other)).max() for other in drawn) <= tolerance, (wanted, drawn)
        assert ohif.errors == []


@pytest.mark.parametrize("name", cases(phantom_odd=ODD))
def test_segments_are_where_the_reading_has_them(
    name: str, stored: dict[str, Case], browser: BrowserContext, site: str, tmp_path: Path
) -> None:
    case = stored[name]
    with OhifPage.open(browser, site, case.study.study_instance_uid, tmp_path / "failed.png") as ohif:
        ohif.load(result_of(case, "seg"))
        ohif.keep(IMAGES / f"{name}-seg.png")
        placement = ohif.placement()
        wanted = [placement.canvas(one.box) for one in case.regions(placement.sop_instance_uid, placement.frame)]
        assert wanted, "the viewer did not go to the frame of a finding"
        plain, covered = ohif.canvas_without_segmentations(), ohif.canvas()
        assert_image_is_there(plain, case, placement)
        changed = np.abs(covered.astype(int) - plain).max(axis=2) > 12
        margin = PIXELS * max(1.0, placement.scale)
        assert changed[inside_boxes(changed.shape, wanted, -margin)].mean() > 0.99
        assert not changed[~inside_boxes(changed.shape, wanted, margin)].any()
        assert_tints_are_even(plain, covered, wanted)
        assert ohif.errors == []
