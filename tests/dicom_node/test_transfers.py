"""A sender's own word for how many images a study has, at intake."""

from io import BytesIO
from pathlib import Path

import pytest
from node_bench import Pacs, RunningNode, image, received, wait_until, written
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.dimse.scu import StoredFile, send
from dicom_node.intake.elements import images_of_study
from dicom_node.intake.transfers import Transfers
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.models import Sending
from engine.errors import NodeError


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize(("said", "number"), [("300", 300), (None, None), ("0", None), ("", None), ("12", 12)])
def test_the_number_of_a_studys_images_is_read_from_the_beginning_of_an_object(
    said: str | None, number: int | None, implicit: bool
) -> None:
    dataset = image() if said is None else image(NumberOfStudyRelatedInstances=said)
    buffer = BytesIO()
    write_dataset_to(buffer, dataset, implicit)
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    assert images_of_study(buffer.getvalue(), syntax) == number
    assert images_of_study(buffer.getvalue()[:100], syntax) is None
    assert images_of_study(buffer.getvalue(), DeflatedExplicitVRLittleEndian) is None


def write_dataset_to(buffer: BytesIO, dataset: object, implicit: bool) -> None:
    from pydicom.filebase import DicomFileLike

    file = DicomFileLike(buffer)
    file.is_implicit_VR, file.is_little_endian = implicit, True
    write_dataset(file, dataset)  # type: ignore[arg-type]


def test_a_study_is_complete_at_once_when_its_sender_says_how_many_images_it_has(tmp_path: Path, pacs: Pacs) -> None:
    node = RunningNode(tmp_path, pacs, completion={"quiet_seconds": 3600})
    try:
        node.start()
        first = image(NumberOfStudyRelatedInstances="2")
        study = first.StudyInstanceUID
        second = image(study, first.SeriesInstanceUID, NumberOfStudyRelatedInstances="2")
        paths = [written(tmp_path / "sent", dataset) for dataset in (first, second)]
        send([StoredFile.open(paths[0])], node.peer)
        assert node.state(study) is State.RECEIVING
        send([StoredFile.open(paths[1])], node.peer)
        assert wait_until(node.is_in(study, State.DELIVERED), 60)
        (run,) = node.ledger.study(study).runs
        assert run.instances == 2
    finally:
        node.stop()


def test_a_transfer_that_the_ledger_could_not_be_told_of_is_told_later(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    ledger.migrate()
    ledger.intake.record(received())
    transfers = Transfers(ledger)
    transfer = transfers.open()
    transfer.image("1.2.3")
    heard, ledger.sendings.heard = ledger.sendings.heard, failing  # type: ignore[method-assign]
    transfers.tell()
    ledger.sendings.heard = heard  # type: ignore[method-assign]
    transfers.tell()
    with ledger._database.read() as session:
        assert session.get(Sending, (transfer.id, "1.2.3")) is not None
    ledger.close()


def failing(*_: object) -> None:
    raise NodeError("the ledger's database failed")
