"""The operating pages: routes and their switches, destinations, engine, settings; who may see and who may change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from console_client import Console, csrf
from node_bench import received
from ports import free_port
from queued import queue_complete

from dicom_node.audit.trail import FOLDER
from dicom_node.console.accounts import Role
from dicom_node.dimse.receiver import Receiver
from dicom_node.ledger import State
from dicom_node.ledger.switches import Work

# The library leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)

RULES = """
[[routes]]
name = "chest"
when = 'modality == "CR"'
priority = "high"
[[routes]]
name = "rest"
action = "shadow"
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Console]:
    """A console with rules, a destination that answers and one that does not, and a secret."""
    (tmp_path / "rules.toml").write_text(RULES)
    with Receiver(tmp_path / "pacs") as pacs:
        destinations = [
            {"name": "pacs", "aet": pacs.peer.aet, "port": pacs.peer.port},
            {"name": "gone", "aet": "GONE", "port": free_port()},
        ]
        routing = {"rules": tmp_path / "rules.toml"}
        broker = {"url": "redis://somebody:hush-hush@127.0.0.1:6399/0"}
        console = Console(tmp_path, routing=routing, destinations=destinations, broker=broker)
        yield console
        console.close()


def audited(console: Console) -> str:
    files = (console.settings.data.path / FOLDER).glob("*.jsonl")
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_an_administrator_switches_a_route_and_everyone_sees_it(site: Console) -> None:
    admin, viewer = site.signed_in(), site.signed_in(Role.VIEWER)
    assert "Switch by hand" not in viewer.get("/routes").text
    token = csrf(admin, "/routes")
    shown = admin.post("/routes/chest/off", data={"csrf": token, "reason": "wrong  <b>boxes\n today"}).text
    assert "Studies stopped by it: 0" in shown
    assert site.ledger.switches.routes()["chest"].value == "off"
    seen = viewer.get("/routes").text
    assert "wrong &lt;b&gt;boxes today" in seen
    assert "<b>" not in seen
    admin.post("/routes/rest/shadow", data={"csrf": token})
    assert site.ledger.switches.routes()["rest"].value == "shadow"
    admin.post("/routes/chest/on", data={"csrf": token})
    assert set(site.ledger.switches.routes()) == {"rest"}
    assert "route chest: off (wrong" in audited(site)


def test_switches_work_while_the_rules_are_wrong(site: Console) -> None:
    admin = site.signed_in()
    admin.post("/routes/rest/shadow", data={"csrf": csrf(admin, "/routes"), "reason": "slow"})
    assert site.settings.routing.rules is not None
    site.settings.routing.rules.write_text("[[routes]]\nname = 1\n")
    assert "The rules are wrong" in admin.get("/routes").text
    admin.post("/routes/rest/off", data={"csrf": csrf(admin, "/routes")})
    assert site.ledger.switches.routes()["rest"].value == "off"


def test_all_work_is_paused_and_goes_on(site: Console) -> None:
    admin = site.signed_in()
    token = csrf(admin, "/routes")
    assert (
        "new model tonight"
        in admin.post("/work/reading/pause", data={"csrf": token, "reason": "new model tonight"}).text
    )
    assert set(site.ledger.switches.paused()) == {Work.READING}
    admin.post("/work/reading/resume", data={"csrf": token})
    assert not site.ledger.switches.paused()
    assert admin.post("/work/everything/pause", data={"csrf": token}).status_code == 404


def test_a_destination_is_probed_paused_and_resumed(site: Console) -> None:
    admin = site.signed_in()
    token = csrf(admin, "/destinations")
    assert "It answered in" in admin.post("/destinations/pacs/probe", data={"csrf": token}).text
    refused = admin.post("/destinations/gone/probe", data={"csrf": token})
    assert refused.status_code == 409
    assert "cannot be reached" in refused.text
    admin.post("/destinations/pacs/pause", data={"csrf": token})
    assert "paused" in admin.get("/destinations").text
    admin.post("/destinations/pacs/resume", data={"csrf": token})
    again = admin.post("/destinations/pacs/resume", data={"csrf": token})
    assert (again.status_code, "is not paused" in again.text) == (409, True)
    assert admin.post("/destinations/other/pause", data={"csrf": token}).status_code == 404


@pytest.mark.parametrize("path", ["/routes/rest/off", "/work/reading/pause", "/destinations/pacs/pause"])
def test_only_an_administrator_changes_and_only_by_a_form_of_ours(site: Console, path: str) -> None:
    reviewer, admin = site.signed_in(Role.REVIEWER), site.signed_in()
    assert reviewer.post(path, data={"csrf": csrf(reviewer, "/")}).status_code == 403
    assert admin.post(path, data={"csrf": "0" * 64}).status_code == 403
    assert not site.ledger.switches.routes()
    assert not site.ledger.switches.paused()


def test_settings_are_an_administrators_and_secrets_stay_hidden(site: Console) -> None:
    assert site.signed_in(Role.REVIEWER).get("/settings").status_code == 403
    shown = site.signed_in().get("/settings").text
    assert "hush-hush" not in shown
    assert "somebody" not in shown
    assert "rules.toml" in shown
    assert "[[destinations]]" in shown


def test_the_engine_page_says_what_is_read_and_what_waits(console: Console) -> None:
    ledger = console.ledger
    ledger.intake.record(received())
    ledger.intake.push("1.2.3")
    queue_complete(ledger)
    run = ledger.study("1.2.3").runs[0].id
    shown = console.signed_in(Role.VIEWER).get("/engine").text
    assert "QUEUED" in shown
    assert "MedRegA phantom reader" in shown
    claim = ledger.runs.claim(run, "somebody", 60)
    assert claim is not None
    ledger.runs.reading_stored(claim, "0" * 64, "phantom", 1)
    hour = ledger.throughput.hours()[-1]
    assert (len(hour.seconds), hour.failed) == (1, [])
    assert ledger.study("1.2.3").runs[0].state is State.WRITING
