"""Intake: instances as they arrive, and the runs that they open."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.ledger.database import DatabaseError
from dicom_node.ledger.models import Event, Instance, Result, Run, Study
from dicom_node.ledger.part import Part
from dicom_node.ledger.records import OpenRun, ReceivedInstance
from dicom_node.ledger.states import State

T = TypeVar("T")


class Intake(Part):
    """What arrives."""

    def record(self, instance: ReceivedInstance, *, adopted: bool = False) -> str:
        """Enter a new instance; it joins the run that receives its study, or opens one.

        A run that is opened after another one of the same study supersedes it.

        Parameters
        ----------
        instance : ReceivedInstance
        adopted : bool
            Whether it was found in the spool after a crash, without an entry.

        Returns
        -------
        str
            Id of the run.
        """
        return self._again_if_overtaken(lambda session: self._record(session, instance, adopted))

    def _record(self, session: Session, instance: ReceivedInstance, adopted: bool) -> str:
        known = session.scalar(select(Instance).where(Instance.path == instance.path))
        if known is not None and known.run_id is not None:
            return known.run_id
        run = self._receiving_run(session, instance.study_instance_uid)
        session.add(self._row(instance, run.id))
        if adopted:
            reason = f"{instance.sop_instance_uid} lay in the spool without an entry"
            self._note(session, instance.study_instance_uid, "adopted", reason, run.id)
        return run.id

    def record_conflict(self, instance: ReceivedInstance) -> None:
        """Enter an object whose SOP instance UID another one has, with other content: kept apart, read by no run."""

        def work(session: Session) -> None:
            self._study(session, instance.study_instance_uid)
            self._touch(session, [instance.study_instance_uid])
            if session.scalar(select(Instance.id).where(Instance.path == instance.path)) is None:
                session.add(self._row(instance, None))
            reason = (
                f"{instance.sop_instance_uid} arrived again with other content from {instance.calling_aet}; "
                "the first one counts, the other is kept beside it"
            )
            self._note(session, instance.study_instance_uid, "conflict", reason)

        self._again_if_overtaken(work)

    def touch(self, study_instance_uids: Collection[str]) -> None:
        """Reset the quiet time of studies whose images are arriving."""
        if study_instance_uids:
            with self._database.write() as session:
                self._touch(session, study_instance_uids)

    def _touch(self, session: Session, study_instance_uids: Collection[str]) -> None:
        session.execute(
            update(Run)
            .where(Run.state == State.RECEIVING, Run.study_instance_uid.in_(study_instance_uids))
            .values(last_image_at=self._clock())
        )

    def is_own_result(self, sop_instance_uid: str) -> bool:
        """Whether this node made the object."""
        with self._database.read() as session:
            return session.scalar(select(Result.id).where(Result.sop_instance_uid == sop_instance_uid)) is not None

    def known_paths(self, paths: Iterable[str]) -> set[str]:
        """Those of the paths that have an entry."""
        with self._database.read() as session:
            return set(session.scalars(select(Instance.path).where(Instance.path.in_(list(paths)))))

    def receiving(self) -> list[OpenRun]:
        """Every run that receives."""
        with self._database.read() as session:
            runs = session.scalars(select(Run).where(Run.state == State.RECEIVING)).all()
            pairs = session.execute(
                select(Instance.run_id, Instance.calling_aet)
                .where(Instance.run_id.in_([run.id for run in runs]))
                .distinct()
            ).all()
            return [
                OpenRun(
                    run.id,
                    run.study_instance_uid,
                    run.last_image_at,
                    tuple(sorted(calling_aet for run_id, calling_aet in pairs if run_id == run.id)),
                )
                for run in runs
            ]

    def complete(self, run_id: str, last_image_at: datetime, reason: str) -> bool:
        """Close a run, unless an image arrived after `last_image_at`; whether it was closed."""
        with self._database.write() as session:
            run = self._lock_run(session, run_id)
            if run.state is not State.RECEIVING or run.last_image_at != last_image_at:
                return False
            self._move(session, run, State.COMPLETE, reason)
            return True

    def _again_if_overtaken(self, work: Callable[[Session], T]) -> T:
        """Run a transaction; once more where another process entered the same study or run at the same moment."""
        try:
            with self._database.write() as session:
                return work(session)
        except DatabaseError as error:
            if not error.overtaken:
                raise
        with self._database.write() as session:
            return work(session)

    def _study(self, session: Session, study_instance_uid: str) -> None:
        if session.get(Study, study_instance_uid) is None:
            session.add(Study(study_instance_uid=study_instance_uid, created_at=self._clock()))
            session.flush()

    def _receiving_run(self, session: Session, study_instance_uid: str) -> Run:
        self._study(session, study_instance_uid)
        now = self._clock()
        latest = session.scalar(
            select(Run)
            .where(Run.study_instance_uid == study_instance_uid)
            .order_by(Run.number.desc())
            .limit(1)
            .with_for_update()
        )
        if latest is not None and latest.state is State.RECEIVING:
            latest.last_image_at = now
            return latest
        run = Run(
            id=uuid.uuid4().hex,
            study_instance_uid=study_instance_uid,
            number=latest.number + 1 if latest else 1,
            supersedes=latest.id if latest else None,
            state=State.RECEIVING,
            reason=f"an image arrived after run {latest.number} was complete" if latest else "",
            created_at=now,
            changed_at=now,
            last_image_at=now,
        )
        session.add(run)
        session.flush()
        session.add(
            Event(
                study_instance_uid=study_instance_uid,
                run_id=run.id,
                at=now,
                kind="transition",
                to_state=State.RECEIVING,
                reason=run.reason,
            )
        )
        return run

    def _row(self, instance: ReceivedInstance, run_id: str | None) -> Instance:
        return Instance(
            study_instance_uid=instance.study_instance_uid,
            run_id=run_id,
            series_instance_uid=instance.series_instance_uid,
            sop_instance_uid=instance.sop_instance_uid,
            sop_class_uid=instance.sop_class_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            calling_aet=instance.calling_aet,
            called_aet=instance.called_aet,
            path=instance.path,
            received_at=self._clock(),
        )
