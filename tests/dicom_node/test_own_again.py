"""Results of this node and of others of its kind are known again, whatever an archive changed, and trigger nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from node_bench import Clock, received
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom.dsutils import encode
from queued import queue_complete
from sqlalchemy import update
from test_own_results import files  # noqa: F401 - a fixture

from dicom_node.intake.storage import Arrival, Storage
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.models import Run
from dicom_node.ledger.records import StoredResult
from dicom_node.spool import Spool


def as_it_was(_result: Dataset) -> None:
    """Nothing."""


def without_contributing_equipment(result: Dataset) -> None:
    del result.ContributingEquipmentSequence


def without_general_equipment(result: Dataset) -> None:
    del result.SoftwareVersions


def coerced(result: Dataset) -> None:
    result.PatientID, result.StudyInstanceUID, result.SOPInstanceUID = "OTHER", str(generate_uid()), str(generate_uid())


def take(storage: Storage, result: Dataset, syntax: str = ExplicitVRLittleEndian) -> bool:
    """Whether the object is stored."""
    content = encode(result, is_implicit_vr=syntax == ImplicitVRLittleEndian, is_little_endian=True)
    assert content is not None
    arrival = Arrival(result.SOPClassUID, result.SOPInstanceUID, syntax, "ROUTER", "MEDREGA")
    with storage.begin(arrival) as receiving:
        receiving.write(content)
        return receiving.finish().stored is not None


@pytest.mark.parametrize("change", [as_it_was, without_contributing_equipment, without_general_equipment, coerced])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_results_of_any_node_of_this_kind_are_stored_by_nobody(
    files: dict[str, bytes],  # noqa: F811
    tmp_path: Path,
    ledger: Ledger,
    change: Callable[[Dataset], None],
    syntax: str,
) -> None:
    storage = Storage(Spool(tmp_path / "data"), ledger)  # of another node: its ledger knows none of them
    for kind, content in files.items():
        result = dcmread(BytesIO(content))
        change(result)
        assert not take(storage, result, syntax), kind
    assert ledger.studies() == []
    assert list(storage.spool.instances()) == []


@pytest.mark.parametrize("new", ["nothing", "SOPInstanceUID", "SeriesInstanceUID"])
def test_this_nodes_own_are_known_by_their_uids_without_any_equipment(
    files: dict[str, bytes],  # noqa: F811
    tmp_path: Path,
    ledger: Ledger,
    new: str,
) -> None:
    storage = Storage(Spool(tmp_path / "data"), ledger)
    run_id = ledger.intake.record(received("1.2.3", "1.2.3.4"))
    (run,) = ledger.intake.receiving()
    ledger.intake.complete(run_id, run.last_image_at, "quiet")
    queue_complete(ledger)
    claim = ledger.runs.claim(run_id, "elsewhere:1:1", 60)
    assert claim is not None
    ledger.runs.reading_stored(claim, "d" * 64)
    results = [dcmread(BytesIO(content)) for content in files.values()]
    records = [
        StoredResult(one.SOPInstanceUID, one.SOPClassUID, one.SeriesInstanceUID, "sr", "0" * 64, "x") for one in results
    ]
    ledger.runs.results_stored(claim, {"": records})
    for result in results:
        without_contributing_equipment(result)
        without_general_equipment(result)
        if new != "nothing":
            setattr(result, new, str(generate_uid()))
        assert not take(storage, result)
    assert len(ledger.studies()) == 1


def test_reports_that_others_add_to_a_study_are_no_reason_to_read_it_again(ledger: Ledger, clock: Clock) -> None:
    def close(run_id: str) -> State:
        clock.forward(1)
        (run,) = (run for run in ledger.intake.receiving() if run.id == run_id)
        ledger.intake.complete(run_id, run.last_image_at, "quiet")
        queue_complete(ledger)
        return ledger.study("1.2.3").runs[-1].state

    def later(sop: str, sop_class: str) -> str:
        return ledger.intake.record(replace(received("1.2.3", sop), sop_class_uid=sop_class))

    assert close(ledger.intake.record(received("1.2.3", "1.2.3.4"))) is State.QUEUED
    with ledger._database.write() as session:
        session.execute(update(Run).values(state=State.DELIVERED))
    run_id = later("1.2.3.5", "1.2.840.10008.5.1.4.1.1.88.33")
    assert later("1.2.3.6", "1.2.840.10008.5.1.4.1.1.11.1") == run_id
    assert close(run_id) is State.IGNORED
    assert ledger.study("1.2.3").runs[-1].reason.startswith("no image came after run 1")
    assert close(later("1.2.3.7", "1.2.840.10008.5.1.4.1.1.1")) is State.QUEUED
