"""Reviews: what verdicts leave of a reading, and what a moved box may keep."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import NodeError
from engine.findings import (
    Box,
    Finding,
    ImageRead,
    Mask,
    ModelIdentity,
    Region,
    RunState,
    StudyReading,
)
from engine.review import MODIFIED, Decision, Reason, Verdict, changed, reviewed

MODEL = ModelIdentity("m", "1", "tests", "d" * 64, "scripted", "1", False)
NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
COLUMNS, ROWS = 64, 48


def finding(*boxes: Box) -> Finding:
    mask = Mask(8, 16, 1, 1, "80", "by hand")
    regions = tuple(Region("1.2.3", 1, box, mask) for box in boxes)
    names = {"en": "Nodule", "zh": "结节"}
    return Finding("nodule", "nodule", names, {"en": "A nodule."}, 0.9, regions, extent_mm=(1.0, 1.0, None))


def reading(*findings: Finding) -> StudyReading:
    return StudyReading(
        "1.2",
        RunState.FINDINGS if findings else RunState.NO_FINDINGS,
        {"en": "There is a nodule."},
        findings,
        MODEL,
        {},
        "plan",
        "p",
        (),
        (ImageRead("1.2.3", "1.2.4", 1, ROWS, COLUMNS),),
        (),
        (),
        datetime(2026, 3, 1, 12, 0, tzinfo=UTC),
    )


def review(of: StudyReading, *verdicts: Verdict, keep_report: bool = False) -> StudyReading:
    return reviewed(of, verdicts, reviewer="Wang^Li", organization="H", number=1, now=NOW, keep_report=keep_report)


ACCEPT, REJECT = Verdict(Decision.ACCEPT), Verdict(Decision.REJECT, Reason.NOT_THERE)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, x1 = sorted(draw(st.lists(st.floats(0, COLUMNS, width=32), min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(draw(st.lists(st.floats(0, ROWS, width=32), min_size=2, max_size=2, unique=True)))
    return (x0, y0, x1, y1)


@given(st.lists(st.tuples(boxes(), st.sampled_from(["accept", "reject"]) | boxes()), max_size=5))
def test_what_is_left_is_what_the_verdicts_say_in_its_order(cases: list[tuple[Box, str | Box]]) -> None:
    model = reading(*(finding(box) for box, _ in cases))
    verdicts, places, untouched = [], [], []
    for known, (box, said) in zip(model.findings, cases, strict=True):
        if isinstance(said, tuple):
            other = changed(known, concept=known.concept, names=known.names, text=known.text, boxes=[said])
            verdicts.append(ACCEPT if other is known else Verdict(Decision.MODIFY, changed=other))
        else:
            verdicts.append(ACCEPT if said == "accept" else REJECT)
        if said != "reject":
            places.append(box if said == "accept" else said)
            untouched.append(verdicts[-1].decision is Decision.ACCEPT)
    left = review(model, *verdicts)
    assert [region.box for region in left.regions] == places
    assert left.state is (RunState.FINDINGS if places else RunState.NO_FINDINGS)
    assert left.review is not None
    assert left.review.modified == tuple(n for n, same in enumerate(untouched) if not same)
    assert left.review.accepted + len(left.review.modified) + left.review.rejected == len(cases)
    assert (left.review.reading_digest, left.is_verified) == (model.digest, True)
    assert left.digest != model.digest
    assert StudyReading.from_json(left.to_json()) == left
    assert StudyReading.from_json(model.to_json()).review is None
    for known, same in zip(left.findings, untouched, strict=True):
        assert (MODIFIED in known.notes, known.certainty is None, known.regions[0].mask is None) == (not same,) * 3


def test_another_name_keeps_the_place_and_loses_the_certainty() -> None:
    known = finding((8, 16, 12, 20))
    other = changed(known, concept="mass", names={"en": "Mass"}, text={"en": "A mass."}, boxes=[(8, 16, 12, 20)])
    assert (other.label, other.concept, other.names, other.certainty) == ("mass", "mass", {"en": "Mass"}, None)
    assert (other.regions, other.extent_mm) == (known.regions, known.extent_mm)


def test_the_report_stands_only_where_the_reviewer_says_so() -> None:
    model = reading(finding((8, 16, 12, 20)))
    assert review(model, ACCEPT).narrative == {}
    assert review(model, ACCEPT, keep_report=True).narrative == model.narrative


def test_what_cannot_be_reviewed_is_refused() -> None:
    model = reading(finding((8, 16, 12, 20)))
    beyond = changed(model.findings[0], concept="nodule", names={}, text={}, boxes=[(0, 0, COLUMNS + 1, 4)])
    with pytest.raises(NodeError, match="leaves its image"):
        review(model, Verdict(Decision.MODIFY, changed=beyond))
    with pytest.raises(NodeError, match="nothing that could be reviewed"):
        review(replace(reading(), state=RunState.NOT_RUN))
    with pytest.raises(ValueError, match="shorter"):
        review(model)
    for wrong in ((Decision.REJECT, None), (Decision.ACCEPT, Reason.NOT_THERE), (Decision.MODIFY, None)):
        with pytest.raises(ValueError, match="needs"):
            Verdict(*wrong)


def test_a_commissioning_models_reading_is_never_verified() -> None:
    model = replace(reading(finding((8, 16, 12, 20))), model=replace(MODEL, commissioning=True))
    assert not review(model, ACCEPT).is_verified
