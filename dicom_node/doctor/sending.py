"""``doctor --send``: one test object goes to each destination, is committed to, and comes back from the sources.

It is of a phantom, of a patient whose name says so, and the same one each time: an archive keeps one of it and no
more. It says that this software made it, so that it is taken and not read when it comes back.
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from pydicom.dataset import FileDataset
from pydicom.uid import UID, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import evt

from dicom_node.delivery.transport import open_transport
from dicom_node.dimse import commitment, scu
from dicom_node.dimse.association import Peer, Timeouts, associate
from dicom_node.dimse.query import Server, keys
from dicom_node.dimse.retrieve import move
from dicom_node.dimse.scu import SendResult, StoredFile
from dicom_node.dimse.tls import client_context
from dicom_node.doctor.finding import Check, Finding, fail, ok, warn
from dicom_node.doctor.reach import SECONDS
from dicom_node.running import front_pid
from dicom_node.settings import Destination, Settings, Source
from dicom_node.sources.archive import open_archive
from engine.phantom.studies import phantom
from sr_writer import WRITER_VERSION

_NAME: Final = "PHANTOM^TEST OF MEDREGA"


def send_checks(settings: Settings) -> list[Check]:
    """A check of each destination: what is sent, and how it comes back."""
    return [
        Check(f"test-send {item.name}", partial(_send, settings, item), 12 * SECONDS) for item in settings.destinations
    ]


def made_by(aet: str) -> FileDataset:
    """The test object of a node."""
    dataset, _ = phantom(0, 0)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        # A UUID as UID (PS3.5 B.2), derived so that each time it is the same object.
        dataset[keyword].value = UID(
            f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'medrega-pacs doctor {aet} {keyword}').int}"
        )
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID = _NAME, "PHANTOM-TEST"
    dataset.Modality, dataset.ConversionType = "OT", "SYN"
    dataset.SoftwareVersions = f"medrega-pacs {WRITER_VERSION}"
    return dataset


def _send(settings: Settings, destination: Destination) -> Iterator[Finding]:
    dataset, results = made_by(settings.listener.aet), list[SendResult]()
    with tempfile.TemporaryDirectory(prefix="medrega-doctor-") as folder:
        path = Path(folder, "test.dcm")
        dataset.save_as(path, enforce_file_format=True)
        with closing(open_transport(destination, settings)) as transport:
            transport.send([StoredFile.open(path)], results.append)
    if not results or not results[0].ok:
        yield fail(f"the test object is not stored: {results[0].reason if results else 'no answer'}", "see its log")
        return
    yield ok(f"the test object of {_NAME.replace('^', ', ')} is stored")
    if destination.commitment:
        yield _committed(settings, destination, dataset)
    for source in settings.sources:
        yield from _back(settings, source, str(dataset.StudyInstanceUID))


def _committed(settings: Settings, destination: Destination, dataset: FileDataset) -> Finding:
    """Ask to commit to it (PS3.4 J.3); a report on this association is judged, one to the listener is its matter."""
    reported = threading.Event()
    reports: list[commitment.Report] = []

    def take(event: evt.Event) -> tuple[int, None]:
        with commitment.legible():
            reports.append(commitment.Report.from_dataset(event.event_information))
        reported.set()
        return scu.SUCCESS, None

    reference = (str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
    request = commitment.Request(str(generate_uid(prefix=None)), (reference,))
    tls = client_context(destination.tls) if destination.tls is not None else None
    with associate(
        Peer.of(destination),
        [commitment.context()],
        settings.listener.aet,
        Timeouts(SECONDS, SECONDS),
        handlers=[(evt.EVT_N_EVENT_REPORT, take)],
        tls=tls,
    ) as association:
        answer, _ = association.send_n_action(
            request.to_dataset(), commitment.REQUEST, commitment.SOP_CLASS, commitment.SOP_INSTANCE
        )
        if answer.get("Status") != scu.SUCCESS:
            return fail("it takes no request to commit to the test object", "see its log, or set commitment = false")
        reported.wait(settings.commitment.wait_seconds)
    if not reports:
        return ok("takes the request to commit; it reports later, to the listener")
    if reports[0].not_kept:
        reasons = ", ".join(map(commitment.reason_in_words, reports[0].not_kept.values()))
        return fail(f"does not commit to what it has just stored: {reasons}", "see its log")
    return ok("commits to the test object")


def _back(settings: Settings, source: Source, study: str) -> Iterator[Finding]:
    """Have a source that has it send it to this node: the way that a PACS reaches us."""
    aet = settings.listener.aet
    if not open_archive(source, aet).query("STUDY", {"StudyInstanceUID": study}, ["StudyInstanceUID"]):
        return  # another archive's
    if source.way != "move":
        yield ok(f"source {source.name} has it, and gives it by {source.way}")
        return
    if front_pid(settings) is None:
        yield warn(f"source {source.name} has it; no node runs to have it sent back", "start the node, and try again")
        return
    tls = client_context(source.tls) if source.tls is not None else None
    server = Server(Peer.of(source), aet, Timeouts(SECONDS, SECONDS), tls)
    moved = move(server, keys("STUDY", {"StudyInstanceUID": study}), aet)
    if moved.ok and moved.completed:
        yield ok(f"source {source.name} sends it back: it reaches {aet} at this node's listener")
    else:
        words = moved.reason or "nothing was sent"
        yield fail(f"source {source.name} does not send it back by C-MOVE: {words}", moved.advice or "see its log")
