"""The operating pages in a browser: the kill switch, a destination held back, throughput, settings, on a phone too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser_page import found_by_axe, keep
from console_client import Console
from node_bench import received
from playwright.sync_api import Locator, Page, expect

from dicom_node.console.accounts import Role
from dicom_node.dimse.receiver import Receiver
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import Contact
from dicom_node.routing.decision import Decision

Open = Callable[..., Page]
RULES = """
[[routes]]
name = "chest"
when = 'modality == "CR" && body_part == "CHEST"'
priority = "high"
destinations = ["pacs"]
[[routes]]
name = "new-scanner"
when = 'station == "CT7"'
action = "shadow"
plan = "ct-chest"
[[routes]]
name = "rest"
"""


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """A console with routes, a destination that answers and one that does not, and studies under way."""
    (tmp_path / "rules.toml").write_text(RULES)
    with Receiver(tmp_path / "pacs") as pacs:
        destinations = [
            {"name": "pacs", "aet": pacs.peer.aet, "port": pacs.peer.port},
            {"name": "research", "protocol": "dicomweb", "url": "http://127.0.0.1:9/dicom-web"},
        ]
        console = Console(tmp_path, routing={"rules": tmp_path / "rules.toml"}, destinations=destinations)
        yield console
        console.close()


def queue(ledger: Ledger, study: str, route: str) -> str:
    """A study that waits to be read on a route; its run."""
    ledger.intake.record(received(study, f"{study}.4"))
    ledger.intake.push(study)
    (run,) = [run.id for run in ledger.runs.to_route()]
    ledger.runs.route(run, Decision(route=route))
    return run


def row_of(page: Page, name: str) -> Locator:
    return page.locator("tbody tr", has=page.get_by_role("rowheader", name=name, exact=True))


def read(ledger: Ledger, run: str) -> None:
    claim = ledger.runs.claim(run, "somebody", 60)
    assert claim is not None
    ledger.runs.reading_stored(claim, "0" * 64, "chest-xray", 1)


def test_the_kill_switch_stops_what_is_under_way_and_is_taken_back(console: Console, open_page: Open) -> None:
    queue(console.ledger, "1.2.1", "chest")
    queue(console.ledger, "1.2.2", "chest")
    page = open_page()
    page.goto("/routes")
    row = row_of(page, "chest")
    expect(row).to_contain_text("high")
    keep(page, "routes")
    row.get_by_text("Switch by hand").click()
    row.get_by_label("Reason").fill("boxes are off by one image")
    row.get_by_role("button", name="Off").click()
    expect(page.get_by_role("status")).to_contain_text("Studies stopped by it: 2")
    assert console.ledger.study("1.2.1").runs[0].state is State.CANCELLED
    row = row_of(page, "chest")
    expect(row).to_contain_text("boxes are off by one image")
    assert found_by_axe(page) == []
    row.get_by_role("button", name="Let the rule count again").click()
    expect(row_of(page, "chest")).not_to_contain_text("by hand since")
    assert not console.ledger.switches.routes()


def test_a_destination_is_probed_and_held_back_while_the_page_follows(console: Console, open_page: Open) -> None:
    for _ in range(5):
        console.ledger.destinations.probed("research", Contact(answered=False, reason="connection refused"))
    page = open_page()
    page.goto("/destinations")
    row_of(page, "pacs").get_by_role("button", name="Probe").click()
    expect(page.get_by_role("status")).to_contain_text("It answered in")
    row_of(page, "pacs").get_by_role("button", name="Pause").click()
    expect(row_of(page, "pacs")).to_contain_text("paused")
    keep(page, "destinations")
    console.ledger.destinations.resume("pacs")  # by somebody else: the page asks for itself again
    expect(row_of(page, "pacs")).to_contain_text("well", timeout=60_000)
    row_of(page, "research").get_by_role("button", name="Probe").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")


def test_the_engine_page_shows_throughput_and_follows_the_queue(console: Console, open_page: Open) -> None:
    for number in range(3):
        read(console.ledger, queue(console.ledger, f"1.2.{number}", "rest"))
    page = open_page(Role.VIEWER)
    page.goto("/engine")
    expect(page.locator("#work")).to_contain_text("Nothing waits to be read.")
    queue(console.ledger, "1.2.9", "rest")
    expect(page.locator("#work")).to_contain_text("QUEUED", timeout=60_000)
    page.locator("summary", has_text="Hour by hour").click()
    expect(page.locator("details tbody tr").first.locator("td").first).to_have_text("3")
    assert page.locator("svg.chart rect").last.evaluate("e => e.getBBox().height") == pytest.approx(36)
    keep(page, "engine")


def test_settings_in_effect_are_shown(open_page: Open) -> None:
    page = open_page()
    page.goto("/settings")
    expect(page.locator("mark", has_text="rules.toml")).to_be_visible()


@pytest.mark.parametrize("path", ["/routes", "/destinations", "/engine", "/settings"])
def test_the_pages_are_whole_on_a_phone_in_the_dark_and_in_chinese(
    console: Console, open_page: Open, path: str
) -> None:
    queue(console.ledger, "1.2.1", "chest")
    console.ledger.destinations.pause("pacs")
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme="dark", locale="zh-CN")
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert found_by_axe(page) == []
    if path != "/settings":  # long, and full of the test's own folders
        keep(page, f"phone{path.replace('/', '-')}")


def test_a_page_is_worked_by_keyboard_alone(console: Console, open_page: Open) -> None:
    page = open_page()
    page.goto("/routes")
    row_of(page, "chest").locator("summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(row_of(page, "chest")).to_contain_text("by keyboard")
    assert console.ledger.switches.routes()["chest"].value == "shadow"
