"""Storage commitment (PS3.4 J): what senders are told the node keeps, and what destinations say they keep."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from dicom_node.ledger.models import (
    Commitment,
    CommitmentReport,
    CommitmentState,
    Delivery,
    DeliveryState,
    Instance,
    Result,
    Run,
)
from dicom_node.ledger.part import Part, stored_result
from dicom_node.ledger.records import CommitmentRequest, KeptInstance, OwedReport
from dicom_node.ledger.states import State

REFUSALS: Final = 3
"""After so many reports that say that a destination has not kept a result, sending it again is given up."""
_BATCH: Final = 500


class Commitments(Part):
    """Storage commitment, in both roles."""

    # The node as SCP: senders ask.

    def owe(
        self,
        transaction_uid: str,
        instances: Sequence[tuple[str, str]],
        calling_aet: str,
        called_aet: str,
        next_attempt_at: datetime,
    ) -> bool:
        """Enter a sender's request for objects (SOP class and instance UID); False if its transaction is known."""
        with self._database.write() as session:
            if session.get(CommitmentReport, transaction_uid) is not None:
                return False
            session.add(
                CommitmentReport(
                    transaction_uid=transaction_uid,
                    calling_aet=calling_aet,
                    called_aet=called_aet,
                    instances=json.dumps(instances),
                    state=CommitmentState.OPEN,
                    created_at=self._clock(),
                    next_attempt_at=next_attempt_at,
                )
            )
            return True

    def reports_due(self) -> list[str]:
        """Transactions whose report is due, the oldest first."""
        with self._database.read() as session:
            return list(
                session.scalars(
                    select(CommitmentReport.transaction_uid)
                    .where(
                        CommitmentReport.state == CommitmentState.OPEN,
                        CommitmentReport.next_attempt_at <= self._clock(),
                    )
                    .order_by(CommitmentReport.created_at)
                )
            )

    def claim_report(self, transaction_uid: str, seconds: float, *, early: bool = False) -> OwedReport | None:
        """Start to report: nobody else does for so long; None if there is nothing (more) to report now.

        Parameters
        ----------
        transaction_uid : str
        seconds : float
        early : bool
            Whether to report before it is due.
        """
        with self._database.write() as session:
            row = session.get(CommitmentReport, transaction_uid, with_for_update=True)
            now = self._clock()
            if row is None or row.state is not CommitmentState.OPEN or (row.next_attempt_at > now and not early):
                return None
            row.next_attempt_at = now + timedelta(seconds=seconds)
            instances = tuple((sop_class, sop_instance) for sop_class, sop_instance in json.loads(row.instances))
            return OwedReport(
                row.transaction_uid, row.calling_aet, row.called_aet, instances, row.attempts, row.created_at
            )

    def kept(self, sop_instance_uids: Collection[str]) -> dict[str, KeptInstance]:
        """What the node has of these objects, results of its own included; `path` is relative to the data folder."""
        uids, found = list(sop_instance_uids), dict[str, KeptInstance]()
        with self._database.read() as session:
            for start in range(0, len(uids), _BATCH):
                some = uids[start : start + _BATCH]
                for table in (Result, Instance):
                    rows = session.execute(
                        select(table.sop_instance_uid, table.sop_class_uid, table.path)
                        .where(table.sop_instance_uid.in_(some), table.purged_at.is_(None))
                        .order_by(table.id.desc())  # of several with one UID the first that arrived counts
                    )
                    found |= {row[0]: KeptInstance(row[1], row[2]) for row in rows}
        return found

    def promise(self, sop_instance_uids: Collection[str]) -> set[str]:
        """Have retention keep these objects from now on, if it is so set; those that it has not taken by now."""
        uids, here = list(sop_instance_uids), set[str]()
        with self._database.write() as session:
            for start in range(0, len(uids), _BATCH):
                some = uids[start : start + _BATCH]
                received = Instance.sop_instance_uid.in_(some)
                studies = session.scalars(select(Instance.study_instance_uid).where(received).distinct())
                of_these = select(Run.id).where(Run.study_instance_uid.in_(studies.all())).order_by(Run.id)
                session.execute(of_these.with_for_update()).all()  # as retention does
                there = received, Instance.purged_at.is_(None)
                session.execute(update(Instance).where(*there).values(committed_at=self._clock()))
                here.update(session.scalars(select(Instance.sop_instance_uid).where(*there)))
                own = Result.sop_instance_uid.in_(some), Result.purged_at.is_(None)
                here.update(session.scalars(select(Result.sop_instance_uid).where(*own)))
        return here

    def told(self, transaction_uid: str, committed: Collection[str], calling_aet: str) -> None:
        """The sender has heard the answer, which says that the node keeps these objects."""
        with self._database.write() as session:
            report = session.get_one(CommitmentReport, transaction_uid, with_for_update=True)
            report.state, report.reason, report.attempts = CommitmentState.REPORTED, "", report.attempts + 1
            uids, counts = list(committed), dict[str, int]()
            for start in range(0, len(uids), _BATCH):
                some = Instance.sop_instance_uid.in_(uids[start : start + _BATCH])
                for study, count in session.execute(
                    select(Instance.study_instance_uid, func.count()).where(some).group_by(Instance.study_instance_uid)
                ):
                    counts[study] = counts.get(study, 0) + count
            for study, count in counts.items():
                self._note(
                    session, study, "commitment", f"{count} object{'s' * (count != 1)} committed to {calling_aet}"
                )

    def not_told(self, transaction_uid: str, reason: str, next_attempt_at: datetime | None) -> None:
        """The sender has not heard the answer; it is told again at that time, or given up without one."""
        with self._database.write() as session:
            report = session.get_one(CommitmentReport, transaction_uid, with_for_update=True)
            report.attempts += 1
            report.reason = reason
            if next_attempt_at is None:
                report.state = CommitmentState.FAILED
            else:
                report.next_attempt_at = next_attempt_at

    # The node as SCU: destinations are asked.

    def to_request(self, destinations: Collection[str]) -> list[tuple[str, str]]:
        """Runs whose results have arrived at one of these destinations, which has to be asked to commit to them now.

        Returns
        -------
        list of (str, str)
            Run id and destination.
        """
        if not destinations:
            return []
        with self._database.read() as session:
            return self._to_request(session, destinations)

    def _to_request(self, session: Session, destinations: Collection[str]) -> list[tuple[str, str]]:
        sibling, asked = aliased(Delivery), aliased(Commitment)
        waiting = (
            select(sibling.id)
            .where(
                sibling.run_id == Delivery.run_id,
                sibling.destination == Delivery.destination,
                sibling.state == DeliveryState.PENDING,
            )
            .exists()
        )
        settled = (
            select(asked.transaction_uid)
            .where(
                asked.run_id == Delivery.run_id,
                asked.destination == Delivery.destination,
                # A request covers what had arrived by then; what came later, or once more, is asked for anew.
                asked.requested_at >= Delivery.delivered_at,
                (asked.state == CommitmentState.FAILED) | (asked.next_attempt_at > self._clock()),
            )
            .exists()
        )
        rows = session.execute(
            select(Delivery.run_id, Delivery.destination)
            .where(
                Delivery.destination.in_(list(destinations)),
                Delivery.state == DeliveryState.DELIVERED,
                Delivery.committed_at.is_(None),
                ~waiting,
                ~settled,
            )
            .group_by(Delivery.run_id, Delivery.destination)
            .order_by(func.min(Delivery.id))
        )
        return [(run_id, destination) for run_id, destination in rows]

    def request(
        self, run_id: str, destination: str, transaction_uid: str, next_attempt_at: datetime
    ) -> CommitmentRequest | None:
        """Enter a request before it is made, so that its report is known however soon it comes.

        None if another process was quicker, or nothing is left to ask for.
        """
        with self._database.write() as session:
            self._lock_run(session, run_id)
            if (run_id, destination) not in self._to_request(session, [destination]):
                return None
            rows = session.execute(
                select(Delivery, Result)
                .join(Result, Result.id == Delivery.result_id)
                .where(
                    Delivery.run_id == run_id,
                    Delivery.destination == destination,
                    Delivery.state == DeliveryState.DELIVERED,
                    Delivery.committed_at.is_(None),
                )
                .order_by(Result.id)
            ).all()
            now = self._clock()
            delivered = [delivery.delivered_at for delivery, _ in rows if delivery.delivered_at]
            since = min(delivered, default=now)
            before = session.scalar(
                select(func.count()).where(
                    Commitment.run_id == run_id,
                    Commitment.destination == destination,
                    Commitment.requested_at >= since,
                )
            )
            number = (before or 0) + 1
            session.add(
                Commitment(
                    transaction_uid=transaction_uid,
                    run_id=run_id,
                    destination=destination,
                    state=CommitmentState.OPEN,
                    number=number,
                    requested_at=max([now, *delivered]),  # a clock that was set back must not ask for them again
                    next_attempt_at=next_attempt_at,
                )
            )
            results = tuple(stored_result(result) for _, result in rows)
            return CommitmentRequest(transaction_uid, results, number, since)

    def not_requested(self, transaction_uid: str, reason: str, next_attempt_at: datetime | None) -> None:
        """The destination could not be asked; it is asked again at that time, or given up without one."""
        with self._database.write() as session:
            commitment = session.get_one(Commitment, transaction_uid, with_for_update=True)
            run = self._lock_run(session, commitment.run_id)
            if commitment.state is not CommitmentState.OPEN:
                return  # it was asked, and has reported
            told = session.scalar(
                select(Commitment.reason).where(
                    Commitment.run_id == run.id,
                    Commitment.destination == commitment.destination,
                    Commitment.number == commitment.number - 1,
                )
            )
            commitment.reason = reason
            if next_attempt_at is None:
                commitment.state = CommitmentState.FAILED
            else:
                commitment.next_attempt_at = next_attempt_at
            if reason != told or next_attempt_at is None:
                end = " (given up)" if next_attempt_at is None else ""
                why = f"{commitment.destination}: not asked to commit: {reason}{end}"
                self._note(session, run.study_instance_uid, "commitment", why, run.id)

    def report(
        self, transaction_uid: str, committed: Collection[str], failed: Mapping[str, str], destinations: Collection[str]
    ) -> State | None:
        """Enter what a destination reports.

        What it has not kept is sent again; the run is COMMITTED once every destination that is asked has everything.

        Parameters
        ----------
        transaction_uid : str
        committed : collection of str
            SOP instance UIDs of what it keeps.
        failed : mapping of str to str
            Why it does not keep others, by SOP instance UID.
        destinations : collection of str
            Names of all destinations that are asked to commit.

        Returns
        -------
        State or None
            The run's; None if there was no such request.
        """
        with self._database.write() as session:
            commitment = session.get(Commitment, transaction_uid, with_for_update=True)
            if commitment is None:
                return None
            run = self._lock_run(session, commitment.run_id)
            deliveries = session.execute(
                select(Delivery, Result.sop_instance_uid)
                .join(Result, Result.id == Delivery.result_id)
                .where(
                    Delivery.run_id == run.id,
                    Delivery.destination == commitment.destination,
                    Delivery.state == DeliveryState.DELIVERED,
                    Delivery.committed_at.is_(None),
                )
            ).all()
            now = self._clock()
            first = commitment.state is not CommitmentState.REPORTED
            commitment.state = CommitmentState.REPORTED
            commitment.reason = next(iter(failed.values()), "")
            refused = []
            for delivery, uid in deliveries:
                if uid in committed and uid not in failed:
                    delivery.committed_at = now
                elif uid in failed and first:
                    refused.append(delivery)
            if refused and run.state in (State.DELIVERING, State.DELIVERED, State.FAILED):
                self._send_again(session, run, commitment, refused)
            session.flush()
            self._settle(session, run, destinations)
            return run.state

    def settle(self, destinations: Collection[str]) -> None:
        """Move runs to COMMITTED that were reported on before the last of their other destinations had its results.

        Parameters
        ----------
        destinations : collection of str
            Names of all destinations that are asked to commit.
        """
        if not destinations:
            return
        reported = (
            select(Commitment.transaction_uid)
            .where(Commitment.run_id == Run.id, Commitment.state == CommitmentState.REPORTED)
            .exists()
        )
        owed = (
            select(Delivery.id)
            .where(
                Delivery.run_id == Run.id,
                Delivery.destination.in_(list(destinations)),
                Delivery.state == DeliveryState.DELIVERED,
                Delivery.committed_at.is_(None),
            )
            .exists()
        )
        with self._database.read() as session:
            runs = session.scalars(select(Run.id).where(Run.state == State.DELIVERED, reported, ~owed)).all()
        for run_id in runs:
            with self._database.write() as session:
                self._settle(session, self._lock_run(session, run_id), destinations)

    def _send_again(self, session: Session, run: Run, commitment: Commitment, refused: Sequence[Delivery]) -> None:
        reports = session.scalar(
            select(func.count()).where(
                Commitment.run_id == run.id,
                Commitment.destination == commitment.destination,
                Commitment.state == CommitmentState.REPORTED,
                Commitment.reason != "",
            )
        )
        what = f"{len(refused)} result{'s' * (len(refused) != 1)}"
        why = f"{commitment.destination} has not kept {what}: {commitment.reason}"
        given_up = (reports or 0) >= REFUSALS
        now = self._clock()
        for delivery in refused:
            delivery.reason = f"not committed: {commitment.reason}"
            delivery.delivered_at = None
            delivery.state = DeliveryState.FAILED if given_up else DeliveryState.PENDING
            delivery.attempts, delivery.created_at = 0, now
            delivery.next_attempt_at, delivery.dispatched_at = now, None
        # Asked again as soon as they have arrived once more.
        session.execute(
            update(Commitment)
            .where(Commitment.run_id == run.id, Commitment.destination == commitment.destination)
            .values(next_attempt_at=now)
        )
        if given_up:
            commitment.state = CommitmentState.FAILED
            if run.state is State.DELIVERED:
                self._move(session, run, State.FAILED, why, "commitment")
            else:
                self._note(session, run.study_instance_uid, "commitment", why, run.id)
        elif run.state in (State.DELIVERED, State.FAILED):
            self._move(session, run, State.DELIVERING, f"{why}; sent again", "commitment")

    def _settle(self, session: Session, run: Run, destinations: Collection[str]) -> None:
        if run.state is not State.DELIVERED:
            return
        rows = session.scalars(
            select(Delivery).where(
                Delivery.run_id == run.id,
                Delivery.destination.in_(list(destinations)),
                Delivery.state == DeliveryState.DELIVERED,
            )
        ).all()
        if rows and all(row.committed_at is not None for row in rows):
            names = ", ".join(dict.fromkeys(row.destination for row in rows))
            self._move(session, run, State.COMMITTED, f"kept by {names}")
