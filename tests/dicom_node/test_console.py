"""Signing in to the console, and what every page of it has."""

from __future__ import annotations

import pytest
from console_client import Console, csrf

from dicom_node.console.accounts import Role
from dicom_node.console.application import ROUTES


@pytest.mark.parametrize("role", list(Role))
def test_who_signs_in_sees_the_worklist_and_who_signs_out_does_not(console: Console, role: Role) -> None:
    browser = console.signed_in(role)
    assert "Worklist" in browser.get("/").text
    browser.post("/sign-out", data={"csrf": csrf(browser, "/")})
    assert browser.get("/", follow_redirects=False).headers["location"] == "/sign-in"


def test_every_page_has_a_guard() -> None:
    for route in ROUTES:
        assert hasattr(route.endpoint, "guarded"), route.path
