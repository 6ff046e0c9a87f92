"""What the study page shows, put together of ledger and spool at the moment in which it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Self

from pydicom.dataset import Dataset

from dicom_node.console.marks import Mark, marks_on
from dicom_node.console.patient import Patient
from dicom_node.console.picture import StudyImage, images_of
from dicom_node.ledger import DeliveryState, Ledger, State
from dicom_node.ledger.deliveries import ATTEMPT
from dicom_node.ledger.records import DeliveryRecord, EventRecord, ResultRecord, RunRecord, StudyRecord
from dicom_node.ledger.retractions import KIND as RETRACTION
from dicom_node.ledger.states import ACTIVE
from dicom_node.spool import Spool, SpoolError
from engine.errors import ImageError
from engine.findings import Finding, Language, RunState, StudyReading
from engine.imaging import Window, aspect_of, check_image, window_of
from engine.study import Instance

ENDED: Final = frozenset(State) - ACTIVE


@dataclass(frozen=True, slots=True)
class Asked:
    """Which frame of which image is asked for, and how; numbers from 1, 0 for the one that shows most."""

    image: int = 0
    frame: int = 1
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """The frame that is shown.

    Parameters
    ----------
    image : StudyImage
    frame : int
    columns, rows : int
        Its own pixel grid; 0 where there is a problem.
    aspect : float
        Height of a pixel in units of its width.
    window : Window or None
        That is asked for.
    own_window : Window or None
        That the object has for it; of all the values that it could have where it has none.
    gray : bool
        Whether a window can be set.
    modality : str
    marks : list of Mark
    before, after : tuple of (int, int) or None
        Image and frame next to it.
    problem : str
        Why it cannot be shown.
    """

    image: StudyImage
    frame: int
    marks: list[Mark]
    before: tuple[int, int] | None
    after: tuple[int, int] | None
    window: Window | None = None
    columns: int = 0
    rows: int = 0
    aspect: float = 1.0
    own_window: Window | None = None
    gray: bool = False
    modality: str = ""
    problem: str = ""

    @property
    def height(self) -> float:
        """Of the frame in units of its pixels' width, as people see it."""
        return self.rows * self.aspect


@dataclass(frozen=True, slots=True)
class Step:
    """A line of the timeline: what happened, how often in a row, and for how many seconds it then was so."""

    at: datetime
    run: int | None
    what: str
    from_state: State | None
    to_state: State | None
    reason: str
    times: int = 1
    lasted: float | None = None


@dataclass(frozen=True, slots=True)
class Shipment:
    """Everything of a run on its way to one destination, and what the attempts came to."""

    run: int
    destination: str
    items: tuple[DeliveryRecord, ...]
    attempts: tuple[EventRecord, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a finding is: an image of the study by its number, None where the spool has it no more."""

    image: int | None
    frame: int
    several: bool
    """Whether the image has several frames."""


@dataclass(frozen=True, slots=True)
class StudyView:
    """A study as its page shows it.

    Parameters
    ----------
    record : StudyRecord
    reading : StudyReading or None
        Of the latest run that has one.
    read_by : RunRecord or None
        That run.
    problem : str
        Why its reading cannot be shown.
    images : list of StudyImage
    shown : Shown or None
    patient : Patient
    """

    record: StudyRecord
    reading: StudyReading | None = None
    read_by: RunRecord | None = None
    problem: str = ""
    images: list[StudyImage] = field(default_factory=list)
    shown: Shown | None = None
    patient: Patient = field(default_factory=Patient)

    @classmethod
    def of(cls, ledger: Ledger, spool: Spool, study_instance_uid: str, asked: Asked, language: Language) -> Self:
        """Put it together.

        Raises
        ------
        NodeError
            If no image of the study has arrived.
        """
        record = ledger.study(study_instance_uid)
        read_by = next((run for run in reversed(record.runs) if run.reading_digest is not None), None)
        reading, problem = None, ""
        if read_by is not None:
            try:
                reading = StudyReading.from_json(spool.reading(read_by.id))
            except (SpoolError, ValueError):
                problem = "The reading is not in the spool, or no more."
        images = images_of(ledger, spool, study_instance_uid)
        findings = reading.findings if reading is not None else ()
        shown, patient = None, Patient()
        if images:
            image, frame = _chosen(images, asked, reading)
            try:
                instance = image.load()
                patient = Patient.of(instance.header)
                shown = shown_of(instance, images, image, frame, asked.window, findings, language)
            except ImageError as error:
                shown = _unseen(images, image, frame, error.explained)
        return cls(record, reading, read_by, problem, images, shown, patient)

    @property
    def run(self) -> RunRecord:
        """The latest run, whose state is the study's."""
        return self.record.runs[-1]

    @property
    def digest(self) -> str:
        """Beginning of the reading's digest; empty without one."""
        return (self.read_by.reading_digest or "")[:12] if self.read_by is not None else ""

    @property
    def can_retry(self) -> bool:
        """Whether `Ledger.retry` may take it."""
        return self.run.state in (State.FAILED, State.CANCELLED, State.IGNORED)

    @property
    def can_cancel(self) -> bool:
        """Whether there is something to stop or to give up."""
        return self.run.state is State.FAILED or any(run.state in ACTIVE for run in self.record.runs)

    @property
    def can_push(self) -> bool:
        """Whether it waits, and could be the next."""
        waits = self.run.state in (State.RECEIVING, State.COMPLETE, State.QUEUED)
        return waits and self.record.held_at is None

    @property
    def can_reread(self) -> bool:
        """Whether it has ended."""
        return self.run.state in ENDED

    @property
    def can_retract(self) -> bool:
        """Whether something was delivered that was not withdrawn, and nothing is on its way."""
        sent: dict[str, bool] = {}
        for item in self.record.deliveries:
            if item.kind == RETRACTION:
                sent[item.destination] = False
            elif item.state is DeliveryState.DELIVERED:
                sent[item.destination] = True
        return any(sent.values()) and self.run.state in ENDED

    @property
    def can_review(self) -> bool:
        """Whether its reading can be reviewed now."""
        said = self.reading is not None and self.reading.state in (RunState.FINDINGS, RunState.NO_FINDINGS)
        return said and self.run.state in ENDED

    @property
    def is_live(self) -> bool:
        """Whether something still happens by itself."""
        return self.run.state in ACTIVE

    @property
    def timeline(self) -> list[Step]:
        """What happened, in its order; of a run's states how long each lasted."""
        numbers = {run.id: run.number for run in self.record.runs}
        ends: dict[str | None, datetime] = {}
        steps: list[Step] = []
        for event in reversed(self.record.events):
            if event.kind == ATTEMPT:  # stands with the deliveries
                continue
            run = numbers.get(event.run_id or "")
            step = Step(event.at, run, event.kind, event.from_state, event.to_state, event.reason)
            if event.to_state is not None:
                if end := ends.get(event.run_id):
                    step = replace(step, lasted=(end - event.at).total_seconds())
                ends[event.run_id] = event.at
            if steps and replace(steps[-1], at=step.at, times=1) == step:
                steps[-1] = replace(steps[-1], at=step.at, times=steps[-1].times + 1)
            else:
                steps.append(step)
        return steps[::-1]

    @property
    def shipments(self) -> list[Shipment]:
        """Deliveries by run and destination, the latest run first."""
        numbers = {run.id: run.number for run in self.record.runs}
        found: dict[tuple[str, str], list[DeliveryRecord]] = {}
        for item in self.record.deliveries:
            found.setdefault((item.run_id, item.destination), []).append(item)
        told = [event for event in self.record.events if event.kind == ATTEMPT]
        shipments = [
            Shipment(
                run=numbers[run_id],
                destination=destination,
                items=tuple(items),
                attempts=tuple(e for e in told if e.run_id == run_id and e.reason.startswith(f"{destination}: ")),
            )
            for (run_id, destination), items in found.items()
        ]
        return sorted(shipments, key=lambda one: -one.run)

    @property
    def results(self) -> list[tuple[int, list[ResultRecord]]]:
        """Result objects by the number of their run, the latest first."""
        numbers = {run.id: run.number for run in self.record.runs}
        found: dict[int, list[ResultRecord]] = {}
        for result in self.record.results:
            found.setdefault(numbers[result.run_id], []).append(result)
        return sorted(found.items(), reverse=True)

    def places(self, finding: Finding) -> list[Place]:
        """Where a finding is, each frame once."""
        by_uid = {image.sop_instance_uid: image for image in self.images}
        frames = dict.fromkeys((region.sop_instance_uid, region.frame) for region in finding.regions)
        return [self._place(by_uid.get(uid), frame) for uid, frame in frames]

    def place(self, sop_instance_uid: str, frame: int | None) -> Place:
        """Where an image is."""
        image = next((one for one in self.images if one.sop_instance_uid == sop_instance_uid), None)
        return self._place(image, frame or 1)

    def _place(self, image: StudyImage | None, frame: int) -> Place:
        return Place(image.number if image else None, frame, several=frame > 1 or bool(image and image.frames > 1))


def _chosen(images: Sequence[StudyImage], asked: Asked, reading: StudyReading | None) -> tuple[StudyImage, int]:
    """The image and frame that are asked for; else the one with the first finding, the first read, or the first."""
    if asked.image:
        image = images[min(asked.image, len(images)) - 1]
        return image, min(max(1, asked.frame), image.frames)
    if reading is not None:
        by_uid = {image.sop_instance_uid: image for image in images}
        places = [(region.sop_instance_uid, region.frame) for region in reading.regions]
        places += [(one.sop_instance_uid, one.frame) for one in reading.images]
        for uid, frame in places:
            if uid in by_uid:
                return by_uid[uid], frame
    return images[0], 1


def shown_of(
    instance: Instance,
    images: Sequence[StudyImage],
    image: StudyImage,
    frame: int,
    window: Window | None,
    findings: Sequence[Finding],
    language: Language,
) -> Shown:
    """A frame as a picture is drawn of it.

    Raises
    ------
    ImageError
        If it is no image.
    """
    check_image(instance)
    header = instance.header
    return Shown(
        image=image,
        frame=frame,
        marks=marks_on(findings, image.sop_instance_uid, frame, language),
        before=_beside(images, image, frame, -1),
        after=_beside(images, image, frame, 1),
        window=window,
        columns=header.Columns,
        rows=header.Rows,
        aspect=aspect_of(header, frame),
        own_window=window_of(header, frame) or _widest(header),
        gray=str(header.PhotometricInterpretation).startswith("MONOCHROME"),
        modality=instance.modality,
    )


def _widest(header: Dataset) -> Window:
    """A window of all values that an image could have: where to begin from in one that has none."""
    bits, slope, intercept = (header.get(name) for name in ("BitsStored", "RescaleSlope", "RescaleIntercept"))
    width = 2 ** (bits if isinstance(bits, int) and 0 < bits <= 32 else 8) * abs(float(slope or 1))
    middle = 0.0 if header.get("PixelRepresentation") == 1 else width / 2
    return Window(middle + float(intercept or 0), max(width, 1.0))


def _unseen(images: Sequence[StudyImage], image: StudyImage, frame: int, problem: str) -> Shown:
    before, after = _beside(images, image, frame, -1), _beside(images, image, frame, 1)
    return Shown(image, frame, [], before, after, problem=problem)


def _beside(images: Sequence[StudyImage], image: StudyImage, frame: int, step: int) -> tuple[int, int] | None:
    """The next frame in a direction: of the same image, else of the one beside it."""
    if 1 <= frame + step <= image.frames:
        return image.number, frame + step
    place = image.number - 1 + step
    if not 0 <= place < len(images):
        return None
    return images[place].number, 1 if step > 0 else images[place].frames
