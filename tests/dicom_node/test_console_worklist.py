"""The worklist page over HTTP."""

from __future__ import annotations

import re
from urllib.parse import quote_plus

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
        ("search=kim+anna", studies),  # names are typed into a form, and stand in no address
        ("search=1.2.3", studies[2:]),
        ("priority=stat", []),
        ("age=7d", []),
        ("route=nothing", []),
        ("modality=US", []),
        ("state=nonsense&page=0&age=x", studies),
        ("page=99", []),
    ):
        assert shown(browser.get(f"/?{query}").text) == set(expected), query


def test_names_are_found_and_stand_in_no_address(console: Console, studies: list[str]) -> None:
    browser, other = console.signed_in(Role.VIEWER), console.signed_in(Role.REVIEWER)
    for typed, expected in (("kim anna", studies[:1]), ("太郎", studies[1:2]), ("1.2.3", studies[2:]), ("", studies)):
        form = {"csrf": csrf(browser, "/"), "search": typed, "priority": "routine"}
        answer = browser.post("/search", data=form)
        assert shown(answer.text) == set(expected), typed
        addresses = [answer.url, *re.findall(r'(?:href|action|hx-get)="([^"]*)"', answer.text)]
        assert typed == "" or not [one for one in addresses if f"={quote_plus(typed)}" in str(one)]
        assert f'value="{typed}"' in answer.text
        assert "priority=routine" in str(answer.url)
    sealed = {"words": browser.post("/search", data=form | {"search": "kim anna"}).url.params["words"]}
    assert shown(browser.get("/", params=sealed).text) == {studies[0]}
    assert shown(other.get("/", params=sealed).text) == set(studies)  # another session cannot read it
    assert shown(browser.get("/", params={"words": "nonsense"}).text) == set(studies)


@pytest.mark.usefixtures("studies")
def test_words_of_a_header_stay_words(console: Console) -> None:
    browser = console.signed_in(Role.VIEWER)
    text = browser.post("/search", data={"csrf": csrf(browser, "/"), "search": '"><script>'}).text
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
