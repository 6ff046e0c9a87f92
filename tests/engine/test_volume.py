"""Boxes on neighbouring slices are one finding with its size in mm, however the slices lie and were acquired."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from study_files import AXIAL, StudyFiles

from engine import read_study
from engine.findings import Finding, Laterality, Region, RunState
from engine.geometry import extent_of
from engine.grammar import format_boxes
from engine.plan import FramePolicy, Limits, load_plans
from engine.runtime.scripted import ScriptedRuntime
from engine.study import Instance, Series, Study
from engine.volume import link

CHEST = load_plans()["ct-chest"]
ONLY_WHERE = CHEST.model_copy(update={"tasks": ("detection",), "frames": FramePolicy(slices_per_series="all")})


def turned(*degrees: float) -> tuple[float, ...]:
    """Axial axes turned about x, then y: an oblique acquisition."""
    x, y = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    return tuple((about_y @ about_x @ np.array(AXIAL).reshape(2, 3).T).T.ravel())


@pytest.mark.parametrize(
    ("count", "axes", "step"),
    [(300, turned(17, -31), -0.75), (40, AXIAL, 1.5), (40, turned(90, 5), 2.0)],
    ids=["300 oblique slices from above", "axial", "nearly coronal"],
)
def test_boxes_of_neighbouring_slices_are_one_finding_of_the_right_size(tmp_path, count, axes, step):
    files = StudyFiles(tmp_path, BodyPartExamined="CHEST", PixelSpacing=[0.7, 0.9])
    uids = files.series(
        "Thorax", count, axes=axes, step=step, size=32, origin=(-120, 35, 410), SliceThickness=abs(step)
    )
    first, last = count // 3, count // 2  # of the tumour, which moves by 10 a slice and grows at its end
    box = (300, 400, 500, 800)
    answers = []
    for place in range(count):
        seen = []
        if first <= place <= last:
            shift = place - first
            grown = 100 if place == last else 0
            seen.append(format_boxes("Lung tumor", [(300 + shift, 400, 500 + shift + grown, 800)]))
        if place in (2, 3):
            seen.append(format_boxes("Nodule or Mass", [(10, 10, 60, 60)]))
        if place == last + 2:  # the same place and name, but a clear slice lies between
            seen.append(format_boxes("Lung tumor", [box]))
        answers.append(", ".join(seen) or "No finding")
    by_place = sorted(range(count), key=lambda place: place * np.sign(step))  # slices are read along their normal
    runtime = ScriptedRuntime({"Please locate": [answers[place] for place in by_place]}, commissioning=False)
    reading = read_study(files.load(), ONLY_WHERE, runtime, languages=("en",))
    assert reading.state is RunState.FINDINGS
    assert len(reading.images) == count
    sizes = {finding.extent_mm: finding for finding in reading.findings}
    assert len(sizes) == len(reading.findings) == 3
    tumour = max(reading.findings, key=lambda finding: len(finding.regions))
    slices = last - first + 1
    assert {region.sop_instance_uid for region in tumour.regions} == set(uids[first : last + 1])
    pixel = 32 / 999
    assert tumour.extent_mm == pytest.approx(
        ((200 + 100 + slices - 1) * pixel * 0.9, 400 * pixel * 0.7, slices * abs(step)), rel=1e-6
    )
    assert sorted(len(finding.regions) for finding in reading.findings) == [1, 2, slices]
    single = next(finding for finding in reading.findings if len(finding.regions) == 1)
    assert single.regions[0].sop_instance_uid == uids[last + 2]
    assert single.extent_mm[2] is None


# --- linking alone


def stack(positions: list[float], axes=AXIAL, *, thickness: float = 1.0, series: str = "1.1") -> Study:
    """A study of one series, of headers alone: the slice at the n-th position is `1.1.n`, in the order given."""
    normal = np.cross(axes[:3], axes[3:])
    instances = []
    for number, mm in enumerate(positions):
        header = Dataset()
        header.ImagePositionPatient = [f"{value:.11g}" for value in normal * mm]
        header.ImageOrientationPatient = [f"{value:.11g}" for value in axes]
        header.PixelSpacing = [1, 1]
        header.SliceThickness = thickness
        uid = f"{series}.{number}"
        instances.append(Instance(Path("none"), header, uid, "1.2", series, "1.0", 1))
    return Study("1.0", (Series(series, "CT", tuple(instances)),))


def found(slice_number: int, box=(10, 10, 20, 20), **changes) -> Finding:
    region = Region(f"1.1.{slice_number}", 1, box)
    given = {"certainty": 0.5, "notes": (f"slice {slice_number}",), **changes}
    return Finding("mass", given.pop("concept", "mass"), {"en": "mass"}, {"en": "Mass"}, regions=(region,), **given)


def slices_of(findings) -> list[list[str]]:
    return [[region.sop_instance_uid.removeprefix("1.1.") for region in finding.regions] for finding in findings]


@given(
    count=st.integers(2, 8),
    step=st.floats(0.3, 7),
    angles=st.tuples(st.floats(-80, 80), st.floats(-80, 80)),
    data=st.data(),
)
def test_order_of_acquisition_and_of_findings_does_not_matter(count, step, angles, data):
    order = data.draw(st.permutations(range(count)))
    study = stack([place * step for place in order], turned(*angles), thickness=step)
    asked = data.draw(st.permutations(range(count)))
    (finding,) = link([found(number) for number in asked], study)
    assert [order[int(number)] for number in slices_of([finding])[0]] == list(range(count))
    assert finding.extent_mm == pytest.approx((10, 10, count * step), rel=1e-6)


def test_gap_in_the_acquisition_is_not_bridged():
    assert slices_of(link([found(n) for n in range(4)], stack([0, 1, 4, 5]))) == [["0", "1"], ["2", "3"]]


def test_gaps_between_all_slices_count_in_the_size():
    (finding,) = link([found(n) for n in range(4)], stack([0, 6, 12, 18], thickness=5))
    assert finding.extent_mm == (10, 10, 18 + 5)


@pytest.mark.parametrize(
    "other",
    [found(1, concept="nodule"), found(1, (21, 10, 30, 20)), found(1, (18, 10, 30, 20)), found(2)],
    ids=["another concept", "elsewhere", "hardly overlapping", "not the next slice"],
)
def test_what_does_not_belong_together_stays_apart(other):
    assert len(link([found(0), other], stack([0, 1, 2]))) == 2


def test_of_two_boxes_on_a_slice_the_better_one_goes_on():
    findings = [found(0), found(1, (5, 10, 15, 20)), found(1, (11, 10, 21, 20)), found(2, (11, 10, 21, 20))]
    linked = link(findings, stack([0, 1, 2]))
    assert slices_of(linked) == [["0", "1", "2"], ["1"]]
    assert [finding.regions[0].box[0] for finding in linked] == [10, 5]


def test_joined_finding_has_the_words_of_its_surest_slice_and_the_notes_of_all():
    sure = found(1, certainty=0.9, laterality=Laterality.LEFT)
    (finding,) = link([found(0), sure, found(2, certainty=None)], stack([0, 1, 2]))
    assert finding.certainty == 0.9
    assert finding.notes == ("slice 0", "slice 1", "slice 2")
    assert finding.laterality is Laterality.UNKNOWN


def test_findings_without_a_place_stay_as_they_are():
    nowhere = Finding("report", "report", {"en": "Report"}, {"en": "All is well"}, None, ())
    two = found(0)
    both = Finding("mass", "mass", {"en": "mass"}, {"en": "Mass"}, 0.5, (*two.regions, *found(1).regions))
    study = stack([0, 1, 2])
    linked = link([nowhere, both, found(2)], study)
    assert linked[0] == nowhere
    assert len(linked) == 3
    headers = {instance.sop_instance_uid: instance.header for instance in study.instances}
    assert linked[1].extent_mm[2] == extent_of(both.regions, headers).depth_mm == 2


def test_passes_through_the_same_places_are_linked_across_but_one_box_a_slice():
    study = stack([0, 1, 0, 1])
    linked = link([found(0), found(1), found(2), found(3)], study)
    assert sorted(map(len, slices_of(linked))) == [2, 2]


def test_radiograph_tells_no_size_in_the_patient():
    study = stack([0])
    (instance,) = study.instances
    del instance.header.ImagePositionPatient
    assert link([found(0)], study)[0].extent_mm is None
    instance.header.PixelSpacingCalibrationType = "FIDUCIAL"
    assert link([found(0)], study)[0].extent_mm == (10, 10, None)


# --- limits


def test_reading_stops_when_the_plans_seconds_are_over(tmp_path, monkeypatch):
    files = StudyFiles(tmp_path, BodyPartExamined="CHEST")
    files.series("Thorax", 12)
    clock = itertools.count(time.monotonic())  # each look at it takes a second
    monkeypatch.setattr("engine.interview.time.monotonic", lambda: next(clock))
    plan = ONLY_WHERE.model_copy(update={"limits": Limits(seconds_per_study=6)})
    reading = read_study(files.load(), plan, ScriptedRuntime(commissioning=False))
    assert 0 < len(reading.prompts) < 12
    assert reading.partial
    assert "limit of 6 s" in reading.not_read[-1].reason


def test_image_is_shown_to_each_task_in_its_window(tmp_path):
    files = StudyFiles(tmp_path, BodyPartExamined="CHEST", RescaleIntercept=-1024)
    files.series("Thorax", 10)
    seen = {}

    class Looking(ScriptedRuntime):
        def ask(self, image, question, **options):
            seen.setdefault("locate" in question, set()).update(np.unique(image))
            return super().ask(image, question, **options)

    read_study(files.load(), CHEST, Looking(commissioning=False))
    # The slices' values are -1024 to -424 HU: gray in the lung's window, black in the mediastinum's.
    assert max(seen[True]) > 100
    assert seen[False] == {0}
