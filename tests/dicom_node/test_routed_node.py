"""A running node with rules: shadow sends nothing, and the switch of a route counts at once, without a restart."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from node_bench import Pacs, RunningNode, image, script, wait_until, written

from dicom_node.dimse.scu import StoredFile, send
from dicom_node.ledger import State
from dicom_node.routing.decision import Action

RULES = """
[[routes]]
name = "new-scanner"
when = 'station == "NEW"'
action = "shadow"

[[routes]]
name = "chest"
when = 'body_part == "CHEST" && called_aet == "ER"'
priority = "stat"
"""


@pytest.fixture
def node(tmp_path: Path, pacs: Pacs) -> Iterator[RunningNode]:
    rules = tmp_path / "routes.toml"
    rules.write_text(RULES, encoding="utf-8")
    node = RunningNode(tmp_path, pacs, routing={"rules": rules}, entries=[{"aet": "ER"}])
    yield node
    node.stop()


def test_shadow_sends_nothing_and_a_route_is_off_at_once(node: RunningNode, pacs: Pacs, tmp_path: Path) -> None:
    script(tmp_path, delay_seconds=0.3)
    node.start()
    shadowed, killed, last = image(StationName="NEW"), image(BodyPartExamined="CHEST"), image(StationName="NEW")
    send([StoredFile.open(written(tmp_path / "in", shadowed))], node.peer, "CT1")
    assert wait_until(node.is_in(shadowed.StudyInstanceUID, State.DELIVERED))
    record = node.ledger.study(shadowed.StudyInstanceUID)
    assert (record.runs[0].route, record.runs[0].findings) == ("new-scanner", 1)
    assert record.results
    assert record.deliveries == ()

    worker = node.children()["reading"]
    send([StoredFile.open(written(tmp_path / "in", killed))], replace(node.peer, aet="ER"), "CT1")
    assert wait_until(node.is_in(killed.StudyInstanceUID, State.READING))
    node.ledger.switches.set_route("chest", Action.OFF, "drill")  # what `route off` does
    assert node.state(killed.StudyInstanceUID) is State.CANCELLED
    assert wait_until(lambda: "reading given up" in (tmp_path / "node.log").read_text("utf-8"))
    send([StoredFile.open(written(tmp_path / "in", last))], node.peer, "CT1")
    assert wait_until(node.is_in(last.StudyInstanceUID, State.DELIVERED))
    run = node.ledger.study(killed.StudyInstanceUID).runs[0]
    assert (run.state, run.reason, run.priority) == (State.CANCELLED, "route chest was switched off (drill)", "stat")
    assert node.children()["reading"] == worker
    assert not pacs.count
