"""Workitems: what this node has claimed of worklists, and where each stands."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.ledger.models import Delivery, Result, Run, Study, Workitem, WorkitemState
from dicom_node.ledger.part import Part, stored_result
from dicom_node.ledger.records import StoredResult
from dicom_node.ledger.states import State
from dicom_node.routing.decision import Decision, Priority
from engine.errors import NodeError

OPEN: Final = (WorkitemState.CLAIMING, WorkitemState.CLAIMED, WorkitemState.READING, WorkitemState.ENDING)
"""States that something still has to happen in."""


@dataclass(frozen=True, slots=True)
class WorkitemRecord:
    """A workitem as the ledger has it; see `dicom_node.ledger.models.Workitem`."""

    sop_instance_uid: str
    worklist: str
    transaction_uid: str
    state: WorkitemState
    outcome: str
    study_instance_uid: str | None
    run_id: str | None
    plan: str | None
    cancel_asked: bool
    progress: int
    attempts: int
    next_attempt_at: datetime | None
    reason: str
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class RunState:
    """The latest run of a workitem's study."""

    id: str
    state: State
    reason: str
    plan: str | None
    created_at: datetime


class Workitems(Part):
    """The workitems of all worklists."""

    def intend(self, sop_instance_uid: str, worklist: str, transaction_uid: str, priority: Priority) -> bool:
        """Keep the transaction UID that a workitem is about to be claimed by; False if it was known already."""
        with self._database.write() as session:
            if session.get(Workitem, sop_instance_uid) is not None:
                return False
            now = self._clock()
            session.add(
                Workitem(
                    sop_instance_uid=sop_instance_uid,
                    worklist=worklist,
                    transaction_uid=transaction_uid,
                    state=WorkitemState.CLAIMING,
                    priority=priority.rank,
                    created_at=now,
                    changed_at=now,
                )
            )
            return True

    def known(self, sop_instance_uids: Collection[str]) -> set[str]:
        """Those that this node has, or once had."""
        with self._database.read() as session:
            found = select(Workitem.sop_instance_uid).where(Workitem.sop_instance_uid.in_(sop_instance_uids))
            return set(session.scalars(found))

    def open(self, worklist: str) -> list[WorkitemRecord]:
        """Those of a worklist that something still has to happen with, the oldest first."""
        return self._select(Workitem.worklist == worklist, Workitem.state.in_(OPEN))

    def all(self) -> list[WorkitemRecord]:
        """Every one, the oldest first."""
        return self._select()

    def move(
        self,
        item: WorkitemRecord,
        state: WorkitemState,
        reason: str = "",
        *,
        outcome: str = "",
        study_instance_uid: str | None = None,
        plan: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Change a workitem's state, if it still is in the one that it had; the same transaction writes the event."""
        with self._database.write() as session:
            row = self._row(session, item)
            if row.state is not item.state:
                return
            row.state, row.reason, row.outcome = state, reason, outcome
            row.study_instance_uid = study_instance_uid or row.study_instance_uid
            row.plan = plan if plan is not None else row.plan
            row.run_id = run_id or row.run_id
            row.next_attempt_at, row.changed_at = None, self._clock()
            study = row.study_instance_uid
            if study is not None and session.get(Study, study) is not None:
                told = f"workitem {row.sop_instance_uid} is {state}" + (f": {reason}" if reason else "")
                self._note(session, study, "workitem", told, row.run_id)

    def put_off(self, item: WorkitemRecord, reason: str, until: datetime) -> None:
        """An attempt failed, and the next is due later."""
        self._set(item, attempts=item.attempts + 1, reason=reason, next_attempt_at=until)

    def told(self, item: WorkitemRecord, progress: int) -> None:
        """Remember what progress was told."""
        self._set(item, progress=progress)

    def follow(self, item: WorkitemRecord, run_id: str) -> None:
        """Remember which run answers a workitem."""
        self._set(item, run_id=run_id)

    def ask_cancel(self, sop_instance_uid: str) -> bool:
        """Someone asks that a workitem be canceled (PS3.4 CC.2.2); whether it is one of this node's."""
        with self._database.write() as session:
            row = session.get(Workitem, sop_instance_uid, with_for_update=True)
            if row is None or row.state not in OPEN:
                return False
            row.cancel_asked = True
            return True

    def run_of(self, study_instance_uid: str) -> RunState | None:
        """The latest run of a study."""
        with self._database.read() as session:
            run = session.scalar(
                select(Run).where(Run.study_instance_uid == study_instance_uid).order_by(Run.number.desc()).limit(1)
            )
            if run is None:
                return None
            return RunState(run.id, run.state, run.reason, run.plan, run.created_at)

    def outputs(self, run_id: str) -> list[tuple[StoredResult, tuple[str, ...]]]:
        """The results of a run, each with the destinations that have it."""
        with self._database.read() as session:
            rows = session.scalars(select(Result).where(Result.run_id == run_id).order_by(Result.id)).all()
            sent = session.execute(
                select(Delivery.result_id, Delivery.destination)
                .where(Delivery.run_id == run_id, Delivery.delivered_at.is_not(None))
                .order_by(Delivery.id)
            ).all()
            return [(stored_result(row), tuple(name for result, name in sent if result == row.id)) for row in rows]

    def _select(self, *conditions: Any) -> list[WorkitemRecord]:
        with self._database.read() as session:
            query = select(Workitem).where(*conditions).order_by(Workitem.created_at, Workitem.sop_instance_uid)
            names = WorkitemRecord.__slots__
            return [WorkitemRecord(**{name: getattr(row, name) for name in names}) for row in session.scalars(query)]

    def _set(self, item: WorkitemRecord, **values: Any) -> None:
        with self._database.write() as session:
            row = self._row(session, item)
            if row.state is item.state:
                for name, value in values.items():
                    setattr(row, name, value)

    def _row(self, session: Session, item: WorkitemRecord) -> Workitem:
        row = session.get(Workitem, item.sop_instance_uid, with_for_update=True)
        if row is None:
            raise NodeError(f"the ledger has no workitem {item.sop_instance_uid}")
        return row


def asked_for(session: Session, study_instance_uid: str, decision: Decision) -> Decision:
    """A decision with the plan and priority that a workitem asks for, where the study was fetched for one."""
    row = session.scalar(
        select(Workitem)
        .where(
            Workitem.study_instance_uid == study_instance_uid,
            Workitem.state.in_((WorkitemState.CLAIMED, WorkitemState.READING)),
        )
        .order_by(Workitem.created_at)
        .limit(1)
    )
    if row is None:
        return decision
    return replace(decision, plan=row.plan or decision.plan, priority=list(Priority)[row.priority])
