"""Signing in, in a browser."""

from __future__ import annotations

from collections.abc import Callable

from browser_page import found_by_axe, keep
from console_client import Console
from playwright.sync_api import Page, expect

from dicom_node.console.accounts import Role


def test_by_keyboard_alone_one_signs_in(console: Console, open_page: Callable[..., Page]) -> None:
    console.add_account(Role.VIEWER)
    page = open_page(None)
    page.goto("/")
    keep(page, "sign-in")
    page.keyboard.type("viewer")
    page.keyboard.press("Tab")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    assert found_by_axe(page) == []
    page.keyboard.type("viewer")
    page.keyboard.press("Tab")
    page.keyboard.type("correct horse battery")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Worklist")).to_be_visible()


def test_the_language_can_be_picked_and_is_the_browsers_until_then(open_page: Callable[..., Page]) -> None:
    page = open_page(None, locale="zh-CN", color_scheme="dark", viewport={"width": 360, "height": 640})
    page.goto("/sign-in")
    expect(page.get_by_role("heading", name="登录")).to_be_visible()
    keep(page, "sign-in-zh-dark-phone")
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
