"""What has to hold when the faults are over, asked of the spool, the ledger, the archive and the system."""

from __future__ import annotations

import hashlib
import io
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.request import urlopen

import pydicom
from chaos_senders import Study
from chaos_world import World

from dicom_node.ledger import State
from dicom_node.ledger.records import StudyRecord

FINAL: Final = frozenset({State.DELIVERED, State.COMMITTED})
"""With a destination that came back, giving up is no end."""


@dataclass
class Verdict:
    """Figures, and what was wrong."""

    studies: int = 0
    instances: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    wrong_study: list[str] = field(default_factory=list)
    taken_twice: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    results: int = 0
    runs: int = 0
    attempts: int = 0
    recovery_seconds: float = 0.0

    @property
    def wrong(self) -> dict[str, list[str]]:
        """What was wrong, by kind."""
        names = ("lost", "stuck", "missing", "duplicates", "wrong_study", "taken_twice", "altered", "left")
        return {name: found for name in names if (found := getattr(self, name))}


def wait_until_settled(world: World, studies: list[Study], seconds: float) -> float:
    """Wait until every study is in a final state, or for so long none has come into one; how long it took.

    A machine that does other work is slow to read what has piled up; what stands still is stuck on any machine.
    """
    begun = moved = time.monotonic()
    wanted, left = {study.uid for study in studies if study.acknowledged}, -1
    while time.monotonic() - moved < seconds:
        final = {item.study_instance_uid for item in world.ledger.studies() if item.state in FINAL}
        if len(wanted - final) != left:
            left, moved = len(wanted - final), time.monotonic()
        if not left:
            break
        time.sleep(0.5)
    return time.monotonic() - begun


def judge(world: World, studies: list[Study]) -> Verdict:
    """Compare what was sent and acknowledged with what is there."""
    verdict = Verdict(studies=len(studies), instances=sum(len(study.instances) for study in studies))
    known = {item.study_instance_uid for item in world.ledger.studies()}
    sent = {study.uid: study for study in studies}
    verdict.left += [f"a study nobody sent: {uid}" for uid in known - sent.keys()]
    wanted: dict[str, str] = {}
    for study in studies:
        verdict.acknowledged += len(study.acknowledged)
        verdict.lost += [f"{study.uid}: {sop}" for sop in sorted(study.acknowledged) if not _is_kept(world, study, sop)]
        if not study.acknowledged:
            verdict.stuck.append(f"{study.uid}: its sender got nothing in")
            continue
        if study.uid not in known:
            verdict.lost.append(f"{study.uid}: the ledger does not know it")
            continue
        record = world.ledger.study(study.uid)
        verdict.runs += len(record.runs)
        verdict.attempts += sum(run.attempts for run in record.runs)
        verdict.stuck += [
            f"{study.uid} run {run.number}: {run.state} {run.reason}" for run in record.runs if run.state not in FINAL
        ]
        if record.runs[-1].instances != len(study.instances):
            verdict.lost.append(f"{study.uid}: the last run has {record.runs[-1].instances} of {len(study.instances)}")
        verdict.taken_twice += _taken_twice(record)
        verdict.altered += [
            f"{study.uid}: {result.path}"
            for result in record.results
            if hashlib.sha256((world.data / result.path).read_bytes()).hexdigest() != result.sha256
        ]
        wanted |= {result.sop_instance_uid: study.uid for result in record.results}
    _judge_archive(world, sent, wanted, verdict)
    return verdict


def _is_kept(world: World, study: Study, sop: str) -> bool:
    """Whether the spool has an image as it was sent."""
    path = world.data / "studies" / study.uid / f"{sop}.dcm"
    original = next(one for one in [*study.first, *study.late] if one.stem == sop)
    try:
        return bool(pydicom.dcmread(path) == pydicom.dcmread(original))
    except (OSError, pydicom.errors.InvalidDicomError):
        return False


def _taken_twice(record: StudyRecord) -> list[str]:
    """Runs whose reading was stored more than once though nobody asked for it again."""
    stored = [
        event.run_id for event in record.events if event.to_state is State.WRITING and event.from_state is State.READING
    ]
    again = {
        event.run_id for event in record.events if event.from_state is State.WRITING and event.to_state is State.QUEUED
    }
    return [
        f"{record.study_instance_uid}: run {one}" for one in set(stored) if stored.count(one) > 1 and one not in again
    ]


def _judge_archive(world: World, sent: dict[str, Study], wanted: dict[str, str], verdict: Verdict) -> None:
    found: dict[str, str] = {}
    for one in world.orthanc.get("/instances"):
        dataset = _fetched(world, one)
        uid, study = str(dataset.SOPInstanceUID), str(dataset.StudyInstanceUID)
        verdict.results += 1
        found[uid] = study
        if uid not in wanted:
            verdict.duplicates.append(f"{study}: {dataset.get('SeriesDescription', '')} {uid}")
            continue
        of = {wanted[uid], study, *_evidence(dataset, "StudyInstanceUID")}
        images = set(_evidence(dataset, "ReferencedSOPInstanceUID")) - wanted.keys()
        if len(of) != 1 or dataset.PatientID != sent[study].patient or not images <= sent[study].instances:
            verdict.wrong_study.append(f"{uid} is of {sorted(of)}")
    verdict.missing += [f"{study}: {uid}" for uid, study in wanted.items() if uid not in found]


def _fetched(world: World, identifier: str) -> pydicom.Dataset:
    with urlopen(f"{world.orthanc.url}/instances/{identifier}/file", timeout=30) as answer:  # noqa: S310 - loopback
        return pydicom.dcmread(io.BytesIO(answer.read()), stop_before_pixels=True)


def _evidence(dataset: pydicom.Dataset, keyword: str) -> list[str]:
    """Every value of a keyword in any sequence of an object but its own."""
    found: list[str] = []

    def look(_dataset: pydicom.Dataset, element: Any) -> None:
        if element.keyword == keyword:
            found.append(str(element.value))

    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                item.walk(look)
    return found


def judge_end(world: World, verdict: Verdict) -> None:
    """After every part was told to end: nothing runs, nothing is locked, nothing is half there."""
    verdict.left += [f"process {pid}: {command[:80]}" for pid, command in world.processes().items()]
    # Redis writes its title over its environment, by which the others are known.
    verdict.left += [
        f"{part.name} runs" for part in world.parts.values() if part.process and part.process.poll() is None
    ]
    verdict.left += [f"incoming/{path.name}" for path in (world.data / "incoming").iterdir()]
    path = world.data / "ledger.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=1)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
            database.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            verdict.left.append(str(error))
        held = database.execute("SELECT key FROM lease WHERE key != 'sweeper'").fetchall()
        verdict.left += [f"lease {key}" for (key,) in held]
