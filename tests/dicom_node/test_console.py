"""Signing in to the console, and what every page of it has."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from console_client import PASSWORD, Console, csrf

from dicom_node.console import accounts, application
from dicom_node.console.accounts import Role
from dicom_node.console.application import ROUTES
from dicom_node.dicomweb import server


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


def test_every_page_that_shows_something_asks_who_sees_it(console: Console) -> None:
    stranger, viewer = console.client(), console.signed_in(Role.VIEWER)
    for route in ROUTES:
        path, role = re.sub(r"{\w+(:int)?}", "1", route.path), route.endpoint.guarded
        if "GET" not in (route.methods or ()) or role is None:
            continue
        for header in ({}, {"Cookie": "medrega=of-nobody"}, {"Authorization": "Basic Og=="}):
            answer = stranger.get(path, headers=header, follow_redirects=False)
            assert (answer.status_code, answer.headers["location"][:8]) == (303, "/sign-in"), path
        assert (viewer.get(path).status_code == 403) is (role is not Role.VIEWER), path
    assert {route.path for route in ROUTES if route.endpoint.guarded is None} == {
        "/healthz/live", "/healthz/ready", "/metrics", "/sign-in", "/sign-out", "/language",
        "/sign-in/oidc", "/sign-in/oidc/back",
    }  # fmt: skip


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


def attempt(console: Console, password: str, name: str = "viewer", address: str = "10.0.0.1") -> int:
    browser = console.client()
    data = {"name": name, "password": password, "csrf": csrf(browser)}
    return browser.post("/sign-in", data=data, headers={"X-Forwarded-For": address}).status_code


def test_who_guesses_is_slowed_down_and_locks_nobody_else_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(tmp_path, console={"proxies": ["127.0.0.1"]})
    try:
        console.add_account(Role.VIEWER)
        assert [attempt(console, "wrong") for _ in range(11)] == [401] * 10 + [429]
        assert attempt(console, PASSWORD) == 429
        assert attempt(console, PASSWORD, address="10.0.0.2") == 200
        assert attempt(console, "wrong", "administrator") == 401
        # From one address, whatever the name; and one name, from wherever.
        monkeypatch.setattr(accounts, "_BY_ADDRESS", 11)
        assert attempt(console, "wrong", "another") == 429
        monkeypatch.setattr(accounts, "_BY_NAME", 10)
        assert attempt(console, PASSWORD, address="10.0.0.3") == 429
        accounts.change_password(console.ledger, "viewer", "another long password")
        assert attempt(console, "another long password", address="10.0.0.3") == 200
    finally:
        console.close()


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


def test_only_forms_as_our_pages_send_them_are_read(console: Console) -> None:
    # Others could choose how they are decoded: with Python's "punycode" a megabyte takes minutes.
    browser = console.client()
    kind = "multipart/form-data; boundary=x; charset=punycode"
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"a" * 100_000 + b"\r\n--x--\r\n"
    for path in ("/sign-in", "/language"):
        answer = browser.post(path, content=part, headers={"Content-Type": kind})
        assert answer.status_code == 415, path


@pytest.mark.parametrize("pause", [None, 0.1])
def test_who_never_ends_a_form_is_turned_away(
    console: Console, monkeypatch: pytest.MonkeyPatch, pause: float | None
) -> None:
    monkeypatch.setattr(application, "_FORM_SECONDS", 0.5)
    head = f"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Type: {application._FORM}\r\nContent-Length: 999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", console.settings.console.port), timeout=20) as peer:
        peer.sendall(head.encode())
        peer.settimeout(pause or 20)
        answer = b""
        while not answer.endswith(b"too slow\n"):
            with suppress(TimeoutError):
                part = peer.recv(4096)
                assert part, answer
                answer += part
            if pause and not answer:
                peer.sendall(b"a")  # not silent, but no end of it
        assert answer.startswith(b"HTTP/1.1 408 ")
        peer.settimeout(20)
        with suppress(ConnectionResetError):
            assert peer.recv(1) == b""


def test_who_does_not_read_the_answers_is_hung_up_on(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.1)
    monkeypatch.setattr(server.Protocol, "stalled_seconds", 0.5)
    asked = b"GET /static/htmx/htmx.min.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", console.settings.console.port), timeout=20) as peer,
        pytest.raises((ConnectionResetError, BrokenPipeError)),
    ):
        peer.sendall(asked * 1_000_000)  # answers that no buffer holds, and questions until it is over
