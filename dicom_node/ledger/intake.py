"""Intake: instances as they arrive, and the runs that they open."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.ledger.models import Event, Instance, Result, Run, Sending, Study
from dicom_node.ledger.part import Part
from dicom_node.ledger.records import OpenRun, ReceivedInstance
from dicom_node.ledger.states import GATHERING, State
from engine.errors import NodeError


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
            if known.purged_at is not None:  # a repeat of what was read: kept again, and not read again
                self._kept_again(known, instance)
                self._note(session, known.study_instance_uid, "repeat", f"{known.sop_instance_uid} arrived again")
            return known.run_id
        run = self._receiving_run(session, instance.study_instance_uid)
        session.add(self._row(instance, run.id))
        if adopted:
            reason = f"{instance.sop_instance_uid} lay in the spool without an entry"
            self._note(session, instance.study_instance_uid, "adopted", reason, run.id)
        return run.id

    def _kept_again(self, known: Instance, instance: ReceivedInstance) -> None:
        """What came again once its file was removed; it may be another version, as nothing is left to compare with."""
        known.series_instance_uid, known.sop_class_uid = instance.series_instance_uid, instance.sop_class_uid
        known.transfer_syntax_uid, known.header = instance.transfer_syntax_uid, None
        known.purged_at, known.received_at = None, self._clock()

    def record_conflict(self, instance: ReceivedInstance) -> None:
        """Enter an object whose SOP instance UID another one has, with other content: kept apart, read by no run."""

        def work(session: Session) -> None:
            self._study(session, instance.study_instance_uid)
            self._begin_quiet_times(session, [instance.study_instance_uid])
            known = session.scalar(select(Instance).where(Instance.path == instance.path))
            if known is None:
                session.add(self._row(instance, None))
            elif known.purged_at is not None:
                self._kept_again(known, instance)
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
                self._begin_quiet_times(session, study_instance_uids)

    def is_own_result(self, *uids: str) -> bool:
        """Whether this node made an object or series with one of these UIDs."""
        of_these = Result.sop_instance_uid.in_(uids) | Result.series_instance_uid.in_(uids)
        with self._database.read() as session:
            return session.scalar(select(Result.id).where(of_these).limit(1)) is not None

    def known_paths(self, paths: Iterable[str]) -> set[str]:
        """Those of the paths that have an entry which does not say that they were purged."""
        with self._database.read() as session:
            known = select(Instance.path).where(Instance.path.in_(list(paths)), Instance.purged_at.is_(None))
            return set(session.scalars(known))

    def receiving(self, quiet_since: datetime | None = None) -> list[OpenRun]:
        """Every run that images still join, but for studies held by hand; only those quiet since a time, if given."""
        query = (
            select(Run.id, Run.study_instance_uid, Run.last_image_at)
            .join(Study, Study.study_instance_uid == Run.study_instance_uid)
            .where(Run.state.in_(GATHERING), Run.gathers, Study.held_at.is_(None))
        )
        if quiet_since is not None:
            query = query.where(Run.last_image_at <= quiet_since)
        with self._database.read() as session:
            return [OpenRun(*row) for row in session.execute(query).all()]

    def gathering(self, run_id: str) -> str | None:
        """The study of a run that images still join; None if they do not."""
        with self._database.read() as session:
            return session.scalar(select(Run.study_instance_uid).where(Run.id == run_id, Run.gathers))

    def senders(self, run_id: str) -> list[tuple[str, str]]:
        """Calling and called AE titles that a run's images came by."""
        with self._database.read() as session:
            pairs = select(Instance.calling_aet, Instance.called_aet).where(Instance.run_id == run_id).distinct()
            return [(calling, called) for calling, called in session.execute(pairs).all()]

    def complete(self, run_id: str, last_image_at: datetime, reason: str) -> bool:
        """End the gathering of a run, unless it is held or an image came after `last_image_at`; whether it is complete.

        One that was cancelled while it received stays so, and takes no more images.
        """
        with self._database.write() as session:
            run = self._lock_run(session, run_id)
            study = session.get_one(Study, run.study_instance_uid)
            if not run.gathers or run.last_image_at != last_image_at or study.held_at is not None:
                return False
            return self._close(session, run, reason)

    def close(self, study_instance_uid: str, reason: str) -> str | None:
        """End the receiving of a study whose last image is known to be there; the id of its run, None if none is open.

        A study held by hand stays open.
        """
        with self._database.write() as session:
            study = session.get(Study, study_instance_uid)
            query = select(Run).where(Run.study_instance_uid == study_instance_uid, Run.state == State.RECEIVING)
            run = session.scalar(query.with_for_update())
            if study is None or run is None or study.held_at is not None:
                return None
            self._close(session, run, reason)
            return run.id

    def push(self, study_instance_uid: str, reason: str = "pushed by hand") -> State:
        """Let a study that receives be complete now, and one that waits in the queue be read first; its state.

        Raises
        ------
        NodeError
            If it neither receives nor waits, or is held.
        """
        with self._database.write() as session:
            study, run = self._latest(session, study_instance_uid)
            if study.held_at is not None:
                raise NodeError("the study is held", advice=f"medrega-pacs release {study_instance_uid}")
            if run.state not in (State.RECEIVING, State.COMPLETE, State.QUEUED):
                raise NodeError(f"the study is {run.state}; one that receives or waits can be pushed")
            run.priority, run.next_attempt_at, run.dispatched_at = 0, None, None
            if run.state is State.RECEIVING:
                self._close(session, run, reason)
            else:
                self._note(session, study_instance_uid, "push", reason, run.id)
            return run.state

    def hold(self, study_instance_uid: str, reason: str = "") -> State:
        """Keep a study from being completed and read until it is released; the state in which that finds it.

        Images go on being taken in. What is being read or delivered already is not stopped.

        Raises
        ------
        NodeError
            If it is unknown, or held already.
        """
        with self._database.write() as session:
            study, run = self._latest(session, study_instance_uid)
            if study.held_at is not None:
                raise NodeError("the study is held already")
            study.held_at, run.dispatched_at = self._clock(), None
            self._note(session, study_instance_uid, "hold", reason or "by hand", run.id)
            return run.state

    def release(self, study_instance_uid: str) -> State:
        """Let a study go on that was held; its quiet time begins anew.

        Raises
        ------
        NodeError
            If it is unknown, or not held.
        """
        with self._database.write() as session:
            study, run = self._latest(session, study_instance_uid)
            if study.held_at is None:
                raise NodeError("the study is not held")
            study.held_at = None
            if run.state is State.QUEUED:
                run.dispatched_at = None
            elif run.gathers:
                run.last_image_at = max(run.last_image_at, self._clock())
            self._note(session, study_instance_uid, "release", "by hand", run.id)
            return run.state

    def begin(self) -> None:
        """Begin all quiet times anew: while nobody listened, no image could arrive."""
        with self._database.write() as session:
            gathering = select(Run.study_instance_uid).where(Run.state.in_(GATHERING), Run.gathers)
            self._begin_quiet_times(session, session.scalars(gathering).all(), anew=True)

    def _close(self, session: Session, run: Run, reason: str) -> bool:
        run.gathers = False
        ended = (Sending.study_instance_uid == run.study_instance_uid) & Sending.ended_at.is_not(None)
        session.execute(delete(Sending).where(ended))
        if run.state is not State.RECEIVING:
            return False
        self._move(session, run, State.COMPLETE, reason)
        return True

    def _latest(self, session: Session, study_instance_uid: str) -> tuple[Study, Run]:
        run = self._standing(session, study_instance_uid)
        return session.get_one(Study, study_instance_uid), run

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
        if latest is not None and latest.gathers:
            latest.last_image_at = max(latest.last_image_at, now)
            return latest
        self._supersede(session, study_instance_uid)
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
