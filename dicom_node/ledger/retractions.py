"""Retractions: what a study's destinations have got, and the notes that withdraw it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.ledger.models import UNDELIVERED, Delivery, DeliveryState, Result, Run
from dicom_node.ledger.part import Part, stored_result
from dicom_node.ledger.records import StoredResult
from dicom_node.ledger.states import ACTIVE, State
from engine.errors import NodeError

KIND: Final = "retraction"


class Retractions(Part):
    """What is withdrawn."""

    def delivered(self, study_instance_uid: str) -> tuple[str, dict[str, tuple[StoredResult, ...]]]:
        """Tell what can be withdrawn.

        Returns
        -------
        run_id : str
            The latest run of which something was delivered.
        results : dict of str to tuple of StoredResult
            By destination: what it has got, and was not withdrawn since.

        Raises
        ------
        NodeError
            If there is nothing, or the run's results are still on their way.
        """
        with self._database.read() as session:
            run = self._run(session, study_instance_uid)
            rows = session.execute(
                select(Delivery, Result)
                .join(Result, Result.id == Delivery.result_id)
                .join(Run, Run.id == Delivery.run_id)
                .where(Run.study_instance_uid == study_instance_uid)
                .order_by(Delivery.id)
            ).all()
        found: dict[str, list[StoredResult]] = {}
        for delivery, result in rows:
            if result.kind == KIND:
                found.pop(delivery.destination, None)
            elif delivery.state is DeliveryState.DELIVERED:
                found.setdefault(delivery.destination, []).append(stored_result(result))
        if not found:
            raise NodeError("the study's results have been withdrawn already")
        return run.id, {destination: tuple(results) for destination, results in found.items()}

    def enter(self, run_id: str, notes: Mapping[str, StoredResult], reason: str) -> None:
        """Put notes on their way; what of the study had not arrived yet is not sent any more.

        Parameters
        ----------
        run_id : str
            As `delivered` gave it.
        notes : mapping of str to StoredResult
            By destination; destinations may share one.
        reason : str
        """
        with self._database.write() as session:
            run = self._lock_run(session, run_id)
            self._check_ended(run)
            now = self._clock()
            session.execute(
                update(Delivery)
                .where(Delivery.run_id == run_id, Delivery.state.in_(UNDELIVERED))
                .values(state=DeliveryState.SUPERSEDED)
            )
            rows: dict[str, Result] = {}
            for destination, note in notes.items():
                row = rows.get(note.sop_instance_uid)
                if row is None:
                    row = rows[note.sop_instance_uid] = Result(
                        run_id=run_id,
                        sop_instance_uid=note.sop_instance_uid,
                        sop_class_uid=note.sop_class_uid,
                        series_instance_uid=note.series_instance_uid,
                        kind=note.kind,
                        sha256=note.sha256,
                        path=note.path,
                        created_at=now,
                    )
                    session.add(row)
                    session.flush()
                session.add(
                    Delivery(
                        run_id=run_id,
                        result_id=row.id,
                        destination=destination,
                        state=DeliveryState.PENDING,
                        created_at=now,
                        next_attempt_at=now,
                    )
                )
            self._move(session, run, State.DELIVERING, f"results withdrawn: {reason}", "retract")

    def _run(self, session: Session, study_instance_uid: str) -> Run:
        here = Delivery.run_id == Run.id, Delivery.state == DeliveryState.DELIVERED
        run = session.scalar(
            select(Run)
            .where(Run.study_instance_uid == study_instance_uid, select(Delivery.id).where(*here).exists())
            .order_by(Run.number.desc())
            .limit(1)
        )
        if run is None:
            raise NodeError(
                f"no result of the study {study_instance_uid} was delivered",
                advice="there is nothing to withdraw; `medrega-pacs cancel` stops what is under way",
            )
        self._check_ended(run)
        return run

    def _check_ended(self, run: Run) -> None:
        if run.state in ACTIVE:
            raise NodeError(
                f"the study is {run.state}: results are still on their way",
                advice="wait for it, or `medrega-pacs cancel` it first",
            )
