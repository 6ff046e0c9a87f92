"""Results of a reviewed reading: who vouches for them, what they are a version of, and where a moved box lies."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sr_cases import boxes_on, mammogram, pictures_of, reading, sources_of_every_kind

from engine.errors import GateError
from engine.review import Decision, Reason, Verdict, changed, reviewed
from sr_writer import OutputProfile, PredecessorRef, check_results, dump, kind_of, write_results

NOW = datetime(2026, 3, 2, 9, 30, 15, tzinfo=UTC)
EVERY = OutputProfile(name="every", secondary_capture=False)
REJECT = Verdict(Decision.REJECT, Reason.NOT_THERE)


def moved(finding, box):
    boxes = [box, *(region.box for region in finding.regions[1:])]
    other = changed(finding, concept=finding.concept, names=finding.names, text=finding.text, boxes=boxes)
    return Verdict(Decision.MODIFY, changed=other)


def review(read, *verdicts, number=1):
    said = {"reviewer": "王^丽", "organization": "医院", "number": number, "now": NOW, "keep_report": False}
    return reviewed(read, verdicts, **said)


def versions(sources, *, commissioning=False, profile=EVERY, verdicts=None):
    """The first results of a study, the reviewed reading, and its results."""
    read = reading(sources, boxes_on(sources), commissioning=commissioning)
    first = write_results(read, sources, profile, pictures=pictures_of(sources))
    if verdicts is None:
        verdicts = [moved(read.findings[0], (1.5, 2, 9, 11.25)), REJECT]
        verdicts += [Verdict(Decision.ACCEPT)] * (len(read.findings) - 2)
    left = review(read, *verdicts)
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
    before = [PredecessorRef(*(str(result[uid].value) for uid in uids)) for result in first]
    results = write_results(left, sources, profile, predecessors=before, pictures=pictures_of(sources))
    check_results(results, left, sources)
    return first, left, results


@pytest.mark.parametrize("kind", ["ct series", "dx", "slide"])
def test_the_reviewer_is_the_verifying_observer_of_a_new_version(kind, tmp_path, dciodvfy, dsrdump):
    sources = sources_of_every_kind()[kind]
    first, left, results = versions(sources)
    documents = {kind_of(result): result for result in results if result.Modality == "SR"}
    assert set(documents) == {"sr", "narrative-en", "narrative-zh"}
    earlier = {str(result.SOPInstanceUID) for result in first if result.Modality == "SR"}
    for document in documents.values():
        (observer,) = document.VerifyingObserverSequence
        assert document.VerificationFlag == "VERIFIED"
        assert (observer.VerifyingObserverName, observer.VerifyingOrganization) == ("王^丽", "医院")
        assert str(observer.VerificationDateTime).startswith("20260302")
        (before,) = document.PredecessorDocumentsSequence
        named = {
            str(item.ReferencedSOPInstanceUID)
            for series in before.ReferencedSeriesSequence
            for item in series.ReferencedSOPSequence
        }
        assert named == earlier
    assert b"1 rejected and left out" in dump(documents["narrative-en"])
    by_hand = {
        segment.SegmentAlgorithmType
        for result in results
        if result.Modality == "SEG"
        for segment in result.SegmentSequence
    }
    assert by_hand <= {"SEMIAUTOMATIC", "AUTOMATIC"}
    assert "SEMIAUTOMATIC" in by_hand
    assert not {str(one.SOPInstanceUID) for one in first} & {str(one.SOPInstanceUID) for one in results}
    for result in results:
        path = tmp_path / f"{kind_of(result)}.dcm"
        path.write_bytes(dump(result))
        assert dciodvfy(path) == [], path.name
        if result.Modality == "SR":
            dsrdump(path)
    assert len(left.findings) == len(boxes_on(sources)) - 1


def test_all_findings_rejected_leave_a_text_that_says_so(tmp_path, dciodvfy):
    sources = [mammogram()]
    _, left, results = versions(sources, verdicts=[REJECT] * len(boxes_on(sources)))
    kinds = {kind_of(result): result for result in results}
    assert not {"seg", "gsps"} & set(kinds)
    assert left.review is not None
    assert b"no finding of it is left" in dump(kinds["sr"])
    assert f"{left.review.rejected} rejected and left out".encode() in dump(kinds["sr"])
    (tmp_path / "sr.dcm").write_bytes(dump(kinds["sr"]))
    assert dciodvfy(tmp_path / "sr.dcm") == []


def test_what_a_commissioning_model_says_is_reviewed_and_never_verified():
    _, _, results = versions([mammogram()], commissioning=True)
    documents = [result for result in results if result.Modality == "SR"]
    assert {document.VerificationFlag for document in documents} == {"UNVERIFIED"}
    assert not any("VerifyingObserverSequence" in document for document in documents)


def test_nobody_else_vouches_for_a_result():
    sources = [mammogram()]
    _, left, results = versions(sources)
    results[0].VerifyingObserverSequence[0].VerifyingObserverName = "Other"
    with pytest.raises(GateError, match="verifying observer"):
        check_results(results, left, sources)
    unreviewed = replace(left, review=None)
    wrong = write_results(unreviewed, sources, EVERY, pictures=pictures_of(sources))
    wrong[0].VerificationFlag = "VERIFIED"
    with pytest.raises(GateError, match="never anything but UNVERIFIED"):
        check_results(wrong, unreviewed, sources)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_moved_box_is_in_the_sr_where_it_was_moved_to(data):
    sources = [mammogram()]
    columns, rows = int(sources[0].Columns), int(sources[0].Rows)
    x0, y0 = data.draw(st.integers(0, columns - 2)), data.draw(st.integers(0, rows - 2))
    box = (float(x0), float(y0), data.draw(st.floats(x0 + 1, columns)), data.draw(st.floats(y0 + 1, rows)))
    read = reading(sources, boxes_on(sources)[:1], commissioning=False)
    left = review(read, moved(read.findings[0], box))
    profile = OutputProfile(name="sr", languages=("en",), seg=False, presentation_state=False, secondary_capture=False)
    (main, *_) = results = write_results(left, sources, profile)
    check_results(results, left, sources)
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
        assert str(main.get(keyword) or "") == str(sources[0].get(keyword) or "")
    report = hd.sr.srread(BytesIO(dump(main)))
    group = report.content.get_planar_roi_measurement_groups()[0]
    corners = np.asarray(group.roi.value)
    assert np.allclose([*corners.min(axis=0), *corners.max(axis=0)], box, atol=1e-3)
    again = write_results(left, sources, profile)
    assert [dump(result) for result in again] == [dump(result) for result in results]
