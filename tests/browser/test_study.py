"""The study page in a browser: boxes at their pixels, the picture's tools, odd names, long reports, and actions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_page import found_by_axe, keep
from console_client import Console
from node_bench import image
from PIL import Image
from playwright.sync_api import Page, expect
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from queued import queue_complete
from study_bench import StudyBench, corners, finding, reading_of

from dicom_node.console.accounts import Role
from dicom_node.ledger import State
from dicom_node.reading.reader import Reader
from engine.findings import Region, StudyReading
from engine.masks import pack
from engine.phantom.studies import write_phantoms

Open = Callable[..., Page]
BOX = (8, 16, 12, 20)
EDGES = "e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; }"


@pytest.fixture
def bench(console: Console) -> StudyBench:
    return StudyBench(console.ledger, console.spool)


def colour(frames: int, *, rows: int = 60, columns: int = 80) -> Dataset:
    """A colour clip whose last frame has a white square where `corners` has it."""
    pixels = np.full((frames, rows, columns, 3), (40, 0, 90), np.uint8)
    pixels[-1, 16:20, 8:12] = 255
    elements: dict[str, Any] = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    return image(Rows=rows, Columns=columns, NumberOfFrames=frames, PixelData=pixels.tobytes(), **elements)


CASES = {
    "plain": (corners(48, 64), 1),
    "tall pixels": (corners(48, 64, PixelSpacing=[2, 1]), 1),
    "wide pixels": (corners(128, 32, PixelAspectRatio=[1, 3]), 1),
    "MONOCHROME1": (corners(64, 64, PhotometricInterpretation="MONOCHROME1"), 1),
    "a clip": (colour(3), 3),
}


@pytest.mark.parametrize("case", CASES)
def test_a_box_lies_where_its_pixels_are(case: str, bench: StudyBench, open_page: Open) -> None:
    dataset, frame = CASES[case]
    study = bench.receive(dataset)
    bench.read(reading_of([dataset], finding(dataset, BOX, frame=frame)))
    page = open_page(Role.VIEWER, viewport={"width": 1280, "height": 1800})
    page.goto(f"/study/{study}", wait_until="networkidle")
    drawn = page.locator("svg.picture rect[data-region]").evaluate(EDGES)
    page.keyboard.press("h")  # so that the picture alone is seen
    expect(page.locator("svg.picture text")).to_be_hidden()
    pixels = page.locator("svg.picture image")
    pixels.evaluate("image => { image.style.imageRendering = 'pixelated'; }")  # edges as sharp as they are
    left, top, right, bottom = pixels.evaluate(EDGES)
    seen = np.asarray(Image.open(BytesIO(page.screenshot())).convert("L")).astype(int)
    x, y = round(left) + 3, round(top) + 3  # without what is around the picture
    inside = seen[y : round(bottom) - 3, x : round(right) - 3]
    rows, columns = np.nonzero(abs(inside - inside[0, 0]) > 110)  # half way between the square and what is around it
    edges = [columns.min() + x, rows.min() + y, columns.max() + x + 1, rows.max() + y + 1]
    assert edges == pytest.approx(drawn, abs=1)  # of the screen's pixels; one of the image's has ten or more


def series(number: int, **elements: Any) -> list[Dataset]:
    """Slices of a CT."""
    study, uid = generate_uid(), generate_uid()
    common = {"Modality": "CT", "WindowCenter": 128, "WindowWidth": 255, "PatientName": "PHANTOM^ONE"}
    return [corners(96, 96, study=study, series=uid, InstanceNumber=n + 1, **common | elements) for n in range(number)]


def two_findings(slices: Sequence[Dataset], middle: int) -> StudyReading:
    """A disc on one slice, and a ring with an outline on that and the next."""
    mask = pack(np.hypot(*np.mgrid[-9.5:10, -9.5:10]) < 9, 40, 40, "by hand")
    regions = [Region(slices[n].SOPInstanceUID, 1, (40, 40, 60, 60), mask) for n in (middle, middle + 1)]
    ring = finding(
        slices[middle],
        BOX,
        names={"en": "Ring", "zh": "圆环"},
        text={"en": "A ring in the middle of the slice.", "zh": "层面中央的圆环。"},
        certainty=0.64,
        regions=tuple(regions),
        notes=("name not confirmed when asked back",),
    )
    return reading_of(slices, finding(slices[middle], BOX), ring)


def test_three_hundred_images_are_gone_through_by_keys_slider_and_links(bench: StudyBench, open_page: Open) -> None:
    slices = series(300)
    study = bench.receive(*slices)
    bench.read(two_findings(slices, 120), ["pacs"])
    page = open_page(Role.VIEWER)
    page.goto(f"/study/{study}", wait_until="networkidle")
    number = page.locator("label[for=image]")
    expect(number).to_have_text("Image 121 of 300")
    page.keyboard.press("ArrowRight")
    expect(number).to_have_text("Image 122 of 300")
    page.keyboard.press("ArrowLeft")
    expect(number).to_have_text("Image 121 of 300")
    page.locator("#image").fill("299")
    expect(number).to_have_text("Image 299 of 300")
    expect(page.locator("svg.picture rect[data-region]")).to_have_count(0)
    page.get_by_role("link", name="image 122").click()
    expect(number).to_have_text("Image 122 of 300")
    expect(page.locator("svg.picture rect[data-region]")).to_have_count(1)


def test_the_picture_has_its_tools(bench: StudyBench, open_page: Open) -> None:
    slices = series(3)
    study = bench.receive(*slices)
    bench.read(two_findings(slices, 0))
    page = open_page(Role.VIEWER)
    page.goto(f"/study/{study}", wait_until="networkidle")
    marks = page.locator("svg.picture g.mark:visible")
    expect(marks).to_have_count(2)
    page.get_by_label("Ring", exact=True).uncheck()
    expect(marks).to_have_count(1)
    page.keyboard.press("ArrowRight")  # what was switched off stays so on the next image
    expect(page.locator("label[for=image]")).to_have_text("Image 2 of 3")
    expect(marks).to_have_count(0)
    picture = page.locator("svg.picture")
    before = picture.bounding_box()
    page.keyboard.press("+")
    after = picture.bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] > before["width"] * 1.2
    page.get_by_role("button", name="Fit").click()
    assert (picture.bounding_box() or {})["width"] == before["width"]
    page.mouse.move(before["x"] + 300, before["y"] + 100)
    page.mouse.down()
    page.mouse.move(before["x"] + 400, before["y"] + 150, steps=4)
    page.mouse.up()
    expect(page.locator("svg.picture image")).to_have_attribute("href", re.compile("center="))
    expect(page.get_by_role("link", name="The image's own")).to_be_visible()
    width = float(page.get_by_label("Width").input_value())
    assert width > 255
    page.get_by_role("link", name="lung").click()
    expect(page.get_by_label("Width")).to_have_value("1500")
    page.get_by_role("link", name="Previous image").click()  # the window goes along
    expect(page.locator("label[for=image]")).to_have_text("Image 1 of 3")
    expect(page.get_by_label("Width")).to_have_value("1500")


def test_names_of_every_script_are_words_and_a_phone_shows_them(bench: StudyBench, open_page: Open) -> None:
    name = "<script>alert(1)</script>^\u202eأحمد=山田^太郎=e\u0301\u0323\u0302"
    dataset = corners(64, 64, patient=name, StudyDescription='"><img src=x onerror=alert(2)>', AccessionNumber="<b>7")
    study = bench.receive(dataset)
    report = "\n".join(f"Line {number}: <b>nothing</b> to see here, {'x' * 40}" for number in range(10_000))
    bench.read(reading_of([dataset], finding(dataset, BOX), narrative={"en": report, "zh": "所见：<i>圆盘</i>。"}))
    page = open_page(Role.VIEWER, viewport={"width": 360, "height": 740}, color_scheme="dark")
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto(f"/study/{study}", wait_until="networkidle")
    expect(page.locator(".name").first).to_have_text("<script>alert(1)</script> \u202eأحمد")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    told = page.locator(".narrative").first
    assert told.evaluate("box => box.scrollHeight > 20 * box.clientHeight")
    expect(told).to_contain_text("Line 9999: <b>nothing</b>")
    keep(page, "study-phone-dark")


def test_a_picture_that_cannot_be_made_says_why(bench: StudyBench, open_page: Open) -> None:
    study = bench.receive(image(PixelData=b"\0\0"))
    page = open_page(Role.VIEWER)
    page.goto(f"/study/{study}")
    expect(page.locator("#picture-problem")).to_contain_text("the pixels cannot be decoded")


def test_an_administrator_stops_a_study_and_lets_it_go_on(bench: StudyBench, open_page: Open) -> None:
    dataset = corners(64, 64)
    study = bench.receive(dataset)
    page = open_page(Role.ADMINISTRATOR, locale="zh-CN")
    page.goto(f"/study/{study}")
    page.get_by_text("取消…").click()
    assert found_by_axe(page) == []
    page.get_by_role("button", name="取消该检查").click()
    expect(page.get_by_role("button", name="重试")).to_be_visible()
    assert bench.ledger.study(study).runs[-1].state is State.CANCELLED
    page.get_by_role("button", name="重试").click()
    expect(page.get_by_text("取消…")).to_be_visible()
    bench.read(reading_of([dataset], finding(dataset, BOX)))  # while the page is open
    page.get_by_role("link", name="有新的阅片结果：点击显示。").click()
    expect(page.locator("svg.picture text")).to_have_text("圆盘")
    keep(page, "study-zh")


class NoDispatcher:
    """Stands where messages are sent."""

    def dispatch_deliveries(self) -> None:
        """Send nothing."""


def test_what_the_page_draws_is_what_was_sent(
    bench: StudyBench, console: Console, open_page: Open, tmp_path: Path
) -> None:
    truth = json.loads(write_phantoms(tmp_path / "phantoms", 8, 1).read_text("utf-8"))
    datasets = [dcmread(path) for path in sorted((tmp_path / "phantoms").glob("*.dcm"))]
    dataset = max(datasets, key=lambda one: len(truth[one.SOPInstanceUID]))
    study = bench.receive(dataset)
    (run,) = queue_complete(console.ledger)
    reader = Reader(console.settings, console.ledger, console.spool, NoDispatcher())  # type: ignore[arg-type]
    reader.read(run)
    reader.close()
    page = open_page(Role.VIEWER)
    page.goto(f"/study/{study}", wait_until="networkidle")
    left, top, right, bottom = page.locator("svg.picture image").evaluate(EDGES)
    across, down = dataset.Columns / (right - left), dataset.Rows / (bottom - top)
    drawn = [
        ((x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down)
        for x0, y0, x1, y1 in (one.evaluate(EDGES) for one in page.locator("svg.picture rect[data-region]").all())
    ]
    with page.expect_download() as download:
        page.get_by_role("row", name=re.compile("^sr ")).get_by_role("link").click()
    assert len(drawn) >= 2
    assert sorted(drawn) == [pytest.approx(box, abs=0.5) for box in sorted(boxes_of(dcmread(download.value.path())))]
    keep(page, "study")


def boxes_of(item: Dataset) -> list[tuple[float, ...]]:
    """The boxes of an SR's spatial coordinates, which are closed polylines."""
    found = [box for child in item.get("ContentSequence", ()) for box in boxes_of(child)]
    if item.get("ValueType") == "SCOORD":
        x, y = item.GraphicData[::2], item.GraphicData[1::2]
        found.append((min(x), min(y), max(x), max(y)))
    return found
