"""A whole node on a worklist, killed without warning while it fetches: each workitem is completed once."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from node_bench import Pacs, RunningNode, image, wait_until
from ports import free_port
from pydicom.uid import generate_uid
from ups_bench import SUCCESS, Archive, Steps, dimse_worklist

from dicom_node.ledger.models import WorkitemState

pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_node_killed_while_it_fetches_goes_on_and_completes_once(
    tmp_path: Path, pacs: Pacs, stack: ExitStack
) -> None:
    steps, archive, port = Steps(), Archive(), free_port()
    stack.enter_context(dimse_worklist(steps, archive, port))
    reached = {"aet": "ARCHIVE", "port": port}
    node = RunningNode(
        tmp_path,
        pacs,
        completion={"quiet_seconds": 600},  # what arrives whole waits for no quiet time
        sources=[{"name": "archive", **reached, "retrieve": "get"}],
        worklists=[{"name": "ai", **reached, "poll_seconds": 0.2}],
    )
    stack.callback(node.stop)
    study, series = str(generate_uid()), str(generate_uid())
    archive.images[study] = [image(study, series) for _ in range(2)]
    uid = steps.add(study)

    archive.hold.clear()
    node.start()
    assert wait_until(lambda: steps.state(uid) == "IN PROGRESS", 30)
    assert wait_until(lambda: study in str(node.ledger.workitems.all()), 30)
    node.kill_all()
    assert archive.given == 0
    archive.hold.set()
    node.start()

    log = tmp_path / "node.log"
    assert wait_until(lambda: steps.state(uid) in ("COMPLETED", "CANCELED"), 60), log.read_text()
    assert steps.state(uid) == "COMPLETED", steps.reason(uid)
    assert [(one.wanted, one.status) for one in steps.changes] == [("IN PROGRESS", SUCCESS), ("COMPLETED", SUCCESS)]
    record = node.ledger.study(study)
    assert [len(record.runs), record.runs[0].instances] == [1, 2]
    told = {
        str(one.ReferencedSOPInstanceUID): str(item.DICOMRetrievalSequence[0].RetrieveAETitle)
        for item in steps.outputs(uid)
        for one in item.ReferencedSOPSequence
    }
    assert told == {result.sop_instance_uid: pacs.peer.aet for result in record.results}
    assert dict(pacs.count) == dict.fromkeys(told, 1)
    assert wait_until(lambda: node.ledger.workitems.all()[0].state is WorkitemState.COMPLETED)
    assert "NOBODY" not in log.read_text()
    assert "SECRET-1" not in log.read_text()
