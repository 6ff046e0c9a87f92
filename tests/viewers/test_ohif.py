"""OHIF draws what we write: a rectangle for each region of the SR, a colour for each segment, in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from drawn import assert_image_is_there, assert_overlay_is_there, assert_rectangles_are_there
from ohif import CONFIG, OHIF
from ohif_page import OhifPage
from peers import Orthanc
from playwright.sync_api import BrowserContext
from viewer_cases import CASES, Case
from viewer_page import Placement
from viewer_site import serve

from engine.findings import Box

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).parent.parent.parent
IMAGES = ROOT / "deploy" / "images" / "viewers"
NOT_SQUARE = "OHIF draws SR rectangles displaced where PixelSpacing is not square"


@dataclass(frozen=True)
class Opened:
    """A case's study, open in OHIF."""

    case: Case
    ohif: OhifPage
    picture: Path

    def place(self) -> tuple[Placement, list[Box]]:
        """Where the image is drawn, and where on it the reading's boxes are to be."""
        placement = self.ohif.placement()
        regions = self.case.regions(placement.sop_instance_uid, placement.frame)
        return placement, [placement.canvas(region.box) for region in regions]


def studies(*names: str, versions: Iterable[str] = OHIF, **flaws: str) -> pytest.MarkDecorator:
    """Cases in every OHIF; what one is known to get wrong is to fail, so that it is seen when it learns it."""
    marks = {name.replace("_", "-"): pytest.mark.xfail(strict=True, reason=flaws[name]) for name in flaws}
    params = [
        pytest.param((version, name), marks=marks.get(name, ()), id=f"{name}-{version}")
        for version in versions
        for name in names or CASES
    ]
    return pytest.mark.parametrize("opened", params, indirect=True, scope="module")


@pytest.fixture(scope="module")
def sites(orthanc: Orthanc) -> Iterator[dict[str, str]]:
    """OHIF's address, by version."""
    with ExitStack() as stack:
        folders = {version: package.fetch(ROOT / "build") / "dist" for version, package in OHIF.items()}
        yield {version: stack.enter_context(serve(folder, orthanc.url, CONFIG)) for version, folder in folders.items()}


@pytest.fixture(scope="module")
def opened(
    request: pytest.FixtureRequest, stored: dict[str, Case], browser: BrowserContext, sites: dict[str, str]
) -> Iterator[Opened]:
    """One page for all tests of a case: report, segmentations and pictures are loaded one after the other, and stay."""
    version, name = request.param
    case = stored[name]
    address = f"{sites[version]}/viewer?StudyInstanceUIDs={case.study.study_instance_uid}"
    with OhifPage.open(browser, address) as page:
        page.wait_for_image()
        yield Opened(case, page, IMAGES / f"ohif-{version}-{name}.jpg")


@studies(ct_not_square=NOT_SQUARE)
def test_rectangles_of_the_report_are_where_the_reading_has_them(opened: Opened) -> None:
    opened.ohif.load(opened.case.result("sr"))
    opened.ohif.keep(opened.picture)
    placement, wanted = opened.place()
    assert_rectangles_are_there(opened.ohif.rectangles(), wanted, placement)
    assert opened.ohif.errors == []


@studies()
def test_segments_are_where_the_reading_has_them(opened: Opened) -> None:
    ohif = opened.ohif
    for result in opened.case.results_of("seg"):
        ohif.load(result)
    # 3.12.10 shows the first frame of an enhanced CT again once its segmentation is loaded.
    first = opened.case.reading.findings[0].regions[0]
    ohif.go(first.sop_instance_uid, first.frame)
    ohif.keep(opened.picture)
    placement, wanted = opened.place()
    plain, covered = ohif.canvas(segmentations=False), ohif.canvas(segmentations=True)
    picture = opened.case.picture(placement.sop_instance_uid, placement.frame)
    assert_image_is_there(plain, picture, placement)
    assert_overlay_is_there(plain, covered, wanted, placement)
    assert ohif.errors == []


@studies()
def test_secondary_captures_are_shown_as_they_were_written(opened: Opened) -> None:
    (result, *_) = opened.case.results_of("sc")
    opened.ohif.show(result)
    opened.ohif.keep(opened.picture.with_name(f"{opened.picture.stem}-sc.jpg"))
    placement = opened.ohif.placement()
    assert placement.sop_instance_uid == result.SOPInstanceUID
    assert_image_is_there(opened.ohif.canvas(segmentations=False), np.asarray(result.pixel_array), placement)
    assert opened.ohif.errors == []


@studies("phantom", versions=["3.13.2"])  # 3.12.10 shows an empty viewport
def test_the_pdf_is_handed_to_the_browser(opened: Opened) -> None:
    result = opened.case.results_of("pdf")[0]
    shown = opened.ohif.document(result)
    opened.ohif.keep(opened.picture.with_name(f"{opened.picture.stem}-pdf.jpg"))
    assert shown.startswith(b"%PDF")
    assert shown.rstrip(b"\0") == result.EncapsulatedDocument.rstrip(b"\0")
    assert opened.ohif.errors == []
