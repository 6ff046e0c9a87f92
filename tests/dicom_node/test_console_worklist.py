"""The worklist page over HTTP."""

from __future__ import annotations

import re

import pytest
from console_client import Console, csrf
from node_bench import image
from study_bench import StudyBench

from dicom_node.console.accounts import Role
from dicom_node.ledger import State

HOSTILE = "<script>alert(1)</script>^\u202eأحمد"


@pytest.fixture
def studies(console: Console) -> list[str]:
    """A study that was cancelled, one that waits, and one with a hostile name."""
    bench = StudyBench(console.ledger, console.spool)
    found = [
        bench.receive(image(f"1.2.{number}", f"1.2.{number}.1", patient=name))
        for number, name in enumerate(("Kim^Anna", "山田^太郎", HOSTILE), 1)
    ]
    console.ledger.cancel(found[0])
    return found


def shown(text: str) -> set[str]:
    return set(re.findall(r'href="/study/([\d.]+)"', text))


def test_studies_are_found_by_state_name_uid_and_priority(console: Console, studies: list[str]) -> None:
    browser = console.signed_in(Role.VIEWER)
    assert shown(browser.get("/").text) == set(studies)
    for query, expected in (
        ("state=CANCELLED", studies[:1]),
        ("search=kim+anna", studies[:1]),
        ("search=太郎", studies[1:2]),
        ("search=1.2.3", studies[2:]),
        ("priority=stat", []),
        ("age=7d", []),
        ("route=nothing", []),
        ("modality=US", []),
        ("state=nonsense&page=0&age=x", studies),
        ("page=99", []),
    ):
        assert shown(browser.get(f"/?{query}").text) == set(expected), query


@pytest.mark.usefixtures("studies")
def test_words_of_a_header_stay_words(console: Console) -> None:
    text = console.signed_in(Role.VIEWER).get("/", params={"search": '"><script>'}).text
    assert "<script>" not in text.replace("<script src=", "")
    assert "&lt;script&gt;alert(1)" in console.signed_in(Role.VIEWER).get("/").text


def test_many_are_tried_again_or_cancelled_at_once(console: Console, studies: list[str]) -> None:
    browser = console.signed_in()
    token = csrf(browser, "/")
    answer = browser.post("/studies/cancel?state=COMPLETE", data={"csrf": token, "which": "all"})
    assert "2 studies were changed." in answer.text
    assert set(shown(browser.get("/?state=CANCELLED").text)) == set(studies)
    answer = browser.post("/studies/retry", data={"csrf": token, "study": [studies[0], "1.2.999"]})
    assert answer.status_code == 409
    assert "1.2.999" in answer.text
    assert console.ledger.study(studies[0]).runs[-1].state is not State.CANCELLED
    assert browser.post("/studies/retry", data={"csrf": token}).status_code == 400


def test_who_only_sees_changes_nothing(console: Console, studies: list[str]) -> None:
    browser = console.signed_in(Role.REVIEWER)
    assert "/studies/cancel" not in browser.get("/").text
    answer = browser.post("/studies/cancel", data={"csrf": csrf(browser, "/"), "study": studies})
    assert answer.status_code == 403
    assert console.ledger.study(studies[1]).runs[-1].state is State.COMPLETE
