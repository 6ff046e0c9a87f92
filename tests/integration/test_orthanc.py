"""A real Orthanc routes studies to the node, as the README says, and gets the results back into the same study."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
from peers import wait_until
from ports import free_port

from engine.phantom.studies import write_phantoms

SAME = {"patient": ["PatientID", "PatientName"], "study": ["StudyInstanceUID", "AccessionNumber", "StudyDate"]}


def test_results_arrive_in_the_study_they_belong_to(
    tmp_path: Path, start_node: Callable[..., Any], start_orthanc: Callable[[int], Any]
) -> None:
    port = free_port()
    orthanc = start_orthanc(port)
    node = start_node([orthanc.peer], port)
    write_phantoms(tmp_path / "phantoms", 1, 3)
    (path,) = (tmp_path / "phantoms").glob("*.dcm")
    phantom = pydicom.dcmread(path)
    phantom.PatientID, phantom.PatientName, phantom.AccessionNumber = "PID-7", "Phantom^QA", "ACC-4711"
    phantom.StudyDate, phantom.StudyID = "20260102", "S1"
    phantom.save_as(path)

    orthanc.post("/instances", path.read_bytes())
    record = node.ended(str(phantom.StudyInstanceUID))
    assert record.runs[-1].state == "DELIVERED", node.log.read_text()

    count = 1 + len(record.results)
    wait_until(lambda: len(orthanc.get("/instances")) == count, "the results to be listed")
    (patient,) = orthanc.get("/patients?expand")
    (study,) = orthanc.get("/studies?expand")
    for keyword in SAME["patient"]:
        assert patient["MainDicomTags"][keyword] == str(phantom[keyword].value)
    for keyword in SAME["study"]:
        assert study["MainDicomTags"][keyword] == str(phantom[keyword].value)
    modalities = sorted(item["MainDicomTags"]["Modality"] for item in orthanc.get("/series?expand"))
    # One SR a series: boxes, and a narrative in each language; the presentation state, and the secondary capture.
    assert (set(modalities), modalities.count("SR")) == ({"CR", "OT", "PR", "SEG", "SR"}, 3)
    for instance in orthanc.get("/instances"):
        tags = orthanc.get(f"/instances/{instance}/simplified-tags")
        for keyword in [*SAME["patient"], *SAME["study"]]:
            assert tags[keyword] == str(phantom[keyword].value), keyword

    # What came back was not sent on, or was known as the node's own: one run, of the one image.
    record = node.ended(str(phantom.StudyInstanceUID))
    assert [run.instances for run in record.runs] == [1]
