"""A review: verdicts on a stored reading become a version of its results that supersedes the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from dicom_node.ledger import Ledger
from dicom_node.ledger.records import Claim
from dicom_node.reading.results import addressed, review_version, store_results
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.errors import NodeError
from engine.findings import StudyReading
from engine.review import Verdict, reviewed
from engine.study import load_studies

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reviewable:
    """A reading that can be reviewed.

    Parameters
    ----------
    claim : Claim
        Its run; `attempt` is the number that the review will have.
    reading : StudyReading
        The model's.
    """

    claim: Claim
    reading: StudyReading

    @classmethod
    def of(cls, settings: Settings, ledger: Ledger, spool: Spool, study_instance_uid: str) -> Reviewable:
        """The latest reading of a study.

        Raises
        ------
        NodeError
            If there is none that can be reviewed now, or nobody has said for whom reviewers act.
        """
        claim = ledger.reviews.claim(study_instance_uid)
        if not settings.review.organization:
            raise NodeError(
                "results need an organization that their reviewers act for", advice="set [review] organization"
            )
        try:
            reading = StudyReading.from_json(spool.reading(claim.run_id))
        except ValueError:
            raise NodeError("the stored reading is damaged") from None
        if reading.digest != claim.reading_digest:
            raise NodeError("the stored reading is not the one that the ledger knows")
        return cls(claim, reading)


def finish_review(
    settings: Settings,
    ledger: Ledger,
    spool: Spool,
    begun: Reviewable,
    verdicts: Sequence[Verdict],
    account: str,
    now: datetime,
    *,
    keep_report: bool,
) -> StudyReading:
    """Write what a review leaves, check it, and put it on its way to where the reading's results went.

    Nothing counts before the ledger has it: whoever is broken off leaves files that nobody knows.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    spool : Spool
    begun : Reviewable
        What the reviewer had before the eyes.
    verdicts : sequence of Verdict
        One a finding.
    account : str
        Who has signed in; that has the right to review.
    now : datetime
        Timezone aware, in local time: results of studies that name no time zone are in it.
    keep_report : bool
        Whether the model's report stands.

    Raises
    ------
    NodeError
        If the study was read again or reviewed meanwhile, or a verdict cannot be followed.
    WriteError
        If what is left cannot be written.
    """
    claim, model = begun.claim, begun.reading
    left = reviewed(
        model,
        verdicts,
        reviewer=settings.review.name_of(account),
        organization=settings.review.organization,
        number=claim.attempt,
        now=now,
        keep_report=keep_report,
    )
    with spool.files(claim, lambda: None) as files:
        studies = [
            one
            for one in load_studies(files, settings.limits.of_reading)[0]
            if one.study_instance_uid == claim.study_instance_uid
        ]
        if not studies:
            raise NodeError("none of the study's files can be read")
        destinations, withheld = addressed(claim.decision, settings)
        version = review_version(left)
        results, unwritten = store_results(spool, claim, left, studies[0], destinations, version)
        spool.store_review(claim.run_id, claim.attempt, left.to_json())
    told = [_told(model, number, verdict) for number, verdict in enumerate(verdicts)]
    try:
        ledger.reviews.enter(claim, account, left.digest, told, results, withheld | unwritten)
    except NodeError:
        spool.remove({item.path for items in results.values() for item in items})
        raise
    log.info("reviewed", study=claim.study_instance_uid, run=claim.run_id, number=claim.attempt)
    return left


def _told(reading: StudyReading, number: int, verdict: Verdict) -> Mapping[str, Any]:
    """A verdict for the ledger and for quality work: in the model's words; the reviewer's might name the patient."""
    finding, other = reading.findings[number], verdict.changed
    return {
        "finding": number,
        "concept": finding.concept,
        "certainty": finding.certainty,
        "decision": verdict.decision,
        "reason": verdict.reason,
        "concept_after": other.concept if other and other.concept != finding.concept else None,
        "text_changed": bool(other and dict(other.text) != dict(finding.text)),
        "regions": [
            {
                "sop_instance_uid": region.sop_instance_uid,
                "frame": region.frame,
                "box": region.box,
                "box_after": other.regions[place].box if other and other.regions[place].box != region.box else None,
            }
            for place, region in enumerate(finding.regions)
        ],
        "model": reading.model.name,
        "model_version": reading.model.version,
        "plan": reading.plan,
    }
