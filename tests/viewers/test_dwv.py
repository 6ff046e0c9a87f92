"""dwv draws what we write: the report's rectangles, and the segments, in their place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn import assert_image_is_there, assert_overlay_is_there, assert_rectangles_are_there
from dwv_page import VERSION, DwvPage, build_site
from peers import Orthanc
from playwright.sync_api import BrowserContext
from viewer_cases import CASES, Case
from viewer_site import serve

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parent.parent.parent
IMAGES = ROOT / "deploy" / "images" / "viewers"


@pytest.fixture(scope="module")
def site(orthanc: Orthanc) -> Iterator[str]:
    """The page's address; Orthanc's files are on the same origin."""
    with serve(build_site(ROOT / "build"), orthanc.url, proxied="/instances/") as address:
        yield address


FRAMES = "dwv 0.36.4 takes the frames of an instance for times of one slice, and no region is on any of them"


def cases(*flawed: str) -> list[object]:
    """Every case; those that dwv is known to get wrong are to fail, so that it is seen when it learns them."""
    xfail = pytest.mark.xfail(strict=True, reason=FRAMES)
    return [pytest.param(name, marks=xfail if name in flawed else ()) for name in CASES]


@pytest.mark.parametrize("name", cases("ultrasound", "enhanced-ct"))
def test_rectangles_and_segments_are_where_the_reading_has_them(
    name: str, stored: dict[str, Case], orthanc: Orthanc, browser: BrowserContext, site: str
) -> None:
    case = stored[name]

    def addresses(*uids: str) -> list[str]:
        found = [orthanc.post("/tools/lookup", uid.encode())[0]["ID"] for uid in uids]
        return [f"{site}/instances/{one}/file" for one in found]

    first = case.reading.findings[0].regions[0]
    with DwvPage.open(browser, site) as dwv:
        dwv.load(addresses(*(image.sop_instance_uid for image in case.study.instances)))
        placement = dwv.go(first.sop_instance_uid, first.frame)
        wanted = [placement.canvas(one.box) for one in case.regions(first.sop_instance_uid, first.frame)]
        dwv.load(addresses(str(case.result("sr").SOPInstanceUID)))
        dwv.keep(IMAGES / f"dwv-{VERSION}-{name}.jpg")
        assert_rectangles_are_there(dwv.rectangles(), wanted, placement)
        plain = dwv.canvas(rectangles=False)
        assert_image_is_there(plain, case.picture(first.sop_instance_uid, first.frame), placement)
        for result in case.results_of("seg"):
            dwv.load(addresses(str(result.SOPInstanceUID)))
        covered = dwv.canvas(rectangles=False)
        dwv.canvas(rectangles=True)
        dwv.keep(IMAGES / f"dwv-{VERSION}-{name}.jpg")
        assert_overlay_is_there(plain, covered, wanted, placement)
        assert dwv.errors == []
