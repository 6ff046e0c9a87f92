"""What tests look at in a page: what axe finds, and pictures for people."""

from __future__ import annotations

from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

MILLISECONDS = 60_000.0
"""Longest wait for anything; every wait ends with the event it waits for."""
PICTURES = Path(__file__).parent.parent.parent / "deploy" / "images" / "console"


def found_by_axe(page: Page) -> list[str]:
    """Violations of WCAG 2.2 A and AA in the page as it is, with the elements."""
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}}).response["violations"]
    return [
        f"{item['impact']}: {item['id']}: {item['help']}: {[node['html'][:150] for node in item['nodes'][:3]]}"
        for item in found
    ]


def keep(page: Page, name: str) -> None:
    """Keep a picture of the whole page beside the guides."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    # With its caret, since hiding that leaves empty styles on inputs, which htmx copies and the policy then refuses.
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True, caret="initial")
