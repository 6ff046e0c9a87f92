"""A real Orthanc sends everything it gets back to the node, as it is and changed: one run, and nothing grows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peers import running_orthanc, wait_until
from ports import free_port

from dicom_node.dimse import scu
from engine.phantom.studies import write_phantoms

pytestmark = pytest.mark.slow

EVERYTHING_BACK = """
function OnStoredInstance(instanceId, tags, metadata, origin)
  SendToModality(instanceId, 'medrega')
  if origin['RemoteAet'] == 'MEDREGA' then
    -- Another patient id, another UID, no contributing equipment: stored, and so sent as well.
    local change = {Replace = {PatientID = 'COERCED'}, Remove = {'ContributingEquipmentSequence'}, Force = true}
    local changed = RestApiPost('/instances/' .. instanceId .. '/modify', DumpJson(change, true))
    RestApiPost('/instances', changed)
  end
end
"""


def test_results_that_come_back_start_nothing(tmp_path: Path, start_node: Callable[..., Any]) -> None:
    port = free_port()
    folder = tmp_path / "orthanc"
    folder.mkdir()
    (folder / "route.lua").write_text(EVERYTHING_BACK, encoding="utf-8")
    with running_orthanc(
        folder,
        DicomModalities={"medrega": ["MEDREGA", "127.0.0.1", port]},
        LuaScripts=[str(folder / "route.lua")],
        IngestTranscoding="1.2.840.10008.1.2.4.70",  # what has pixels comes back compressed
    ) as orthanc:
        node = start_node([orthanc.peer], port)
        write_phantoms(tmp_path / "phantoms", 1, 3)
        (path,) = (tmp_path / "phantoms").glob("*.dcm")
        sent = orthanc.post("/instances", path.read_bytes())["ID"]
        uid = orthanc.get(f"/instances/{sent}/simplified-tags")["StudyInstanceUID"]
        record = node.ended(uid)
        assert record.runs[-1].state == "DELIVERED", node.log.read_text()
        results = len(record.results)

        def seen() -> list[str]:
            return [line for line in node.log.read_text().splitlines() if "own result not stored" in line]

        wait_until(lambda: len(seen()) >= 2 * results, "the results to come back as they were, and changed")
        wait_until(lambda: all(job["State"] == "Success" for job in orthanc.get("/jobs?expand")), "Orthanc to be done")
        files, _ = scu.find_files([node.settings.data.path / "results"])
        assert [result.status for result in scu.send(files, node.peer, "ROUTER")] == [0] * results
        assert len([line for line in seen() if "ROUTER" in line]) == results
        record = node.ended(uid)
        assert [(run.number, run.instances) for run in record.runs] == [(1, 1)]
        assert len(record.results) == results
        assert len(orthanc.get("/instances")) == 1 + 2 * results
        stored = list((node.settings.data.path / "studies").rglob("*.dcm"))
        assert len(stored) == 1
