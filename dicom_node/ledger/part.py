"""What the parts of the ledger share: a database, a clock, and the one way a run changes its state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import delete, select, true, update
from sqlalchemy.orm import Session

from dicom_node.ledger.database import Database, DatabaseError
from dicom_node.ledger.models import Delivery, DeliveryState, Event, Lease, Result, Run
from dicom_node.ledger.records import StoredResult
from dicom_node.ledger.states import State, check_transition
from dicom_node.process import owner_is_gone
from engine.errors import NodeError

T = TypeVar("T")
Clock = Callable[[], datetime]
Monotonic = Callable[[], float]


class LeaseLostError(NodeError):
    """Someone else took the work over, or it was cancelled; what this worker has of it is void."""


class Part:
    """A part of the ledger."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def _again_if_overtaken(self, work: Callable[[Session], T]) -> T:
        """Run a transaction; once more where another process entered the same row at the same moment."""
        try:
            with self._database.write() as session:
                return work(session)
        except DatabaseError as error:
            if not error.overtaken:
                raise
        with self._database.write() as session:
            return work(session)

    def _move(self, session: Session, run: Run, state: State, reason: str = "", kind: str = "transition") -> None:
        """Change a run's state; the same transaction writes the event."""
        check_transition(run.state, state)
        now = self._clock()
        session.add(
            Event(
                study_instance_uid=run.study_instance_uid,
                run_id=run.id,
                at=now,
                kind=kind,
                from_state=run.state,
                to_state=state,
                reason=reason,
            )
        )
        run.state, run.reason, run.changed_at = state, reason, now

    def _begin_quiet_times(self, session: Session, study_instance_uids: Iterable[str], *, anew: bool = False) -> None:
        """Have the quiet time of studies begin now, or with an image that came since; `anew`: now in any case.

        One by one and sorted, as arrivals do it, so that two processes cannot lock each other out.
        """
        now = self._clock()
        before = true() if anew else Run.last_image_at < now
        for study in sorted(study_instance_uids):
            these = update(Run).where(Run.study_instance_uid == study, Run.gathers, before)
            session.execute(these.values(last_image_at=now))

    def _standing(self, session: Session, study_instance_uid: str) -> Run:
        """The run that a study stands by, locked; raises `NodeError` for a study of which no image arrived."""
        these = select(Run).where(Run.study_instance_uid == study_instance_uid, Run.latest).with_for_update()
        # Who waited for one that was superseded meanwhile gets none (PostgreSQL); a second look sees its successor.
        run = session.scalar(these) or session.scalar(these)
        if run is None:
            raise unknown_study(study_instance_uid)
        return run

    def _supersede(self, session: Session, study_instance_uid: str) -> None:
        """Have the study stand by a run that is about to be added."""
        session.execute(
            update(Run).where(Run.study_instance_uid == study_instance_uid, Run.latest).values(latest=False)
        )

    def _note(
        self, session: Session, study_instance_uid: str, kind: str, reason: str, run_id: str | None = None
    ) -> None:
        session.add(
            Event(study_instance_uid=study_instance_uid, run_id=run_id, at=self._clock(), kind=kind, reason=reason)
        )

    def _lock_run(self, session: Session, run_id: str) -> Run:
        run = session.scalar(select(Run).where(Run.id == run_id).with_for_update())
        if run is None:
            raise NodeError(f"the ledger has no run {run_id}")
        return run

    def _lease_is_free(self, lease: Lease | None) -> bool:
        return lease is None or lease.expires_at <= self._clock() or owner_is_gone(lease.owner)

    def _hold(self, session: Session, key: str, owner: str) -> Lease:
        """The lease, if it is still this owner's."""
        lease = session.get(Lease, key, with_for_update=True)
        if lease is None or lease.owner != owner:
            raise LeaseLostError("the lease was lost to another worker")
        return lease

    def _stop(self, session: Session, run: Run, state: State, reason: str, kind: str) -> None:
        """Change the state of a run, whose row is locked, and take it from whoever reads or delivers it."""
        waiting = (Delivery.run_id == run.id) & (Delivery.state == DeliveryState.PENDING)
        destinations = session.scalars(select(Delivery.destination).where(waiting).distinct()).all()
        keys = [run_key(run.id), *(delivery_key(run.id, destination) for destination in destinations)]
        session.execute(delete(Lease).where(Lease.key.in_(keys)))
        session.execute(update(Delivery).where(waiting).values(state=DeliveryState.CANCELLED))
        self._move(session, run, state, reason, kind)


def run_key(run_id: str) -> str:
    """Key of the lease to read a run."""
    return f"run:{run_id}"


def delivery_key(run_id: str, destination: str) -> str:
    """Key of the lease to deliver a run to a destination."""
    return f"delivery:{run_id}:{destination}"


def stored_result(row: Result) -> StoredResult:
    """A result's row as a record."""
    return StoredResult(
        row.sop_instance_uid, row.sop_class_uid, row.series_instance_uid, row.kind, row.sha256, row.path
    )


def unknown_study(study_instance_uid: str) -> NodeError:
    """What to raise for a study of which no image arrived."""
    return NodeError(
        f"no image of the study {study_instance_uid} has arrived", advice="medrega-pacs studies lists them"
    )
