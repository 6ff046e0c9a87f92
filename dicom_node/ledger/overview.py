"""Overview: how many studies stand where, and those that a person looks for, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, exists, func, select

from dicom_node.ledger.models import Instance, Run, Study
from dicom_node.ledger.part import Part
from dicom_node.ledger.states import State
from dicom_node.routing.decision import Priority


class Standing(NamedTuple):
    """How many studies are in a state, and since when the oldest of them is."""

    studies: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class Filter:
    """Which studies are looked for; what is empty does not matter.

    Parameters
    ----------
    state : State, optional
    route : str
    priority : Priority, optional
    modality : str
        Of any of its objects whose header has been read.
    uid : str
        A part of the Study Instance UID; all of it where the ledger is encrypted.
    at_least : timedelta, optional
        For how long it has been in its state.
    """

    state: State | None = None
    route: str = ""
    priority: Priority | None = None
    modality: str = ""
    uid: str = ""
    at_least: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A study with its latest run; `first` is the first of its objects that is still there, relative to the data
    folder, and its transfer syntax."""

    study_instance_uid: str
    state: State
    reason: str
    route: str
    priority: Priority
    instances: int
    findings: int | None
    changed_at: datetime
    created_at: datetime
    held: bool
    first: tuple[str, str] | None


class Overview(Part):
    """What the worklist page shows."""

    def standings(self) -> dict[State, Standing]:
        """The states that studies are in, by the latest run of each."""
        query = select(Run.state, func.count(), func.min(Run.changed_at)).where(Run.latest).group_by(Run.state)
        with self._database.read() as session:
            return {state: Standing(count, oldest) for state, count, oldest in session.execute(query)}

    def routes(self) -> list[str]:
        """The routes that studies have gone, by name."""
        routes: list[str] = []
        last = ""
        with self._database.read() as session:
            # One by one, each from the index: to sort out the rows of years takes longer.
            while (last := session.scalar(select(func.min(Run.route)).where(Run.route > last))) is not None:
                routes.append(last)
        return routes

    def count(self, wanted: Filter) -> int:
        """How many studies there are."""
        query = select(func.count()).select_from(Run).where(*self._conditions(wanted))
        with self._database.read() as session:
            return session.scalar(query) or 0

    def uids(self, wanted: Filter, limit: int) -> list[str]:
        """The studies' UIDs, the newest first."""
        query = select(Run.study_instance_uid).where(*self._conditions(wanted))
        query = query.order_by(Run.created_at.desc(), Run.id.desc()).limit(limit)
        with self._database.read() as session:
            return list(session.scalars(query))

    def rows(self, wanted: Filter, *, limit: int, offset: int = 0) -> list[Row]:
        """The studies, the newest first."""
        query = select(Run, Study.held_at).join(Study, Study.study_instance_uid == Run.study_instance_uid)
        query = query.where(*self._conditions(wanted)).order_by(Run.created_at.desc(), Run.id.desc())
        with self._database.read() as session:
            found = session.execute(query.limit(limit).offset(offset)).all()
            uids = [run.study_instance_uid for run, _ in found]
            here = Instance.study_instance_uid.in_(uids), Instance.run_id.is_not(None)
            by_study = Instance.study_instance_uid
            counts = {
                row[0]: row[1]
                for row in session.execute(select(by_study, func.count()).where(*here).group_by(by_study))
            }
            firsts = session.scalars(
                select(func.min(Instance.id))
                .where(*here, Instance.purged_at.is_(None))
                .group_by(Instance.study_instance_uid)
            ).all()
            kept = session.scalars(select(Instance).where(Instance.id.in_(firsts))).all()
        first = {item.study_instance_uid: (item.path, item.transfer_syntax_uid) for item in kept}
        return [
            Row(
                study_instance_uid=run.study_instance_uid,
                state=run.state,
                reason=run.reason,
                route=run.route or "",
                priority=list(Priority)[run.priority],
                instances=counts.get(run.study_instance_uid, 0),
                findings=run.findings,
                changed_at=run.changed_at,
                created_at=run.created_at,
                held=held_at is not None,
                first=first.get(run.study_instance_uid),
            )
            for run, held_at in found
        ]

    def _conditions(self, wanted: Filter) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = [Run.latest.expression]
        if wanted.state is not None:
            conditions.append(Run.state == wanted.state)
        if wanted.route:
            conditions.append(Run.route == wanted.route)
        if wanted.priority is not None:
            conditions.append(Run.priority == wanted.priority.rank)
        if wanted.uid:
            uid = Run.study_instance_uid
            whole = self._database.encrypted  # a part of one cannot be told in cipher text
            conditions.append(uid == wanted.uid if whole else uid.contains(wanted.uid, autoescape=True))
        if wanted.modality:
            # As `Header.to_json` writes it.
            has = Instance.header.contains(f'"modality":"{wanted.modality}"', autoescape=True)
            conditions.append(exists().where(Instance.study_instance_uid == Run.study_instance_uid, has))
        if wanted.at_least is not None:
            conditions.append(Run.changed_at <= self._clock() - wanted.at_least)
        return conditions
