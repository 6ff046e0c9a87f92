"""A listener with storage commitment in the test's own process, and a run whose results are stored."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ports import free_port
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from queued import queue_complete

from dicom_node.commitments import Commitments
from dicom_node.delivery.deliverer import Deliverer
from dicom_node.dimse import scu
from dicom_node.dimse.listener import Listener
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import ReceivedInstance, StoredResult
from dicom_node.settings import Settings
from dicom_node.spool import Spool


class Front:
    """A listener with storage commitment, on the system's clock."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        sections: dict[str, Any] = {
            "data": {"path": folder / "data", "minimum_free_mib": 0},
            "listener": {"port": free_port()},
            "delivery": {"first_delay_seconds": 0.1, "association_timeout_seconds": 5, "dimse_timeout_seconds": 5},
        }
        commitment = {"first_delay_seconds": 0.2, "max_delay_seconds": 0.5, "wait_seconds": 0.2}
        changes["commitment"] = commitment | changes.get("commitment", {})
        self.settings = Settings(**(sections | changes))
        self.ledger = Ledger.open(self.settings)
        self.spool = Spool(self.settings.data.path)
        self.commitments = Commitments(self.settings, self.spool, self.ledger)
        self.listener = Listener(self.settings.listener, self.spool, self.ledger, services=[self.commitments])
        self.peer = scu.Peer("MEDREGA", "127.0.0.1", self.settings.listener.port)
        self.listener.start()

    def start(self) -> None:
        self.commitments.start()

    def stop(self) -> None:
        self.listener.stop()
        self.commitments.stop()
        self.ledger.close()

    def deliver(self, run_id: str, destination: str) -> None:
        Deliverer(self.settings, self.ledger, self.spool).deliver(run_id, destination)

    def state(self, run_id: str) -> State:
        (study,) = (item for item in self.ledger.studies() if item.run_id == run_id)
        return study.state


def radiograph(study: str, series: str | None = None) -> Dataset:
    """The least that a storage SCP takes."""
    dataset = Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName = dataset.PatientID = "PHANTOM"
    dataset.Modality = "CR"
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = series or generate_uid()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 4, 4, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes(range(16))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def stored(ledger: Ledger, spool: Spool, destinations: Sequence[str], study: str = "1.2.3") -> tuple[str, list[str]]:
    """A run whose two results are stored and due at these destinations; its id, and the results' UIDs."""
    run_id = ledger.intake.record(
        ReceivedInstance(study, f"{study}.4", f"{study}.5", "1.2", "1.2", "CT1", f"studies/{study}/x.dcm")
    )
    (run,) = (run for run in ledger.intake.receiving() if run.id == run_id)
    ledger.intake.complete(run_id, run.last_image_at, "quiet")
    queue_complete(ledger)
    claim = ledger.runs.claim(run_id, "elsewhere:1:1", 60)
    assert claim is not None
    ledger.runs.reading_stored(claim, "d" * 64)
    results = []
    for kind in ("sr", "seg"):
        dataset, content = radiograph(study), BytesIO()
        dcmwrite(content, dataset, enforce_file_format=True)
        path, digest = spool.store_result(run_id, "viewer-en", kind, content.getvalue())
        results.append(
            StoredResult(dataset.SOPInstanceUID, dataset.SOPClassUID, dataset.SeriesInstanceUID, kind, digest, path)
        )
    ledger.runs.results_stored(claim, dict.fromkeys(destinations, results) or {"": results})
    return run_id, [result.sop_instance_uid for result in results]
