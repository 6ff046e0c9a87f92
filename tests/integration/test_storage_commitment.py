"""Storage commitment with a real Orthanc in both roles, which reports and hears on new associations."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fronts import Front, stored
from peers import Orthanc, running_orthanc, wait_until
from ports import free_port

from dicom_node.ledger import State
from engine.phantom.studies import write_phantoms


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[Front, Orthanc]]]:
    """Start a node's front and an Orthanc that know each other."""
    with ExitStack() as stack:

        def start(**changes: Any) -> tuple[Front, Orthanc]:
            port = free_port()
            modalities = {"medrega": ["MEDREGA", "127.0.0.1", port]}
            orthanc = stack.enter_context(running_orthanc(tmp_path / "orthanc", DicomModalities=modalities))
            peer = {"aet": "ORTHANC", "host": "127.0.0.1", "port": orthanc.peer.port}
            tables = {name: [peer | table for table in tables] for name, tables in changes.items()}
            front = Front(tmp_path, listener={"port": port}, **tables)
            stack.callback(front.stop)
            return front, orthanc

        yield start


def test_orthanc_hears_which_of_its_images_are_kept(tmp_path: Path, start: Callable[..., Any]) -> None:
    front, orthanc = start(commitment_peers=[{}])
    front.start()
    write_phantoms(tmp_path / "phantoms", 2, 3)
    sent, other = (
        orthanc.post("/instances", path.read_bytes())["ID"] for path in sorted((tmp_path / "phantoms").glob("*.dcm"))
    )
    orthanc.post("/modalities/medrega/store", json.dumps([sent]).encode())

    def ask(*instances: str) -> dict[str, Any]:
        body = json.dumps({"Resources": instances}).encode()
        asked = orthanc.post("/modalities/medrega/storage-commitment", body)["Path"]
        wait_until(lambda: orthanc.get(asked)["Status"] != "Pending", "Orthanc to hear")
        answer: dict[str, Any] = orthanc.get(asked)
        return answer

    assert ask(sent)["Status"] == "Success"
    partly = ask(sent, other)
    assert (partly["Status"], len(partly["Success"])) == ("Failure", 1)
    assert [failure["FailureReason"] for failure in partly["Failures"]] == [0x0112]
    (study,) = front.ledger.studies()

    def told() -> list[str]:
        events = front.ledger.study(study.study_instance_uid).events
        return [event.reason for event in events if event.kind == "commitment"]

    wait_until(lambda: told() == ["1 object committed to ORTHANC"] * 2, "the ledger to say so")


def test_orthanc_commits_to_results_and_gets_those_again_that_it_lost(start: Callable[..., Any]) -> None:
    front, orthanc = start(destinations=[{"name": "pacs", "commitment": True}])
    run_id, uids = stored(front.ledger, front.spool, ["pacs"])
    front.deliver(run_id, "pacs")
    assert front.state(run_id) is State.DELIVERED
    lost = orthanc.post("/tools/lookup", uids[0].encode())[0]["Path"]
    orthanc.delete(lost)

    front.start()
    wait_until(lambda: front.state(run_id) is State.DELIVERING, "the node to hear of the loss")
    reasons = [event.reason for event in front.ledger.study("1.2.3").events]
    assert "pacs has not kept 1 result: no such object instance; sent again" in reasons
    front.deliver(run_id, "pacs")
    wait_until(lambda: front.state(run_id) is State.COMMITTED, "Orthanc to commit")
    assert len(orthanc.get("/instances")) == 2
