"""Signing in to the console, and what every page of it has."""

from __future__ import annotations

import re

import pytest
from console_client import PASSWORD, Console, csrf

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


def test_every_page_that_changes_something_asks_who_does_it_whether_he_may_and_from_where(console: Console) -> None:
    stranger, administrator = console.client(), console.signed_in(Role.ADMINISTRATOR)
    viewer, token = console.signed_in(Role.VIEWER), csrf(stranger)
    for route in ROUTES:
        if "POST" not in (route.methods or ()):
            continue
        path, role = re.sub(r"{\w+(:int)?}", "1", route.path), route.endpoint.guarded
        for client in (stranger, administrator):
            data = {"csrf": token} if role is not None and client is stranger else {}
            answer = client.post(path, data=data, follow_redirects=False)
            if role is not None and client is stranger:
                assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in"), path
            else:
                assert answer.status_code == 403, path
        if role not in (None, Role.VIEWER):
            data = {"csrf": csrf(viewer, "/")}
            assert viewer.post(path, data=data).status_code == 403, path


def test_an_unexpected_error_too_is_kept_by_nobody(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = console.signed_in()
    monkeypatch.setattr(console.ledger.accounts, "session", lambda *_: 1 // 0)
    answer = browser.get("/")
    assert answer.status_code == 500
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_form_of_another_site_is_refused(console: Console) -> None:
    browser = console.signed_in()
    for data in ({}, {"csrf": "0" * 64}, {"csrf": csrf(console.client())}):
        assert browser.post("/sign-out", data=data).status_code == 403
    assert browser.get("/", follow_redirects=False).status_code == 200


def test_who_guesses_is_slowed_down_also_after_a_restart_and_in_another_browser(console: Console) -> None:
    console.add_account(Role.VIEWER)
    answers = []
    for _ in range(11):
        browser = console.client()
        data = {"name": "viewer", "password": "wrong", "csrf": csrf(browser)}
        answers.append(browser.post("/sign-in", data=data).status_code)
    assert answers == [401] * 10 + [429]
    right = {"name": "viewer", "password": PASSWORD, "csrf": csrf(browser)}
    assert browser.post("/sign-in", data=right).status_code == 429


def test_every_answer_is_kept_by_nobody_and_runs_no_script_but_its_own(console: Console) -> None:
    browser = console.signed_in()
    for path in ("/", "/sign-in", "/nothing"):
        headers = browser.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
    cookie = console.client().get("/sign-in").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_a_session_ends_with_its_account_and_with_its_password(console: Console) -> None:
    browser = console.signed_in(Role.REVIEWER)
    console.ledger.accounts.change("reviewer", role=Role.VIEWER)
    assert "(viewer)" in browser.get("/").text
    console.ledger.accounts.change("reviewer", password="another")  # noqa: S106
    assert browser.get("/", follow_redirects=False).status_code == 303
    other = console.signed_in(Role.VIEWER)
    console.ledger.accounts.remove("viewer")
    assert other.get("/", follow_redirects=False).status_code == 303


def test_one_is_sent_back_to_a_page_of_this_console_only(console: Console) -> None:
    console.add_account(Role.VIEWER)
    for place, expected in (
        ("/routes", "/routes"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https:x", "/"),
    ):
        browser = console.client()
        data = {"name": "viewer", "password": PASSWORD, "next": place, "csrf": csrf(browser)}
        answer = browser.post("/sign-in", data=data, follow_redirects=False)
        assert answer.headers["location"] == expected


def test_health_is_told_without_details(console: Console) -> None:
    browser = console.client()
    assert browser.get("/healthz/live").text == "live\n"
    answer = browser.get("/healthz/ready")  # no broker runs here
    assert (answer.status_code, answer.text) == (503, "not ready\n")


def test_what_is_too_long_or_of_no_known_length_is_not_read(console: Console) -> None:
    browser = console.client()
    assert browser.post("/sign-in", content=b"x" * (5 << 20)).status_code == 413
    assert browser.post("/sign-in", content=iter([b"x"])).status_code == 411
