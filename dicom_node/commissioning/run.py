"""A commissioning run: the cases sent, their results waited for, fetched and checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final
from uuid import uuid4

import pydicom
from PIL import Image
from pydicom.dataset import Dataset

from dicom_node.commissioning.cases import Case
from dicom_node.commissioning.checks import Check, check_case, images_unchanged
from dicom_node.commissioning.fetch import fetch_study
from dicom_node.commissioning.phantoms import Phantom, write_phantom
from dicom_node.delivery.transport import open_transport
from dicom_node.demo.own_node import Report, check_alive, own_node, own_settings
from dicom_node.demo.readback import regions_of_sr
from dicom_node.dimse import scu
from dicom_node.dimse.receiver import Receiver
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import StudyRecord
from dicom_node.reading.picture import Mark, draw_overlay
from dicom_node.reading.profiles import output_profiles
from dicom_node.settings import Destination, EngineSettings, Settings
from dicom_node.settings.sources import Source
from dicom_node.spool import Spool
from engine.errors import MedregaError, NodeError
from engine.findings import StudyReading
from engine.study import is_own_result, load_studies
from sr_writer import kind_of

MARKER: Final = ".medrega-commissioning"
STALL_SECONDS: Final = 300.0
_ENDED: Final = (State.DELIVERED, State.IGNORED, State.CANCELLED, State.FAILED)
_ATTEMPTS: Final = 5
"""How often a PACS is asked for results that it took a moment ago and does not give yet."""
_PAUSE: Final = 2.0

Fetch = Callable[[Phantom, set[str]], tuple[Sequence[Dataset] | None, Sequence[Dataset]]]
"""A study as it is where results go: its images, where they are there too; the results of these UIDs, and whatever else
this node made."""
SENDER: Final = "COMMISSION"
"""AE title that images are sent as: what comes from the node's own a PACS may take for results, and not route."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of a case.

    Parameters
    ----------
    reading : StudyReading or None
        None where there is none.
    checks : tuple of Check
    seconds : float
        From the first image's arrival to the last delivery.
    picture : PIL.Image.Image or None
        Its image with the boxes that the SR has which came back.
    """

    case: Case
    study_instance_uid: str
    checks: tuple[Check, ...]
    reading: StudyReading | None = None
    seconds: float = 0.0
    picture: Image.Image | None = None

    @property
    def faults(self) -> tuple[str, ...]:
        """Everything that is wrong."""
        return tuple(fault for check in self.checks for fault in check.faults)


@dataclass(frozen=True, slots=True)
class Commissioning:
    """A run as a whole; `through` names the archive and the node in words."""

    run: str
    through: str
    created: datetime
    version: str
    results: tuple[CaseResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every check of every case held."""
        return bool(self.results) and not any(result.faults for result in self.results)


def commission_through(
    settings: Settings,
    name: str,
    cases: Sequence[Case],
    out: Path,
    report: Report,
    *,
    sender: str = SENDER,
    stall: float = STALL_SECONDS,
) -> Commissioning:
    """Send the cases to the hospital's PACS, which is to route them to the running node, and check what it then has.

    Parameters
    ----------
    settings : Settings
        Of the running node.
    name : str
        A destination and a source of the settings: the PACS that images are sent to, and that gives results.
    cases : sequence of Case
    out : Path
    report : callable
    sender : str
        AE title that images are sent as.
    stall : float
        Seconds without any change after which what has not arrived is given up.

    Raises
    ------
    NodeError
        If the PACS cannot be reached, or refuses images.
    SettingsError
        If the settings know no destination or no source of that name.
    """
    destination, source = settings.destination(name), settings.source(name)
    run, created = _begin(out)
    phantoms = _draw(cases, run, created, out, report)
    as_sender = settings.model_copy(update={"listener": settings.listener.model_copy(update={"aet": sender})})
    _send(phantoms, lambda files, told: _transport(destination, as_sender, files, told), report)
    ledger = Ledger.open(settings)
    try:
        records = _wait(ledger, phantoms, report, stall, lambda: None)
    finally:
        ledger.close()
    listener = settings.listener
    fetch = _from_archive(source, settings, out)
    results = _examine(phantoms, records, Spool.of(settings), destination, fetch, report, f"{listener.aet}")
    through = f"{name} ({destination}), node {listener.aet}:{listener.port}"
    return Commissioning(run, through, created, version("medrega-pacs"), tuple(results))


def commission_simulated(engine: EngineSettings, cases: Sequence[Case], out: Path, report: Report) -> Commissioning:
    """Run the cases against a node of its own, which sends results to a receiver on this machine.

    Parameters
    ----------
    engine : EngineSettings
        What reads.
    cases : sequence of Case
    out : Path
    report : callable

    Raises
    ------
    NodeError
        If the node does not start, ends early, or refuses images.
    """
    run, created = _begin(out)
    phantoms = _draw(cases, run, created, out, report)
    with Receiver(out / "received") as pacs:
        settings = own_settings(out, pacs.peer, engine)
        listener = settings.listener
        node = scu.Peer(listener.aet, listener.host, listener.port)
        with own_node(settings, out, report) as process:
            _send(phantoms, lambda files, told: scu.send(files, node, SENDER, on_result=told), report)
            ledger = Ledger.open(settings)
            try:
                log = out / "node.log"
                records = _wait(ledger, phantoms, report, STALL_SECONDS, lambda: check_alive(process, log))
            finally:
                ledger.close()
        received = [pydicom.dcmread(path) for path in pacs.files]

    def fetch(phantom: Phantom, _: set[str]) -> tuple[Sequence[Dataset] | None, Sequence[Dataset]]:
        own = [item for item in received if item.StudyInstanceUID == phantom.study_instance_uid]
        return None, own

    (destination,) = settings.destinations
    results = _examine(phantoms, records, Spool.of(settings), destination, fetch, report, listener.aet)
    return Commissioning(run, "the node alone (simulation)", created, version("medrega-pacs"), tuple(results))


def _begin(out: Path) -> tuple[str, datetime]:
    """A folder for this run, and its identifier: what is on file of an earlier one is never replaced."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise NodeError(f"{out} is there already and not an empty folder", advice="name another folder by --out")
    out.mkdir(parents=True, exist_ok=True)
    return uuid4().hex[:8], datetime.now(UTC).astimezone()


def _draw(cases: Sequence[Case], run: str, created: datetime, out: Path, report: Report) -> list[Phantom]:
    phantoms = []
    for number, case in enumerate(cases, 1):
        phantoms.append(write_phantom(case, run, created, out / "images" / case.name))
        report("Drawing phantoms", number, len(cases))
    return phantoms


def _transport(
    destination: Destination,
    settings: Settings,
    files: Sequence[scu.StoredFile],
    told: Callable[[scu.SendResult], None],
) -> None:
    transport = open_transport(destination, settings)
    try:
        transport.send(files, told)
    finally:
        transport.close()


def _send(
    phantoms: Sequence[Phantom],
    send: Callable[[Sequence[scu.StoredFile], Callable[[scu.SendResult], None]], object],
    report: Report,
) -> None:
    files = [scu.StoredFile.open(path) for phantom in phantoms for path in phantom.files]
    sent: list[scu.SendResult] = []

    def told(result: scu.SendResult) -> None:
        sent.append(result)
        report("Sending images", len(sent), len(files))

    report("Sending images", 0, len(files))
    send(files, told)
    refused = [result for result in sent if not result.ok]
    if refused:
        raise NodeError(f"{len(refused)} of {len(files)} images were refused: {refused[0].reason}")


def _wait(
    ledger: Ledger, phantoms: Sequence[Phantom], report: Report, stall: float, look: Callable[[], None]
) -> dict[str, StudyRecord]:
    """What the ledger has of the studies, once each has ended or nothing changes any more."""
    wanted = {phantom.study_instance_uid for phantom in phantoms}
    last: object = None
    changed = time.monotonic()
    while True:
        states = {
            one.study_instance_uid: (one.state, one.instances)
            for one in ledger.studies()
            if one.study_instance_uid in wanted
        }
        ended = sum(state in _ENDED for state, _ in states.values())
        report("Waiting for the node", ended, len(wanted))
        if states != last:
            last, changed = states, time.monotonic()
        if ended == len(wanted) or time.monotonic() - changed > stall:
            return {uid: ledger.study(uid) for uid in states}
        look()
        time.sleep(0.5)


def _from_archive(source: Source, settings: Settings, out: Path) -> Fetch:
    def fetch(phantom: Phantom, made: set[str]) -> tuple[Sequence[Dataset] | None, Sequence[Dataset]]:
        uid = phantom.study_instance_uid
        for attempt in range(_ATTEMPTS):
            time.sleep(_PAUSE if attempt else 0)
            folder = out / "received" / phantom.case.name
            paths = fetch_study(source, settings.listener.aet, uid, folder)
            came = [pydicom.dcmread(path) for path in paths]
            if made <= {str(item.SOPInstanceUID) for item in came}:
                break
        sent = {str(image.SOPInstanceUID) for image in phantom.images}
        images = [item for item in came if str(item.SOPInstanceUID) in sent]
        return images, [item for item in came if str(item.SOPInstanceUID) in made or is_own_result(item)]

    return fetch


def _examine(
    phantoms: Sequence[Phantom],
    records: dict[str, StudyRecord],
    spool: Spool,
    destination: Destination,
    fetch: Fetch,
    report: Report,
    node: str,
) -> Iterable[CaseResult]:
    results = []
    for number, phantom in enumerate(phantoms, 1):
        uid = phantom.study_instance_uid
        record = records.get(uid)
        if record is None:
            words = f"no image of it reached the node: does the archive route it to {node}, under its own study UID?"
            results.append(CaseResult(phantom.case, uid, (Check("arrival at the node", (words,)),)))
        else:
            try:
                results.append(_examined(phantom, record, spool, destination, fetch))
            except MedregaError as error:
                check = Check("results in the archive", (error.explained,))
                results.append(CaseResult(phantom.case, uid, (check,)))
        report("Checking results", number, len(phantoms))
    return results


def _examined(
    phantom: Phantom, record: StudyRecord, spool: Spool, destination: Destination, fetch: Fetch
) -> CaseResult:
    uid, run = phantom.study_instance_uid, record.runs[-1]
    at_node = [
        pydicom.dcmread(path)
        for path in sorted((spool.root / "studies" / uid).glob("*.dcm"))
        if not is_own_result(pydicom.dcmread(path, stop_before_pixels=True))
    ]
    if run.state is not State.DELIVERED:
        words = f"the study is {run.state}" + (f": {run.reason}" if run.reason else "")
        arrived = images_unchanged(phantom, at_node, "reached the node")
        return CaseResult(
            phantom.case, uid, (Check("arrival at the node", tuple(arrived)), Check("the node's work", (words,)))
        )
    reading = StudyReading.from_json(spool.reading(run.id))
    made = {
        one.sop_instance_uid
        for one in record.deliveries
        if one.run_id == run.id and one.destination == destination.name
    }
    images, results = fetch(phantom, made)
    languages = output_profiles([destination])[destination.name].languages
    checks = check_case(phantom, at_node, reading, results, made, languages)
    if images is not None:
        kept = Check("images unchanged in the archive", tuple(images_unchanged(phantom, images, "is in the archive")))
        checks.insert(0, kept)
    seconds = (run.changed_at - record.created_at).total_seconds()
    return CaseResult(phantom.case, uid, tuple(checks), reading, seconds, _picture(phantom, reading, results))


def _picture(phantom: Phantom, reading: StudyReading, results: Sequence[Dataset]) -> Image.Image | None:
    """The images as sent, with the boxes of the SR as it came back."""
    try:
        marks = [
            Mark(region.sop_instance_uid, region.frame, region.box, region.name)
            for result in results
            if kind_of(result) == "sr"
            for region in regions_of_sr(result)
        ]
        (study,), _ = load_studies(phantom.files)
        return draw_overlay(study, reading.images, marks)
    except MedregaError:  # its checks have told why
        return None
