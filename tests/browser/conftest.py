"""A headless Chromium, and the console that it looks at."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
# The synthetic sources and the peers are those of the other tests.
sys.path += [str(TESTS / "dicom_node"), str(TESTS / "integration"), str(TESTS / "sr_writer")]

from browser_page import MILLISECONDS, found_by_axe  # noqa: E402
from console_client import PASSWORD, Console  # noqa: E402
from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

from dicom_node.console.accounts import Role  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium."""
    if not CHROMIUM.exists():
        pytest.fail("Chromium is needed: apt-get install chromium fonts-dejavu-core fonts-droid-fallback")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """The console on an empty ledger."""
    console = Console(tmp_path)
    yield console
    console.close()


@pytest.fixture
def open_page(chromium: Browser, console: Console) -> Iterator[Callable[..., Page]]:
    """Opens pages, each in a browser of its own: ``open_page(role, **context)``, signed in unless the role is None.

    When the test ends, no page may have complained: an error of a script, or of the content security policy.
    """
    pages: list[Page] = []
    complaints: list[str] = []

    def opened(role: Role | None = Role.ADMINISTRATOR, **context: object) -> Page:
        page = chromium.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "base_url": console.url, "locale": "en-GB"} | context
        ).new_page()
        page.set_default_timeout(MILLISECONDS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None,
        )
        pages.append(page)
        if role is not None:
            console.add_account(role)
            page.goto("/sign-in")
            page.fill("[name=name]", role)
            page.fill("[name=password]", PASSWORD)
            page.click("main button")
            page.wait_for_url(lambda url: "/sign-in" not in url)
        return page

    yield opened
    try:
        for page in pages:
            assert found_by_axe(page) == []
        assert complaints == []
    finally:
        for page in pages:
            page.context.close()
