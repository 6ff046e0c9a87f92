"""The demo's checks see what is wrong: each fault planted here must be named."""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from dicom_node.demo.checks import Truth, check_study, check_truth
from dicom_node.demo.readback import iou, pixel_box, regions_of_gsps, regions_of_seg, regions_of_sr
from engine.findings import Box, Finding, ImageRead, ModelIdentity, Region, RunState, StudyReading
from sr_writer import OutputProfile, kind_of, write_results

SOURCE: Dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")), stop_before_pixels=True)
UID = str(SOURCE.SOPInstanceUID)


def finding(label: str, *boxes: Box) -> Finding:
    names = {"en": label, "zh": "圆盘"}
    return Finding(label, label, names, names, 0.9, tuple(Region(UID, 1, box) for box in boxes))  # type: ignore[arg-type]


def reading(*findings: Finding) -> StudyReading:
    return StudyReading(
        study_instance_uid=str(SOURCE.StudyInstanceUID),
        state=RunState.FINDINGS if findings else RunState.NO_FINDINGS,
        narrative={"en": "Findings.", "zh": "影像诊断。"},
        findings=findings,
        model=ModelIdentity("phantom reader", "1", "medrega-pacs", "ab" * 32, "scripted", "1", commissioning=True),
        decoding={"greedy": True},
        plan="phantom",
        prompts_version="1",
        prompts=(),
        images=(ImageRead(UID, str(SOURCE.SeriesInstanceUID), 1, int(SOURCE.Rows), int(SOURCE.Columns)),),
        not_read=(),
        held_back=(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


DISC = finding("disc", (10.25, 20.5, 60.75, 90.0))
RINGS = finding("ring", (70.0, 5.0, 100.0, 30.0), (70.0, 60.0, 100.0, 100.0))
READING = reading(DISC, RINGS)
BLACK = np.zeros((SOURCE.Rows, SOURCE.Columns, 3), np.uint8)
RESULTS = write_results(READING, [SOURCE], OutputProfile(), pictures=lambda *_: BLACK)


def by_kind(kind: str) -> Dataset:
    return next(result for result in RESULTS if kind_of(result) == kind)


def test_what_was_written_is_read_back() -> None:
    in_sr = regions_of_sr(by_kind("sr"))
    assert [region.box for region in in_sr] == [region.box for region in READING.regions]
    assert {region.sop_instance_uid for region in in_sr} == {UID}
    assert len(regions_of_seg(by_kind("seg"))) == 2  # a segment a finding
    assert {region.box for region in regions_of_gsps(by_kind("gsps"))} == {region.box for region in READING.regions}


def test_results_that_hold_have_no_fault() -> None:
    assert check_study(SOURCE, READING, RESULTS) == []
    empty = reading()
    assert check_study(SOURCE, empty, write_results(empty, [SOURCE], OutputProfile())) == []


def test_another_patient_is_named_without_saying_who() -> None:
    other = deepcopy(SOURCE)
    other.PatientID = "ZZTOP"
    faults = check_study(other, READING, RESULTS)
    assert "sr: PatientID is not the source's" in faults
    assert "ZZTOP" not in str(faults)


def test_a_moved_box_is_seen_in_every_object_that_draws_it() -> None:
    moved = reading(finding("disc", (11.25, 20.5, 60.75, 90.0)), RINGS)
    faults = check_study(SOURCE, moved, RESULTS)
    assert [fault.split()[0] for fault in faults] == ["SR", "SR", "SEG", "SEG", *["presentation"] * 2]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("sr", "no SR came back"),
        ("seg", "no SEG came back"),
        ("gsps", "no presentation state came back"),
        ("sc", "no secondary capture came back"),
    ],
)
def test_a_missing_object_is_named(kind: str, fault: str) -> None:
    assert check_study(SOURCE, READING, [item for item in RESULTS if kind_of(item) != kind]) == [fault]


def test_truth_wants_each_thing_once_by_its_name_and_nothing_else() -> None:
    truth = [Truth("disc", DISC.regions[0].box), *(Truth("ring", region.box) for region in RINGS.regions)]
    assert check_truth(READING, {UID: truth}) == []
    assert check_truth(READING, {UID: truth[1:]}) == ["a disc was found where none is"]
    assert check_truth(reading(RINGS), {UID: truth}) == ["the disc was not found (best IoU 0.00)"]
    wrong = reading(replace(DISC, label="cross"), RINGS)
    assert check_truth(wrong, {UID: truth}) == ["the disc was named cross"]
    assert check_truth(reading(), {UID: []}) == []


def edges(limit: int) -> st.SearchStrategy[tuple[float, float]]:
    number = st.floats(0, limit, allow_nan=False).map(lambda value: round(value, 2))
    return st.tuples(number, number).filter(lambda pair: pair[1] - pair[0] >= 1)


boxes = st.tuples(edges(512), edges(512)).map(lambda pair: (pair[0][0], pair[1][0], pair[0][1], pair[1][1]))


@given(boxes, boxes)
def test_iou_is_symmetric_and_between_0_and_1(a: Box, b: Box) -> None:
    assert iou(a, a) == pytest.approx(1)
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert 0 <= iou(a, b) <= 1


@given(boxes)
def test_a_pixel_box_covers_the_pixels_whose_centres_are_inside(box: Box) -> None:
    x0, y0, x1, y1 = pixel_box(box)
    assert {x for x in range(513) if box[0] <= x + 0.5 < box[2]} == set(range(int(x0), int(x1)))
    assert {y for y in range(513) if box[1] <= y + 0.5 < box[3]} == set(range(int(y0), int(y1)))
