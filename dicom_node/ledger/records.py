"""What the ledger tells: frozen records, so that nothing outside it holds a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from dicom_node.ledger.models import DeliveryState
from dicom_node.ledger.states import State
from dicom_node.routing.decision import Decision, Priority


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """A SOP instance in the spool; `path` is relative to the data folder."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_aet: str
    path: str
    called_aet: str = ""


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that still receives, with what decides when it is complete."""

    id: str
    study_instance_uid: str
    last_image_at: datetime


@dataclass(frozen=True, slots=True)
class CompleteRun:
    """A run that waits for a decision.

    Parameters
    ----------
    completed_at : datetime
        When it was complete, which is the time that rules see.
    called_aets, calling_aets : tuple of str
        Where its study came in, and from whom, in the order of the alphabet.
    """

    id: str
    study_instance_uid: str
    completed_at: datetime
    called_aets: tuple[str, ...]
    calling_aets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueuedRun:
    """A run that waits for a worker; `queue` names the engine, empty for any, and priority 0 is the most urgent."""

    id: str
    queue: str
    priority: int


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """A file of a study, for a reader; `path` is relative to the data folder."""

    path: str
    series_instance_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that a worker holds the lease of."""

    run_id: str
    study_instance_uid: str
    owner: str
    attempt: int
    reading_digest: str | None
    instances: tuple[StoredInstance, ...]
    """Everything that arrived of the study until the run was complete."""
    predecessors: tuple[StoredResult, ...]
    """Results of the run that this one supersedes."""
    decision: Decision


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result object on disk; `path` is relative to the data folder."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    kind: str
    sha256: str
    path: str


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """One result that waits for one destination."""

    id: int
    study_instance_uid: str
    result: StoredResult
    attempts: int
    since: datetime
    reason: str = ""
    """Why the attempt before did not succeed."""
    probe: bool = False
    """Whether the destination is to be asked first if it answers again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt to deliver one result.

    Parameters
    ----------
    delivery_id : int
    state : DeliveryState
    status : int or None
        Status of the C-STORE response, None where none came.
    reason : str
    next_attempt_at : datetime or None
        For `DeliveryState.PENDING`.
    """

    delivery_id: int
    state: DeliveryState
    status: int | None
    reason: str
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A line of ``medrega-pacs studies``: a study and its latest run.

    Parameters
    ----------
    age_seconds : float
        How long the run has been in its state.
    held_at : datetime or None
        Since when the study is held by hand.
    """

    study_instance_uid: str
    state: State
    reason: str
    run_id: str
    run_number: int
    instances: int
    calling_aets: tuple[str, ...]
    created_at: datetime
    changed_at: datetime
    age_seconds: float
    held_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of a study."""

    id: str
    number: int
    state: State
    reason: str
    supersedes: str | None
    attempts: int
    created_at: datetime
    changed_at: datetime
    reading_digest: str | None
    instances: int
    route: str | None
    priority: Priority
    plan: str | None
    """Plan that it was read by; before that, the one that its route names."""
    findings: int | None


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """One result of a run."""

    run_id: str
    kind: str
    sop_instance_uid: str
    sha256: str
    path: str


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One result on its way to one destination."""

    run_id: str
    kind: str
    sop_instance_uid: str
    destination: str
    state: DeliveryState
    attempts: int
    status: int | None
    reason: str
    next_attempt_at: datetime | None
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One line of the audit record."""

    at: datetime
    run_id: str | None
    kind: str
    from_state: State | None
    to_state: State | None
    reason: str


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """Everything the ledger knows of a study; runs, results and events in the order in which they came."""

    study_instance_uid: str
    created_at: datetime
    conflicts: int
    """Objects with the SOP instance UID of another one and other content, kept apart and not read."""
    held_at: datetime | None
    """Since when it is held by hand."""
    expected: int | None
    """How many images it has in all, None where nobody says so."""
    expected_by: str
    """Who says so: a source of the settings, or its sender."""
    runs: tuple[RunRecord, ...]
    results: tuple[ResultRecord, ...]
    deliveries: tuple[DeliveryRecord, ...]
    events: tuple[EventRecord, ...]


@dataclass(frozen=True, slots=True)
class OwedReport:
    """A sender's request that the node commits to objects, and hears of by a report.

    Parameters
    ----------
    instances : tuple of (str, str)
        SOP class and SOP instance UID of each.
    """

    transaction_uid: str
    calling_aet: str
    called_aet: str
    instances: tuple[tuple[str, str], ...]
    attempts: int
    since: datetime


@dataclass(frozen=True, slots=True)
class KeptInstance:
    """An object that the node keeps; `path` is relative to the data folder."""

    sop_class_uid: str
    path: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """A request that a destination commits to results.

    Parameters
    ----------
    number : int
        How many requests there were since the results arrived, this one included.
    since : datetime
        When they arrived.
    """

    transaction_uid: str
    results: tuple[StoredResult, ...]
    number: int
    since: datetime


class Circuit(StrEnum):
    """Whether anything is sent to a destination."""

    CLOSED = "closed"
    """All that is due."""
    OPEN = "open"
    """Nothing: it was not reached several times in a row."""
    HALF_OPEN = "half-open"
    """It is to be asked whether it answers again."""


@dataclass(frozen=True, slots=True)
class Contact:
    """Whether a destination was reached, and what follows if not.

    Parameters
    ----------
    answered : bool
    reason : str
        Why not.
    opens_after : int
        Failures in a row after which the circuit opens.
    probe_seconds : float
        Pause before it is asked again.
    give_up_before : datetime or None
        Results that have waited since before then are given up.
    """

    answered: bool
    reason: str = ""
    opens_after: int = 1
    probe_seconds: float = 0
    give_up_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class DestinationRecord:
    """How a destination does.

    Parameters
    ----------
    failures : int
        In a row.
    retry_at : datetime or None
        When it is asked again, unless its circuit is closed.
    reason : str
        Of the last failure, at `failed_at`.
    waiting : int
        Results on their way there.
    oldest : datetime or None
        Since when the one waits that waits longest.
    given_up : int
        Results that have not arrived and are not tried again unless someone says so.
    """

    name: str
    paused_at: datetime | None
    circuit: Circuit
    failures: int
    retry_at: datetime | None
    reason: str
    failed_at: datetime | None
    answered_at: datetime | None
    waiting: int
    oldest: datetime | None
    delivered_at: datetime | None
    given_up: int
