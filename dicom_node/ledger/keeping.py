"""Keeping: what the node still keeps of each study, why it must, and what was removed.

A file is removed within the transaction that says so and that has looked once more whether it may go: a reader's claim
or a late image comes before it or after it, never in between. A crash in that moment leaves an entry whose file is
gone, and the next purge takes it for removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, func, or_, select, true
from sqlalchemy.orm import Session, aliased

from dicom_node.ledger.models import Delivery, DeliveryState, Instance, Result, Run, Study
from dicom_node.ledger.part import Part
from dicom_node.ledger.states import ACTIVE, State

_ENDED: Final = (State.DELIVERED, State.COMMITTED, State.IGNORED, State.CANCELLED)
PURGE: Final = "purge"
"""Kind of the event that tells what was removed of a study, and why."""
_BATCH: Final = 100
"""Files removed in one transaction, which holds up those who write to the ledger for as long."""

Remove = Callable[[Sequence[str]], None]
"""Removes files, given relative to the data folder; those that are not there count as removed."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What the node keeps of a study.

    Parameters
    ----------
    changed_at : datetime
        When an image came, even one that was here before, or a run changed its state last.
    images, results : int
        How many are kept; conflicting objects count as images.
    images_needed, results_needed : str
        Why they may not be removed, in words; empty where they may.
    """

    study_instance_uid: str
    changed_at: datetime
    images: int
    results: int
    images_needed: str
    results_needed: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What has to be so before something is removed.

    Parameters
    ----------
    committing : frozenset of str
        Destinations that have to commit to results first.
    keep_committed : bool
        Whether images stay that their sender was told are kept.
    """

    committing: frozenset[str]
    keep_committed: bool


class Keeping(Part):
    """What is kept, and what goes."""

    def kept(self, terms: Terms) -> list[Holding]:
        """Every study of which something is kept, the one that changed longest ago first."""
        with self._database.read() as session:
            images: dict[str, int] = {}
            changed: dict[str, datetime] = {}
            for uid, count, latest in session.execute(
                select(Instance.study_instance_uid, func.count(), func.max(Instance.received_at))
                .where(Instance.purged_at.is_(None))
                .group_by(Instance.study_instance_uid)
            ):
                images[uid], changed[uid] = count, latest
            results = _counted(
                session.execute(
                    select(Run.study_instance_uid, func.count())
                    .join(Result, Result.run_id == Run.id)
                    .where(Result.purged_at.is_(None))
                    .group_by(Run.study_instance_uid)
                )
            )
            reasons = _Reasons(session, terms)
            for uid, *times in session.execute(select(Run.study_instance_uid, Run.changed_at, Run.last_image_at)):
                if uid in images or uid in results:
                    changed[uid] = max(changed.get(uid, times[0]), *times)
            holdings = [
                Holding(
                    uid,
                    changed[uid],
                    images.get(uid, 0),
                    results.get(uid, 0),
                    reasons.images(uid),
                    reasons.results(uid),
                )
                for uid in changed
            ]
        return sorted(holdings, key=lambda holding: (holding.changed_at, holding.study_instance_uid))

    def purge_images(self, study_instance_uid: str, terms: Terms, why: str, remove: Remove) -> int:
        """Remove a study's images, unless something needs them by now; how many were removed."""
        removed = 0
        while True:
            with self._database.write() as session:
                self._lock(session, study_instance_uid)
                rows: Sequence[Instance] = ()
                if not _Reasons(session, terms, study_instance_uid).images(study_instance_uid):
                    rows = session.scalars(
                        select(Instance)
                        .where(Instance.study_instance_uid == study_instance_uid, Instance.purged_at.is_(None))
                        .limit(_BATCH)
                    ).all()
                if not rows:
                    if removed:
                        self._note(
                            session,
                            study_instance_uid,
                            PURGE,
                            f"{removed} image{'s' * (removed != 1)} removed: {why}",
                        )
                    return removed
                remove([row.path for row in rows])
                for row in rows:
                    row.purged_at = self._clock()
                removed += len(rows)

    def purge_results(
        self, study_instance_uid: str, terms: Terms, why: str, remove: Remove, remove_readings: Remove
    ) -> int:
        """Remove a study's results and readings, unless something needs them by now; how many results were removed.

        Parameters
        ----------
        study_instance_uid : str
        terms : Terms
        why : str
        remove : callable
            For files.
        remove_readings : callable
            For readings, by run id.
        """
        with self._database.write() as session:
            self._lock(session, study_instance_uid)
            if _Reasons(session, terms, study_instance_uid).results(study_instance_uid):
                return 0
            runs = session.scalars(select(Run).where(Run.study_instance_uid == study_instance_uid)).all()
            rows = session.scalars(
                select(Result).where(Result.run_id.in_([run.id for run in runs]), Result.purged_at.is_(None))
            ).all()
            if rows:
                remove([row.path for row in rows])
                remove_readings([run.id for run in runs])
                for row in rows:
                    row.purged_at = self._clock()
                for run in runs:
                    run.reading_digest = None  # what is tried again is read anew
                self._note(
                    session, study_instance_uid, PURGE, f"{len(rows)} result{'s' * (len(rows) != 1)} removed: {why}"
                )
            return len(rows)

    def _lock(self, session: Session, study_instance_uid: str) -> None:
        session.execute(select(Run.id).where(Run.study_instance_uid == study_instance_uid).with_for_update()).all()


def _counted(rows: Iterable[Any]) -> dict[str, int]:
    return {uid: count for uid, count in rows}  # noqa: C416 - rows are not pairs by their type


class _Reasons:
    """Why studies, or one of them, must be kept."""

    def __init__(self, session: Session, terms: Terms, only: str | None = None) -> None:
        here: ColumnElement[bool] = Run.study_instance_uid == only if only is not None else true()
        later = aliased(Run)
        latest = (  # of those that are read
            select(func.max(later.number))
            .where(later.study_instance_uid == Run.study_instance_uid, later.state != State.IGNORED)
            .scalar_subquery()
        )
        self._needed: dict[str, str] = {}
        states = select(Run.study_instance_uid, Run.state).where(
            here, or_(Run.state.in_(ACTIVE), (Run.number == latest) & Run.state.not_in(_ENDED))
        )
        for uid, state in session.execute(states):
            self._needed[uid] = "its results have not arrived" if state is State.FAILED else f"it is {state}"
        held = select(Run.study_instance_uid).join(Study).where(here, Study.held_at.is_not(None))
        self._needed |= dict.fromkeys(session.scalars(held), "it is held by hand")
        uncommitted = (
            select(Run.study_instance_uid, Delivery.destination)
            .join(Delivery, Delivery.run_id == Run.id)
            .where(
                Delivery.run_id.in_(session.scalars(select(Run.id).where(here)).all()) if only is not None else true(),
                Delivery.destination.in_(terms.committing),
                Delivery.state == DeliveryState.DELIVERED,
                Delivery.committed_at.is_(None),
            )
        )
        for uid, destination in session.execute(uncommitted):
            self._needed.setdefault(uid, f"{destination} has not committed to its results")
        self._told: set[str] = set()
        if terms.keep_committed:
            told = select(Instance.study_instance_uid).where(Instance.committed_at.is_not(None)).distinct()
            if only is not None:
                told = told.where(Instance.study_instance_uid == only)
            self._told = set(session.scalars(told))
        nowhere = (
            select(Run.study_instance_uid)
            .join(Result, Result.run_id == Run.id)
            .where(
                here,
                Result.purged_at.is_(None),
                ~select(Delivery.id)
                .where(Delivery.result_id == Result.id, Delivery.state == DeliveryState.DELIVERED)
                .exists(),
            )
        )
        self._nowhere = set(session.scalars(nowhere))

    def images(self, uid: str) -> str:
        """Why the images must be kept, empty if they need not be."""
        return self._needed.get(uid) or ("their sender was told that they are kept" if uid in self._told else "")

    def results(self, uid: str) -> str:
        """Why the results must be kept, empty if they need not be."""
        return self._needed.get(uid) or ("nobody else has them" if uid in self._nowhere else "")
