"""The review in a browser: accept, drag, reject, and the superseding SR in a real Orthanc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from browser_page import keep
from console_client import Console
from peers import Orthanc, running_orthanc
from playwright.sync_api import Page, expect
from pydicom import dcmread
from study_bench import StudyBench, corners, finding, reading_of

from dicom_node.console.accounts import Role
from dicom_node.delivery.deliverer import Deliverer
from dicom_node.ledger import State
from dicom_node.reading.results import addressed, store_results
from engine.findings import StudyReading
from engine.study import load_studies

Open = Callable[..., Page]
BOX = (20, 30, 60, 70)


class Site(StudyBench):
    """A console whose studies go to an Orthanc."""

    def __init__(self, console: Console, orthanc: Orthanc) -> None:
        super().__init__(console.ledger, console.spool)
        self.console, self.orthanc = console, orthanc

    def write(self, reading: StudyReading) -> None:
        claim = self.claim()
        self.run_id, self.study = claim.run_id, claim.study_instance_uid
        self.spool.store_reading(claim.run_id, reading.to_json())
        self.ledger.runs.reading_stored(claim, reading.digest, reading.plan, len(reading.findings))
        with self.spool.files(claim, lambda: None) as files:
            (study,), _ = load_studies(files)
            destinations, withheld = addressed(claim.decision, self.console.settings)
            results, _ = store_results(self.spool, claim, reading, study, destinations)
        self.ledger.runs.results_stored(claim, results, withheld)
        self.deliver()

    def deliver(self) -> None:
        Deliverer(self.console.settings, self.ledger, self.spool).deliver(self.run_id, "orthanc")
        assert self.ledger.study(self.study).runs[0].state is State.DELIVERED

    def documents(self) -> dict[str, Any]:
        """SR of Orthanc by SOP Instance UID."""
        found = {}
        for key in self.orthanc.get("/instances"):
            with urlopen(f"{self.orthanc.url}/instances/{key}/file", timeout=60) as answer:  # noqa: S310 - loopback
                dataset = dcmread(BytesIO(answer.read()))
            if dataset.Modality == "SR":
                found[str(dataset.SOPInstanceUID)] = dataset
        return found


@pytest.fixture
def orthanc(tmp_path: Path) -> Any:
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        yield orthanc


@pytest.fixture
def console(tmp_path: Path, orthanc: Orthanc) -> Any:
    peer = {"aet": orthanc.peer.aet, "host": orthanc.peer.host, "port": orthanc.peer.port}
    console = Console(
        tmp_path,
        destinations=[{"name": "orthanc", **peer}],
        review={"organization": "Hospital", "names": {"reviewer": "王^丽"}},
    )
    yield console
    console.close()


def of_people(reading: StudyReading) -> StudyReading:
    """A reading whose model is for more than commissioning."""
    return replace(reading, model=replace(reading.model, commissioning=False))


def test_what_a_reviewer_leaves_supersedes_the_models_sr_in_orthanc(
    console: Console, orthanc: Orthanc, open_page: Open
) -> None:
    site = Site(console, orthanc)
    image = corners(160, 200, PixelSpacing=[2, 1], PatientName="<script>alert(1)</script>")
    site.receive(image)
    others = [finding(image, (100, 100, 140, 150)), finding(image, (8, 16, 12, 20), text={"en": "<b>bold</b>"})]
    site.write(of_people(reading_of([image], finding(image, BOX), *others)))
    first = site.documents()
    page = open_page(Role.REVIEWER, viewport={"width": 1400, "height": 1000})
    page.goto(f"/study/{site.study}")
    page.get_by_role("link", name="Review the findings").click()
    expect(page.locator("rect[data-region]")).to_have_count(3)
    box = page.locator('.mark[data-finding="0"] rect[data-region]')
    grid = page.locator("svg.grid image").bounding_box()
    assert grid is not None
    across, down = grid["width"] / 200, grid["height"] / 160  # of the screen's pixels, one of the image's
    page.mouse.move(grid["x"] + 40 * across, grid["y"] + 50 * down)
    page.mouse.down()
    page.mouse.move(grid["x"] + 70 * across, grid["y"] + 60 * down, steps=5)
    page.mouse.up()
    field = page.locator('[data-box="0-0"]')
    dragged = [float(edge) for edge in field.input_value().split()]
    assert dragged == pytest.approx([50, 40, 90, 80], abs=1)
    assert page.locator('[name="v0"][value="modify"]').is_checked()
    corner = page.locator('.mark[data-finding="0"] rect.corner[data-corner="3"]').bounding_box()
    assert corner is not None
    page.mouse.move(corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2)
    page.mouse.down()
    page.mouse.move(grid["x"] + 500 * across, grid["y"] + 90 * down, steps=5)
    page.mouse.up()
    dragged = [float(edge) for edge in field.input_value().split()]
    assert dragged == pytest.approx([50, 40, 200, 90], abs=1)
    assert dragged[2] == 200
    field.fill("50 40 90 80.5")
    assert box.get_attribute("width") == "40"
    page.locator('[name="t0-en"]').fill("Moved to where it is.")
    page.locator('[name="v1"][value="reject"]').check()
    page.locator('[name="why1"]').select_option("artefact or device")
    page.locator('[name="v2"][value="accept"]').check()
    keep(page, "review")
    page.get_by_role("button", name="Finish the review and send").click()
    page.wait_for_url(lambda url: url.endswith(site.study))
    expect(page.locator("#reading")).to_contain_text("Reviewed by reviewer on")
    site.deliver()
    second = {uid: one for uid, one in site.documents().items() if uid not in first}
    (main,) = [one for one in second.values() if one.ConceptNameCodeSequence[0].CodeValue == "126000"]
    assert main.VerificationFlag == "VERIFIED"
    assert str(main.VerifyingObserverSequence[0].VerifyingObserverName) == "王^丽"
    named = {
        str(item.ReferencedSOPInstanceUID)
        for series in main.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == set(first)
    measured = [one for one in main.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "126010"]
    drawn = [
        list(item.GraphicData)[:2] + list(item.GraphicData)[4:6]
        for group in measured[0].ContentSequence
        for item in group.ContentSequence
        if item.ValueType == "SCOORD"
    ]
    assert drawn == [[50, 40, 90, 80.5], [8, 16, 12, 20]]


def test_a_commissioning_models_reading_is_reviewed_on_a_phone_and_never_verified(
    console: Console, orthanc: Orthanc, open_page: Open
) -> None:
    site = Site(console, orthanc)
    image = corners(48, 64)
    site.receive(image)
    site.write(reading_of([image], finding(image, (8, 16, 12, 20))))
    first = site.documents()
    viewer = open_page(Role.VIEWER)
    viewer.goto(f"/study/{site.study}")
    expect(viewer.get_by_role("link", name="Review the findings")).to_have_count(0)
    assert viewer.request.get(f"/study/{site.study}/review").status == 403
    page = open_page(Role.REVIEWER, viewport={"width": 360, "height": 740}, locale="zh-CN")
    page.goto(f"/study/{site.study}/review")
    expect(page.locator("main")).to_contain_text("永不标记为已审核")
    page.locator('[name="v0"][value="reject"]').check()
    page.locator("main button").last.click()  # without a reason, which the browser asks for
    assert page.url.endswith("/review")
    page.locator('[name="why0"]').select_option("not there")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    keep(page, "phone-review")
    page.locator("main button").last.click()
    page.wait_for_url(lambda url: url.endswith(site.study))
    site.deliver()
    second = [one for uid, one in site.documents().items() if uid not in first]
    assert second
    assert {one.VerificationFlag for one in second} == {"UNVERIFIED"}
