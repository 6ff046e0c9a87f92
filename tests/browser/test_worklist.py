"""The worklist, in a browser."""

from __future__ import annotations

from collections.abc import Callable

from browser_page import keep
from console_client import Console
from node_bench import image
from playwright.sync_api import Page, expect
from study_bench import StudyBench


def test_the_list_lives_and_ticks_stay_while_it_does(console: Console, open_page: Callable[..., Page]) -> None:
    bench = StudyBench(console.ledger, console.spool)
    names = ("Phantom^Anna", "Phantom^山田=山田^太郎", "<script>alert(1)</script>^أحمد")
    studies = [bench.receive(image(f"1.2.{n}", f"1.2.{n}.1", patient=name)) for n, name in enumerate(names, 1)]
    console.ledger.cancel(studies[0])
    page = open_page()
    expect(page.get_by_role("link", name="Phantom Anna")).to_be_visible()
    page.get_by_label(f"Tick {studies[0]}").check()
    bench.receive(image("1.2.4", "1.2.4.1", patient="Phantom^Late"))
    expect(page.get_by_role("link", name="Phantom Late")).to_be_visible()
    expect(page.get_by_label(f"Tick {studies[0]}")).to_be_checked()
    keep(page, "worklist")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("status")).to_contain_text("1 studies were changed.")


def test_it_works_on_a_phone_in_the_dark_and_in_chinese(console: Console, open_page: Callable[..., Page]) -> None:
    bench = StudyBench(console.ledger, console.spool)
    bench.receive(image("1.2.1", "1.2.1.1", patient="Phantom^Anna=山田^太郎"))
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme="dark", locale="zh-CN")
    expect(page.get_by_role("heading", name="工作列表")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    keep(page, "worklist-zh-dark-phone")
