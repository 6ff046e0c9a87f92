"""Orthanc's own viewer shows pictures, and no report: what the secondary captures are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn import assert_image_is_there
from peers import Orthanc
from playwright.sync_api import BrowserContext
from viewer_cases import CASES, Case
from viewer_page import Placement, ViewerPage

pytestmark = pytest.mark.timeout(300)
IMAGES = Path(__file__).parent.parent.parent / "deploy" / "images" / "viewers"
_SHOWN = """() => {
    const canvas = document.querySelector('canvas');
    return canvas && cornerstone.getEnabledElement(canvas.parentElement).image && $.active === 0;
}"""
_PLACEMENT = """() => {
    const element = document.querySelector('canvas').parentElement;
    const {columns, rows} = cornerstone.getEnabledElement(element).image;
    const place = element.getBoundingClientRect();
    const corner = (x, y) => {
        const point = cornerstone.pixelToCanvas(element, {x, y});
        return [point.x + place.x, point.y + place.y];
    };
    return {columns, rows, corners: [corner(0, 0), corner(columns, 0), corner(0, rows)]};
}"""


@pytest.mark.parametrize("name", CASES)
def test_secondary_captures_are_shown_as_they_were_written(
    name: str, stored: dict[str, Case], orthanc: Orthanc, browser: BrowserContext
) -> None:
    result, *others = stored[name].results_of("sc")
    assert not others, "which of them is shown is not told"
    series = orthanc.post("/tools/lookup", str(result.SeriesInstanceUID).encode())[0]["ID"]
    with ViewerPage.open(browser, f"{orthanc.url}/web-viewer/app/viewer.html?series={series}") as viewer:
        viewer.page.wait_for_function(_SHOWN)
        viewer.settle()
        viewer.keep(IMAGES / f"orthanc-{name}-sc.jpg")
        found = viewer.page.evaluate(_PLACEMENT)
        placement = Placement.from_corners(
            str(result.SOPInstanceUID), 1, (found["columns"], found["rows"]), found["corners"]
        )
        assert_image_is_there(viewer.picture(), np.asarray(result.pixel_array), placement)
        assert viewer.errors == []
