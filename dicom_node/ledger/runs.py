"""Runs: from the queue through reading and writing to the results that are to be delivered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session, aliased

from dicom_node.ledger.models import Delivery, DeliveryState, Instance, Lease, Result, Run, Study
from dicom_node.ledger.part import LeaseLostError, Part, run_key, stored_result
from dicom_node.ledger.records import Claim, CompleteRun, QueuedRun, StoredInstance, StoredResult
from dicom_node.ledger.states import ACTIVE, LEASED, State
from dicom_node.ledger.switches import Work, is_paused, switched
from dicom_node.ledger.tallies import Counted, count
from dicom_node.ledger.workitems import asked_for
from dicom_node.routing.decision import Action, Decision

_NO_IMAGE: Final = "no image came after"
"""How the reason begins of a run that is IGNORED because only reports and the like were added to its study."""
_NO_DESTINATION: Final = "no destination is set; the results stay in the data folder"
_SHADOW: Final = "shadow: nothing is sent; the results stay in the data folder"

_WITHOUT_IMAGE: Final = tuple(
    f"1.2.840.10008.5.1.4.1.1.{branch}"
    for branch in (
        "9.",  # waveforms
        "11.",  # presentation states
        "66",  # raw data, registrations, fiducials, segmentations
        "67",  # real world value mappings
        "68.",  # surface scans
        "88.",  # structured reports, key object selections
        "104.",  # encapsulated documents
    )
)
"""SOP classes that add to a study without adding an image."""


class Runs(Part):
    """What happens to a run between completion and delivery."""

    def to_route(self, limit: int | None = None) -> list[CompleteRun]:
        """Complete runs, which wait for a decision, the oldest first."""
        with self._database.read() as session:
            runs = session.scalars(
                select(Run).where(Run.state == State.COMPLETE).order_by(Run.changed_at).limit(limit)
            ).all()
            return [
                CompleteRun(run.id, run.study_instance_uid, run.changed_at, *self._titles(session, run)) for run in runs
            ]

    def route(self, run_id: str, decision: Decision) -> State | None:
        """Enter the decision on a complete run: QUEUED, or IGNORED; None where it is complete no more."""
        with self._database.write() as session:
            run = self._lock_run(session, run_id)
            if run.state is not State.COMPLETE:
                return None
            decision = asked_for(session, run.study_instance_uid, decision)
            action, why = switched(session, decision.route)
            added = self._nothing_to_read(session, run)
            reason = why if action is Action.OFF else decision.ignored or added
            run.route, run.plan = decision.route, decision.plan
            if run.priority:  # else it was pushed by hand
                run.priority = decision.priority.rank
            run.decision, run.queue = decision.to_json(), decision.engine or ""
            told = "" if decision == Decision() else f"route {decision.route}, {decision.priority}"
            if reason and reason == added and run.latest:
                self._stand_by_the_one_before(session, run)
            self._move(session, run, State.IGNORED if reason else State.QUEUED, reason or told)
            return run.state

    def _stand_by_the_one_before(self, session: Session, run: Run) -> None:
        before = select(Run).where(Run.study_instance_uid == run.study_instance_uid, Run.number < run.number)
        run.latest = False
        for earlier in session.scalars(before.order_by(Run.number.desc()).with_for_update()):
            # Here and not in the query: reasons may stand encrypted.
            if earlier.state is not State.IGNORED or not earlier.reason.startswith(_NO_IMAGE):
                earlier.latest = True
                return

    def _nothing_to_read(self, session: Session, run: Run) -> str:
        """Why a run need not be read that an earlier one came before; empty if it should be.

        Reports and presentation states that people and other programs add to a study, perhaps because of the results,
        are no reason to read its images again.
        """
        if run.supersedes is None or not run.priority:  # the first, or pushed by hand
            return ""
        classes = session.scalars(select(Instance.sop_class_uid).where(Instance.run_id == run.id).distinct()).all()
        if not classes or not all(uid.startswith(_WITHOUT_IMAGE) for uid in classes):
            return ""
        return f"{_NO_IMAGE} run {run.number - 1}, only reports, presentation states or the like"

    def undecided(self, run_id: str, reason: str) -> None:
        """Enter that no decision on a complete run was possible: FAILED."""
        with self._database.write() as session:
            run = self._lock_run(session, run_id)
            if run.state is State.COMPLETE:
                self._move(session, run, State.FAILED, reason)

    def to_dispatch(self, sent_before: datetime, window: int = 1000) -> tuple[list[QueuedRun], list[QueuedRun]]:
        """Queued runs that are due and that no message was sent for yet, and those whose message is older than a time.

        The most urgent first, and the oldest of these. A run waits until the one that it supersedes has its results,
        since it must name them. Nothing of a study that is held is due, and nothing at all while reading is paused.

        Parameters
        ----------
        sent_before : datetime
        window : int
            Messages that may be on their way at the same time, of each queue and priority: what waits in the ledger
            can be overtaken, what the broker has can not.
        """
        now = self._clock()
        earlier = aliased(Run)
        unread = (
            select(earlier.id).where(earlier.id == Run.supersedes, earlier.state.in_(ACTIVE - {State.DELIVERING}))
        ).exists()
        due = (
            select(Run.id, Run.queue, Run.priority)
            .join(Study, Study.study_instance_uid == Run.study_instance_uid)
            .where(
                Run.state == State.QUEUED,
                Study.held_at.is_(None),
                (Run.next_attempt_at.is_(None)) | (Run.next_attempt_at <= now),
                ~unread,
            )
            .order_by(Run.priority, Run.created_at, Run.number)
        )
        with self._database.read() as session:
            if is_paused(session, Work.READING):
                return [], []
            suspects = session.execute(due.where(Run.losses > 0)).all()
            first = {run.queue: run.id for run in reversed(suspects)}
            next_suspects = [first[queue] for queue in first if not self._suspect_is_read(session, queue)]
            due = due.where((Run.losses == 0) | Run.id.in_(next_suspects))
            on_their_way = session.execute(
                select(Run.queue, Run.priority, func.count(Run.dispatched_at))
                .where(Run.state == State.QUEUED)
                .group_by(Run.queue, Run.priority)
                .order_by(Run.priority)
            ).all()
            new: list[QueuedRun] = []
            for queue, priority, sent in on_their_way:
                if sent < window:
                    of_these = (Run.queue == queue, Run.priority == priority, Run.dispatched_at.is_(None))
                    rows = session.execute(due.where(*of_these).limit(window - sent)).all()
                    new += [QueuedRun(*row) for row in rows]
            old = session.execute(due.where(Run.dispatched_at <= sent_before)).all()
            return new, [QueuedRun(*row) for row in old]

    def dispatched(self, run_ids: Collection[str]) -> None:
        """Remember that messages for these runs were sent."""
        if run_ids:
            with self._database.write() as session:
                session.execute(update(Run).where(Run.id.in_(run_ids)).values(dispatched_at=self._clock()))

    def claim(self, run_id: str, owner: str, seconds: float) -> Claim | None:
        """Start to read a run: take its lease and make it READING; None if there is nothing (more) to do."""
        with self._database.write() as session:
            run = session.scalar(select(Run).where(Run.id == run_id).with_for_update())
            if run is None or run.state is not State.QUEUED or is_paused(session, Work.READING):
                return None
            study = session.get(Study, run.study_instance_uid)
            if study is None or study.held_at is not None or (run.losses and self._suspect_is_read(session, run.queue)):
                return None
            action, why = switched(session, run.route)
            if action is Action.OFF:
                self._move(session, run, State.CANCELLED, why, "switch")
                return None
            purged = session.scalar(
                select(func.count()).where(Instance.run_id.in_(up_to(run)), Instance.purged_at.is_not(None))
            )
            if purged:  # results that supersede others may not know less than they did
                self._move(session, run, State.FAILED, f"{purged} of its images were purged; send them, then retry it")
                return None
            lease = session.get(Lease, run_key(run_id), with_for_update=True)
            if not self._lease_is_free(lease):
                return None
            expires = self._clock() + timedelta(seconds=seconds)
            if lease is None:
                session.add(Lease(key=run_key(run_id), owner=owner, expires_at=expires))
            else:
                lease.owner, lease.expires_at = owner, expires
            run.attempts += 1
            run.next_attempt_at = None
            self._move(session, run, State.READING, f"attempt {run.attempts}")
            return Claim(
                run_id=run.id,
                study_instance_uid=run.study_instance_uid,
                owner=owner,
                attempt=run.attempts,
                reading_digest=run.reading_digest,
                instances=self._instances(session, run),
                predecessors=self._predecessors(session, run),
                decision=decision_of(run),
            )

    def renew(self, claim: Claim, seconds: float) -> None:
        """Keep the lease for longer.

        Raises
        ------
        LeaseLostError
            If the run was cancelled or taken over.
        """
        with self._database.write() as session:
            lease = self._held(session, claim)[1]
            lease.expires_at = self._clock() + timedelta(seconds=seconds)

    def is_held(self, claim: Claim) -> bool:
        """Whether the claim is still good."""
        with self._database.read() as session:
            lease = session.get(Lease, run_key(claim.run_id))
            run = session.get(Run, claim.run_id)
            return lease is not None and lease.owner == claim.owner and run is not None and run.state in LEASED

    def reading_stored(
        self,
        claim: Claim,
        digest: str,
        plan: str | None = None,
        findings: int | None = None,
        tallies: Mapping[Counted, int] = MappingProxyType({}),
    ) -> None:
        """The reading is safe on disk: READING becomes WRITING.

        Parameters
        ----------
        claim : Claim
        digest : str
        plan : str, optional
            By which it was read.
        findings : int, optional
            How many there are.
        tallies : mapping of Counted to int, optional
            What it adds to the counts; only when it is stored first.
        """
        with self._database.write() as session:
            run, _ = self._held(session, claim)
            if run.reading_digest is None:
                count(session, tallies)
            run.reading_digest, run.plan, run.findings = digest, plan, findings
            self._move(session, run, State.WRITING, f"reading {digest[:12]}")

    def results_stored(
        self,
        claim: Claim,
        results: Mapping[str, Sequence[StoredResult]],
        withheld: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """The results are safe on disk: WRITING becomes DELIVERING, or DELIVERED where nothing is to be sent.

        Nothing is where no destination is set, and where the route is in shadow.

        Parameters
        ----------
        claim : Claim
        results : mapping of str to sequence of StoredResult
            What each destination is to get, by its name; the key ``""`` holds results for no destination.
        withheld : mapping of str to str
            Why a destination gets nothing; the run is FAILED for that once the others have theirs.
        """
        with self._database.write() as session:
            run, lease = self._held(session, claim)
            unsent = why_unsent(session, run)
            run.withheld = "; ".join(f"{destination}: {reason}" for destination, reason in withheld.items())
            number, sent = enter_results(session, run, results, self._clock(), send=not unsent)
            self._move(session, run, State.DELIVERING, f"{number} results")
            if not sent and run.withheld and not unsent:
                self._move(session, run, State.FAILED, f"not delivered to {run.withheld}")
            elif not sent:
                self._move(session, run, State.DELIVERED, unsent or _NO_DESTINATION)
            session.delete(lease)

    def give_back(self, claim: Claim, reason: str, next_attempt_at: datetime | None = None, *, attempt: bool) -> None:
        """Back to QUEUED.

        Parameters
        ----------
        claim : Claim
        reason : str
        next_attempt_at : datetime, optional
            At once without it.
        attempt : bool
            Whether the attempt counts; one that the node itself broke off does not.
        """
        with self._database.write() as session:
            run, lease = self._held(session, claim)
            self._requeue(session, run, reason, next_attempt_at, attempt)
            session.delete(lease)

    def end(self, claim: Claim, state: State, reason: str) -> None:
        """End a run as IGNORED, FAILED or CANCELLED."""
        with self._database.write() as session:
            run, lease = self._held(session, claim)
            self._move(session, run, state, reason)
            session.delete(lease)

    def reclaim_lost(self, attempts: int, first_delay_seconds: float = 0) -> list[str]:
        """Take runs from workers that are gone: back to the queue, or FAILED after so many attempts; their ids.

        One that went back waits before its next attempt, twice as long after each, so that a study that takes its
        worker with it leaves room for the others.
        """
        with self._database.read() as session:
            if session.scalar(select(Run.id).where(Run.state.in_(LEASED)).limit(1)) is None:
                return []
        with self._database.write() as session:
            lost = []
            for run in session.scalars(select(Run).where(Run.state.in_(LEASED)).with_for_update()).all():
                lease = session.get(Lease, run_key(run.id), with_for_update=True)
                if not self._lease_is_free(lease):
                    continue
                if lease is not None:
                    session.delete(lease)
                if run.attempts >= attempts:
                    reason = f"the worker was lost in mid-reading {run.attempts} times"
                    self._move(session, run, State.FAILED, reason)
                else:
                    # The first time the machine is to blame, as likely as not.
                    delay = timedelta(seconds=first_delay_seconds * (2.0 ** (run.attempts - 1) - 1))
                    self._requeue(session, run, "the worker was lost in mid-reading", self._clock() + delay, True)
                run.losses += 1
                lost.append(run.id)
            return lost

    def _suspect_is_read(self, session: Session, queue: str) -> bool:
        """Whether a run of a queue is read whose worker was lost before.

        One that takes its worker with it takes along what else that worker reads. So suspects are read one at a time:
        whoever is not to blame is lost with it once at most. Each queue has its own workers, perhaps none just now.
        """
        read = Run.state.in_(LEASED), Run.losses > 0, Run.queue == queue
        return session.scalar(select(Run.id).where(*read).limit(1)) is not None

    def _requeue(
        self, session: Session, run: Run, reason: str, next_attempt_at: datetime | None, attempt: bool
    ) -> None:
        self._move(session, run, State.QUEUED, reason)
        run.dispatched_at = None
        run.next_attempt_at = next_attempt_at
        if not attempt:
            run.attempts -= 1

    def _held(self, session: Session, claim: Claim) -> tuple[Run, Lease]:
        run = self._lock_run(session, claim.run_id)
        if run.state not in LEASED:
            raise LeaseLostError(f"the run has become {run.state}")
        return run, self._hold(session, run_key(claim.run_id), claim.owner)

    def _titles(self, session: Session, run: Run) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Called and calling AE titles of everything that arrived of a run's study until it was complete."""
        pairs = session.execute(
            select(Instance.called_aet, Instance.calling_aet).where(Instance.run_id.in_(up_to(run))).distinct()
        ).all()
        called, calling = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
        return tuple(sorted(called - {""})), tuple(sorted(calling - {""}))

    def _instances(self, session: Session, run: Run) -> tuple[StoredInstance, ...]:
        rows = session.scalars(select(Instance).where(Instance.run_id.in_(up_to(run))).order_by(Instance.id))
        return tuple(StoredInstance(row.path, row.series_instance_uid, row.sop_instance_uid) for row in rows)

    def _predecessors(self, session: Session, run: Run) -> tuple[StoredResult, ...]:
        """Results of the nearest earlier run that has some."""
        before = run.supersedes
        while before is not None:
            rows = session.scalars(select(Result).where(Result.run_id == before).order_by(Result.id)).all()
            if rows:
                return tuple(stored_result(row) for row in rows)
            before = session.scalar(select(Run.supersedes).where(Run.id == before))
        return ()


def up_to(run: Run) -> Select[str]:
    """Ids of the runs whose images a run is made of: its own and its study's earlier ones."""
    return select(Run.id).where(Run.study_instance_uid == run.study_instance_uid, Run.number <= run.number)


def enter_results(
    session: Session, run: Run, results: Mapping[str, Sequence[StoredResult]], now: datetime, *, send: bool
) -> tuple[int, bool]:
    """Enter results of a run, and their deliveries; how many results it has, and whether any of it is to be sent.

    Parameters
    ----------
    session : Session
    run : Run
        Whose row is locked.
    results : mapping of str to sequence of StoredResult
        By destination, as `Runs.results_stored` takes them.
    now : datetime
    send : bool
        Whether anything is to be sent at all.
    """
    rows = {row.sop_instance_uid: row for row in session.scalars(select(Result).where(Result.run_id == run.id)).all()}
    deliveries = session.scalars(select(Delivery).where(Delivery.run_id == run.id))
    known = {(delivery.result_id, delivery.destination) for delivery in deliveries}
    sent = False
    for destination, objects in results.items():
        for item in objects:
            row = rows.get(item.sop_instance_uid)
            if row is None:
                row = rows[item.sop_instance_uid] = Result(
                    run_id=run.id,
                    sop_instance_uid=item.sop_instance_uid,
                    sop_class_uid=item.sop_class_uid,
                    series_instance_uid=item.series_instance_uid,
                    kind=item.kind,
                    created_at=now,
                )
                session.add(row)
            row.sha256, row.path = item.sha256, item.path
            session.flush()
            if destination and send and (row.id, destination) not in known:
                sent = True
                session.add(
                    Delivery(
                        run_id=run.id,
                        result_id=row.id,
                        destination=destination,
                        state=DeliveryState.PENDING,
                        created_at=now,
                        next_attempt_at=now,
                    )
                )
    return len(rows), sent


def decision_of(run: Run) -> Decision:
    return Decision() if run.decision is None else Decision.from_json(run.decision)


def why_unsent(session: Session, run: Run) -> str:
    """Why nothing of a run is sent although there are destinations; empty if all is."""
    action, why = switched(session, run.route)
    if action is not Action.READ:
        return why
    return _SHADOW if decision_of(run).action is Action.SHADOW else ""
