"""Reviews: what a person says of each finding of a reading, and the reading that this leaves.

The model's reading stays as it is; a reviewed reading is one of its own, with a digest and so with results of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from engine.errors import NodeError
from engine.findings import Box, Finding, Language, Region, RunState, StudyReading, Verification

MODIFIED: Final = "modified by the reviewer"
"""Note of a finding that is not as the model had it."""


class Decision(StrEnum):
    """What a reviewer says of a finding."""

    ACCEPT = "accept"
    MODIFY = "modify"
    REJECT = "reject"


class Reason(StrEnum):
    """Why a finding is rejected; a closed list, so that it can be counted and names nobody."""

    NOT_THERE = "not there"
    NORMAL = "normal or a variant"
    ARTEFACT = "artefact or device"
    WRONG_NAME = "something else"
    DUPLICATE = "said twice"
    IRRELEVANT = "of no relevance"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reviewer says of one finding.

    Parameters
    ----------
    decision : Decision
    reason : Reason, optional
        Of a rejection, which needs one.
    changed : Finding, optional
        Of a modification: the finding as it should be (`changed`).

    Raises
    ------
    ValueError
        If a rejection lacks its reason, or a modification what it comes to, or another has one.
    """

    decision: Decision
    reason: Reason | None = None
    changed: Finding | None = None

    def __post_init__(self) -> None:
        if (self.decision is Decision.REJECT) != (self.reason is not None):
            raise ValueError("a rejection needs a reason, and nothing else has one")
        if (self.decision is Decision.MODIFY) != (self.changed is not None):
            raise ValueError("a modification needs the changed finding, and nothing else has one")


def changed(
    finding: Finding,
    *,
    concept: str,
    names: Mapping[Language, str],
    text: Mapping[Language, str],
    boxes: Sequence[Box],
) -> Finding:
    """A finding as a reviewer would have it; the very same where nothing differs.

    What the model or a measurement said of the old place or the old name does not hold for a new one: a moved region
    has no outline and the finding no size, and neither has a certainty.

    Parameters
    ----------
    finding : Finding
    concept : str
    names, text : mapping of Language to str
    boxes : sequence of Box
        One for each region, in their order.

    Raises
    ------
    ValueError
        If there are more or fewer boxes than regions, or one is no box.
    """
    regions = tuple(
        region if box == tuple(region.box) else Region(region.sop_instance_uid, region.frame, box)
        for region, box in zip(finding.regions, boxes, strict=True)
    )
    renamed = concept != finding.concept
    moved = regions != finding.regions
    if not renamed and not moved and dict(text) == dict(finding.text):
        return finding
    return replace(
        finding,
        label=concept if renamed else finding.label,
        concept=concept,
        names=dict(names) if renamed else finding.names,
        text=dict(text),
        certainty=None,
        calibrated=False,
        regions=regions,
        extent_mm=None if moved else finding.extent_mm,
        notes=(*finding.notes, MODIFIED),
    )


def reviewed(
    reading: StudyReading,
    verdicts: Sequence[Verdict],
    *,
    reviewer: str,
    organization: str,
    number: int,
    now: datetime,
    keep_report: bool,
) -> StudyReading:
    """The reading that a review leaves.

    Parameters
    ----------
    reading : StudyReading
        The model's.
    verdicts : sequence of Verdict
        One for each finding, in their order.
    reviewer, organization : str
        Who vouches for it, and for whom.
    number : int
        Of the review, from 1.
    now : datetime
    keep_report : bool
        Whether the model's report stands as well; else it is left out.

    Raises
    ------
    NodeError
        If the reading says nothing that could be reviewed, or a box leaves its image.
    ValueError
        If there are more or fewer verdicts than findings.
    """
    if reading.state in (RunState.UNUSABLE, RunState.NOT_RUN):
        raise NodeError("the reading says nothing that could be reviewed")
    sizes = {(image.sop_instance_uid, image.frame): (image.columns, image.rows) for image in reading.images}
    findings: list[Finding] = []
    modified: list[int] = []
    for finding, verdict in zip(reading.findings, verdicts, strict=True):
        if verdict.decision is Decision.REJECT:
            continue
        if verdict.changed is not None:
            _check_places(verdict.changed, sizes)
            modified.append(len(findings))
        findings.append(verdict.changed or finding)
    return replace(
        reading,
        state=RunState.FINDINGS if findings else RunState.NO_FINDINGS,
        findings=tuple(findings),
        narrative=reading.narrative if keep_report else {},
        created=now,
        review=Verification(
            reviewer=reviewer,
            organization=organization,
            number=number,
            reading_digest=reading.digest,
            accepted=len(findings) - len(modified),
            modified=tuple(modified),
            rejected=len(verdicts) - len(findings),
        ),
    )


def _check_places(finding: Finding, sizes: Mapping[tuple[str, int], tuple[int, int]]) -> None:
    for region in finding.regions:
        columns, rows = sizes.get((region.sop_instance_uid, region.frame), (0, 0))
        if (columns and region.box[2] > columns) or (rows and region.box[3] > rows):
            raise NodeError(f"a box leaves its image, which has {columns} columns and {rows} rows")
