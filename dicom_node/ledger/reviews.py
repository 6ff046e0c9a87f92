"""Reviews: which reading of a study a person may review, what came of it, and the results that supersede."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from dicom_node.ledger.models import UNDELIVERED, Delivery, DeliveryState, Instance, Result, Review, Run
from dicom_node.ledger.part import Part, stored_result, unknown_study
from dicom_node.ledger.records import Claim, StoredInstance, StoredResult
from dicom_node.ledger.retractions import KIND as RETRACTION
from dicom_node.ledger.runs import decision_of, enter_results, up_to, why_unsent
from dicom_node.ledger.states import ACTIVE, State
from engine.errors import NodeError

KIND: Final = "review"
_REVIEWABLE: Final = frozenset({State.DELIVERED, State.COMMITTED, State.FAILED})


@dataclass(frozen=True, slots=True)
class ReviewRecord:
    """A finished review.

    Parameters
    ----------
    study_instance_uid : str
    run : int
        Number of the run whose reading was reviewed.
    number : int
        From 1, of that reading's.
    at : datetime
    account : str
    reading_digest : str
        Of what it left.
    verdicts : sequence of mapping
        As `Reviews.enter` got them.
    """

    study_instance_uid: str
    run: int
    number: int
    at: datetime
    account: str
    reading_digest: str
    verdicts: Sequence[Mapping[str, Any]]


class Reviews(Part):
    """What people say of readings."""

    def claim(self, study_instance_uid: str) -> Claim:
        """What a review of a study begins with: its latest reading, and what that has for results.

        Returns
        -------
        Claim
            Without a lease: `attempt` is the review's number, and `enter` refuses when that is not the next any more.

        Raises
        ------
        NodeError
            If there is no reading with results, it is being read again, the results were withdrawn, or images purged.
        """
        with self._database.read() as session:
            return self._claim(session, study_instance_uid)

    def enter(
        self,
        claim: Claim,
        account: str,
        reading_digest: str,
        verdicts: Sequence[Mapping[str, Any]],
        results: Mapping[str, Sequence[StoredResult]],
        withheld: Mapping[str, str],
    ) -> None:
        """Enter a review, and put its results on their way to where the run's results go.

        Parameters
        ----------
        claim : Claim
            As `claim` gave it.
        account : str
        reading_digest : str
            Of the reviewed reading.
        verdicts : sequence of mapping
            What can be JSON, nothing of the patient.
        results, withheld
            As `Runs.results_stored` takes them.

        Raises
        ------
        NodeError
            If the study was read again meanwhile, or somebody else finished a review.
        """
        with self._database.write() as session:
            these = select(Run).where(Run.study_instance_uid == claim.study_instance_uid)
            session.scalars(these.with_for_update()).all()
            now_is = self._claim(session, claim.study_instance_uid)
            if (now_is.run_id, now_is.reading_digest) != (claim.run_id, claim.reading_digest):
                raise NodeError("the study was read again meanwhile", advice="review the new reading")
            if now_is.attempt != claim.attempt:
                raise NodeError("somebody else has finished a review meanwhile", advice="load the page again")
            run, now = self._lock_run(session, claim.run_id), self._clock()
            session.add(
                Review(
                    run_id=run.id,
                    number=claim.attempt,
                    at=now,
                    account=account,
                    reading_digest=reading_digest,
                    verdicts=json.dumps(verdicts, ensure_ascii=False, sort_keys=True),
                )
            )
            # What never arrived would arrive after what supersedes it.
            late = (Delivery.run_id == run.id) & Delivery.state.in_(UNDELIVERED)
            session.execute(update(Delivery).where(late).values(state=DeliveryState.SUPERSEDED))
            run.withheld = "; ".join(f"{destination}: {reason}" for destination, reason in withheld.items())
            unsent = why_unsent(session, run)
            _, sent = enter_results(session, run, results, now, send=not unsent)
            words = f"review {claim.attempt} by {account}"
            if sent:
                self._move(session, run, State.DELIVERING, words, KIND)
            else:
                self._note(session, run.study_instance_uid, KIND, f"{words}; {unsent}".rstrip("; "), run.id)

    def of(self, study_instance_uid: str) -> list[ReviewRecord]:
        """The finished reviews of a study, the first one first."""
        return [*self.all(study_instance_uid)]

    def all(self, study_instance_uid: str | None = None) -> Iterator[ReviewRecord]:
        """Every finished review, in the order in which they were finished."""
        query = select(Review, Run).join(Run, Run.id == Review.run_id).order_by(Review.at, Review.number)
        if study_instance_uid is not None:
            query = query.where(Run.study_instance_uid == study_instance_uid)
        with self._database.read() as session:
            rows = session.execute(query).all()
        for review, run in rows:
            yield ReviewRecord(
                run.study_instance_uid,
                run.number,
                review.number,
                review.at,
                review.account,
                review.reading_digest,
                json.loads(review.verdicts),
            )

    def _claim(self, session: Session, study_instance_uid: str) -> Claim:
        query = select(Run).where(Run.study_instance_uid == study_instance_uid).order_by(Run.number.desc())
        runs = session.scalars(query).all()
        if not runs:
            raise unknown_study(study_instance_uid)
        run = next((run for run in runs if run.reading_digest is not None), None)
        under_way = next((one.state for one in runs if one.state in ACTIVE), None)
        if under_way is not None:
            raise NodeError(f"the study is {under_way}", advice="review it once its results have arrived")
        if run is None or run.state not in _REVIEWABLE:
            raise NodeError("there is no reading whose results could be superseded", advice="have the study read first")
        results = session.scalars(select(Result).where(Result.run_id == run.id).order_by(Result.id)).all()
        if any(result.kind == RETRACTION for result in results):
            raise NodeError("the study's results have been withdrawn", advice="have the study read again")
        if not results:
            raise NodeError("the reading has no results that could be superseded", advice="retry the study first")
        purged = select(func.count()).where(Instance.run_id.in_(up_to(run)), Instance.purged_at.is_not(None))
        if count := session.scalar(purged):
            raise NodeError(f"{count} of the study's images were purged", advice="have the study sent again")
        images = session.scalars(select(Instance).where(Instance.run_id.in_(up_to(run))).order_by(Instance.id))
        number = session.scalar(select(func.max(Review.number)).where(Review.run_id == run.id)) or 0
        return Claim(
            run_id=run.id,
            study_instance_uid=study_instance_uid,
            owner="",
            attempt=number + 1,
            reading_digest=run.reading_digest,
            instances=tuple(StoredInstance(row.path, row.series_instance_uid, row.sop_instance_uid) for row in images),
            predecessors=tuple(stored_result(row) for row in results),
            decision=decision_of(run),
        )
