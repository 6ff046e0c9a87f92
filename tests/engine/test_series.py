"""Of a study's many series a plan reads the right ones, and the reading says which, which not, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_files import image_dataset, store
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
from study_files import CORONAL, MR, StudyFiles

from engine import choose_plan, read_study
from engine.geometry import Plane, position_of, spacing_of
from engine.plan import FramePolicy, SeriesRules, load_plans, mismatch
from engine.runtime.scripted import ScriptedRuntime
from engine.selection import Selection, select_frames, spread_by_place
from engine.series import Slice, Volume, is_derived, left_out, rank_volumes
from engine.study import Instance, Series, Study

CLINICAL = ScriptedRuntime(commissioning=False)


@pytest.fixture(scope="module")
def chest_study(tmp_path_factory) -> StudyFiles:
    """Eight series: two kernels, thick and thin, a reformat, a localizer, a dose page, a repeat."""
    study = StudyFiles(tmp_path_factory.mktemp("chest"), BodyPartExamined="CHEST", StudyDescription="CT chest")
    study.series("Topogram", 2, step=300, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ConvolutionKernel="Tr20")
    study.series("Thorax 3.5 Br40", 11, step=3.5, ConvolutionKernel="Br40")
    study.series("Thorax 1.0 Br40", 36, step=1, ConvolutionKernel="Br40")
    study.series("Thorax 1.0 Bl57", 36, step=1, ConvolutionKernel="Bl57")
    study.series("Thorax 3.5 Bl57", 11, step=3.5, ConvolutionKernel="Bl57")
    study.series(
        "Thorax cor", 12, step=3, axes=CORONAL, ConvolutionKernel="Br40", ImageType=["DERIVED", "SECONDARY", "REFORMAT"]
    )
    study.series("Thorax 1.0 Br40 repeat", 36, step=1, ConvolutionKernel="Br40", SeriesTime="113000")
    study.series("Dose Report", 1, SOPClassUID=SecondaryCaptureImageStorage, ImageType=["DERIVED", "SECONDARY"])
    return study


def names_read(files: StudyFiles, selection: Selection) -> list[str]:
    names = {uid: name for name, uid in files.uids.items()}
    return [names[one.series_instance_uid] for one in selection.series]


def why_not(files: StudyFiles, selection: Selection) -> dict[str, str]:
    names = {uid: name for name, uid in files.uids.items()}
    return {names[one.series_instance_uid]: one.reason for one in selection.not_read}


def test_right_one_of_eight_series_is_read_and_the_others_say_why_not(chest_study):
    files = chest_study
    study = files.load()
    assert len(study.series) == 8
    plan = choose_plan(study, CLINICAL.identity)
    assert plan.name == "ct-chest"
    selection = select_frames(study, plan)
    assert names_read(files, selection) == ["Thorax 1.0 Br40 repeat"]
    assert "axial, 1 mm, soft kernel, 36 slices: the best of 5 of its kind" in selection.series[0].reason
    assert len(selection.frames) == 36
    reasons = why_not(files, selection)
    for name, word in {
        "Topogram": "localizer",
        "Thorax 3.5 Br40": "prefers slices of 1 to 3 mm",
        "Thorax 1.0 Br40": "this one is older",
        "Thorax 1.0 Bl57": "the kernel of this one is sharp and the plan prefers soft",
        "Thorax 3.5 Bl57": "the kernel of this one is sharp",
        "Thorax cor": "derived from other images",
        "Dose Report": "dose report",
    }.items():
        assert word in reasons.pop(name)
    assert not reasons


def test_reading_records_which_series_was_read_and_why(chest_study):
    files = chest_study
    study = files.load()
    plan = load_plans()["ct-chest"].model_copy(update={"frames": FramePolicy(slices_per_series=1)})
    reading = read_study(study, plan, ScriptedRuntime(commissioning=False))
    assert [one.series_instance_uid for one in reading.series] == [files.uids["Thorax 1.0 Br40 repeat"]]
    assert {files.uids[name] for name in files.uids} == {one.series_instance_uid for one in reading.not_read}
    assert type(reading).from_json(reading.to_json()) == reading


def test_what_is_not_wanted_is_read_where_there_is_nothing_else(tmp_path):
    files = StudyFiles(tmp_path, BodyPartExamined="CHEST")
    files.series("cor", 20, axes=CORONAL, ImageType=["DERIVED", "SECONDARY", "REFORMAT"], ConvolutionKernel="Bl57")
    selection = select_frames(files.load(), load_plans()["ct-chest"])
    assert names_read(files, selection) == ["cor"]


def test_short_planning_scan_and_screenshot_are_left_out(tmp_path):
    files = StudyFiles(tmp_path, BodyPartExamined="CHEST")
    files.series("Premonitoring", 3, step=1)
    files.series("Screen Save", 1, SOPClassUID=SecondaryCaptureImageStorage)
    files.series("Thorax", 20)
    selection = select_frames(files.load(), load_plans()["ct-chest"])
    assert names_read(files, selection) == ["Thorax"]
    reasons = why_not(files, selection)
    assert "fewer than 10 slices" in reasons["Premonitoring"]
    assert "picture of a screen" in reasons["Screen Save"]


def test_contrast_phase_that_the_plan_prefers_is_read(tmp_path):
    files = StudyFiles(tmp_path, BodyPartExamined="ABDOMEN", ConvolutionKernel="STANDARD")
    for name in ("Abdomen without contrast", "arterial", "Abd_portal_venous", "delayed 5 min"):
        files.series(name, 10, step=3)
    selection = select_frames(files.load(), load_plans()["ct-abdomen"])
    assert names_read(files, selection) == ["Abd_portal_venous"]
    assert all(
        "reads 1 of a study's volumes and prefers portal venous" in x for x in why_not(files, selection).values()
    )


def test_best_series_of_each_mr_sequence_is_read_in_the_plans_order(tmp_path):
    files = StudyFiles(tmp_path, BodyPartExamined="BRAIN", **MR)
    files.series("localizer", 9)
    files.series("t1_se_tra", 9)
    files.series("t1_se_tra_km", 9, ContrastBolusAgent="Gd")
    files.series("t2_tse_tra", 9)
    files.series("t2_tse_sag", 9, axes=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    files.series("t2_flair_tra", 9)
    files.series("ep2d_diff_TRACEW", 9, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"])
    files.series("ep2d_diff_ADC", 9, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])
    selection = select_frames(files.load(), load_plans()["mr-head"])
    assert names_read(files, selection) == ["t2_flair_tra", "ep2d_diff_TRACEW", "t1_se_tra_km", "t2_tse_tra"]
    reasons = why_not(files, selection)
    assert "localizer" in reasons["localizer"]
    assert "this one is sagittal and the plan prefers axial" in reasons["t2_tse_sag"]
    assert "derived" in reasons["ep2d_diff_ADC"]
    assert "reads 4 of a study's volumes and prefers FLAIR" in reasons["t1_se_tra"]


@pytest.mark.parametrize(
    ("elements", "trait", "value"),
    [
        ({"ConvolutionKernel": "B70f"}, "kernel", "sharp"),
        ({"ConvolutionKernel": ["Br40d", "3"]}, "kernel", "soft"),
        ({"ConvolutionKernel": "BONEPLUS"}, "kernel", "sharp"),
        ({"ConvolutionKernel": "STANDARD"}, "kernel", "soft"),
        ({"ConvolutionKernel": "FC08"}, "kernel", "soft"),
        ({"ConvolutionKernel": "FC52"}, "kernel", "sharp"),
        ({"ConvolutionKernel": "YB"}, "kernel", "sharp"),
        ({"ConvolutionKernel": "11"}, "kernel", None),
        ({}, "kernel", None),
        ({"SeriesDescription": "Abdomen 门静脉期", "SpecificCharacterSet": "ISO_IR 192"}, "phase", "portal venous"),
        ({"SeriesDescription": "w/o"}, "phase", "plain"),
        ({"ContrastBolusAgent": "Iomeron"}, "phase", "contrast"),
        ({"SeriesDescription": "Thorax"}, "phase", None),
        ({**MR, "ProtocolName": "SAG MPRAGE 220 FOV"}, "sequence", "T1"),
        ({**MR, "SeriesDescription": "t2*_gre"}, "sequence", "SWI"),
        ({**MR, "SeriesDescription": "AX T1 FLAIR"}, "sequence", "T1"),
        ({**MR, "AcquisitionContrast": "FLUID_ATTENUATED"}, "sequence", "FLAIR"),
        ({**MR, "ScanningSequence": "SE", "RepetitionTime": 4000, "EchoTime": 90}, "sequence", "T2"),
        ({**MR, "ScanningSequence": "SE", "RepetitionTime": 9000, "EchoTime": 90, "InversionTime": 2500}, "sequence",
         "FLAIR"),
        ({**MR, "ScanningSequence": "GR", "RepetitionTime": 4000, "EchoTime": 90}, "sequence", None),
        ({"SeriesDescription": "t1 lung"}, "sequence", None),
    ],
)  # fmt: skip
def test_traits_are_told_by_headers_and_unknown_where_they_are_not(make_instance, elements, trait, value):
    slices = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    instance = make_instance(np.zeros((4, 4), np.uint16), **({"Modality": "CT"} | slices | elements))
    assert getattr(Volume.of(series_of(instance), [instance]), trait) == value


def series_of(instance) -> Series:
    return Series(instance.series_instance_uid, instance.modality, (instance,))


def test_slices_are_chosen_by_position_over_a_gap(tmp_path):
    files = StudyFiles(tmp_path)
    # Ten slices close together, and one far below.
    uids = files.series("gap", 11, positions=[*range(10), 100])
    plan = load_plans()["general"].model_copy(update={"frames": FramePolicy(slices_per_series=2)})
    frames = select_frames(files.load(), plan).frames
    assert [uids.index(instance.sop_instance_uid) for instance, _ in frames] == [9, 10]


@given(
    st.lists(st.floats(0, 300).map(lambda mm: round(mm, 1)), min_size=1, max_size=40, unique=True), st.integers(1, 50)
)
def test_so_many_slices_are_chosen_as_are_wanted_in_the_order_of_their_places(places, count):
    chosen = [one.plane.place for one in spread_by_place(slices_at(places), count)]
    assert len(chosen) == min(count, len(places))
    assert chosen == sorted(set(chosen))
    if count >= 2 and len(places) > count:  # both halves of the body are seen, if anything was taken there
        middle = (min(places) + max(places)) / 2
        assert min(chosen) <= middle <= max(chosen)


def slices_at(places) -> list[Slice]:
    right, down = np.eye(3)[:2]
    planes = [Plane(np.array([0, 0, mm]), right, down, None) for mm in sorted(places)]
    return [Slice(None, 1, plane) for plane in planes]


def test_frames_of_an_enhanced_object_are_slices(make_instance):
    def item(**elements) -> Dataset:
        dataset = Dataset()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return dataset

    frames = [item(PlanePositionSequence=Sequence([item(ImagePositionPatient=[0, 0, z])])) for z in (30, 10, 20, 40, 0)]
    shared = item(
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[1, 1], SliceThickness=10)]),
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
    )
    instance = make_instance(
        np.zeros((5, 4, 4), np.uint16),
        Modality="CT",
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
    )
    study = Study(instance.study_instance_uid, (series_of(instance),))
    plan = load_plans()["general"].model_copy(update={"frames": FramePolicy(slices_per_series=3)})
    selection = select_frames(study, plan)
    assert [frame for _, frame in selection.frames] == [2, 3, 1]
    assert "axial, 10 mm, 5 slices" in selection.series[0].reason


def test_volume_that_was_passed_twice_is_read_once(tmp_path):
    files = StudyFiles(tmp_path)
    files.series("dynamic", 20, positions=[*range(10), *range(10)])
    plan = load_plans()["general"].model_copy(update={"frames": FramePolicy(slices_per_series="all")})
    selection = select_frames(files.load(), plan)
    assert len(selection.frames) == 10
    assert "10 of the series' 20 images" in selection.not_read[0].reason


def test_task_may_be_asked_of_fewer_slices_than_are_looked_at(tmp_path):
    files = StudyFiles(tmp_path, BodyPartExamined="CHEST")
    files.series("Thorax", 12)
    reading = read_study(files.load(), load_plans()["ct-chest"], ScriptedRuntime(commissioning=False))
    tasks = [use.task for use in reading.prompts if use.language == "en"]
    assert (tasks.count("detection"), tasks.count("report")) == (12, 3)


# --- images that stand alone


def mammogram(folder, name: str, **elements) -> str:
    dataset = image_dataset(
        np.zeros((8, 8), np.uint16),
        **{
            "StudyInstanceUID": "1.2.3",
            "Modality": "MG",
            "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
            "PresentationIntentType": "FOR PRESENTATION",
            **elements,
        },
    )
    store(dataset, folder / f"{name}.dcm")
    return str(dataset.SOPInstanceUID)


def load(folder) -> Study:
    return StudyFiles(folder).load()


def test_all_four_views_are_read_and_raw_images_only_where_nothing_else_is(tmp_path):
    shown = [
        mammogram(tmp_path, f"{side}{view}", ImageLaterality=side, ViewPosition=view)
        for side in "LR"
        for view in ("CC", "MLO")
    ]
    raw = {
        "SOPClassUID": DigitalMammographyXRayImageStorageForProcessing,
        "PresentationIntentType": "FOR PROCESSING",
    }
    mammogram(tmp_path, "raw", ImageLaterality="L", ViewPosition="CC", **raw)
    alone = mammogram(tmp_path, "raw-only", ImageLaterality="L", ViewPosition="ML", **raw)
    shown += [mammogram(tmp_path, "untold"), mammogram(tmp_path, "raw-untold", **raw)]
    study = load(tmp_path)
    plan = choose_plan(study, CLINICAL.identity)
    assert plan.name == "mammography"
    selection = select_frames(study, plan)
    assert {instance.sop_instance_uid for instance, _ in selection.frames} == {*shown, alone}
    (left,) = selection.not_read
    assert "for processing" in left.reason


def test_scanned_mammograms_without_view_or_side_are_read_by_the_mammography_plan(tmp_path):
    for number in range(4):
        mammogram(tmp_path, str(number), SOPClassUID=SecondaryCaptureImageStorage, ConversionType="WSD")
    study = load(tmp_path)
    plan = choose_plan(study, CLINICAL.identity)
    assert plan.name == "mammography"
    assert len(select_frames(study, plan).frames) == 4


def test_each_view_of_a_tomosynthesis_is_read(tmp_path):
    files = StudyFiles(tmp_path, Modality="MG", SOPClassUID=BreastTomosynthesisImageStorage)
    for view in ("CC", "MLO"):
        for side in "LR":
            files.series(f"{side} {view}", 5, ImageLaterality=side, ViewPosition=view)
    study = files.load()
    selection = select_frames(study, choose_plan(study, CLINICAL.identity))
    assert len(names_read(files, selection)) == 4
    assert len(selection.frames) == 4 * 3


def test_stations_that_lie_beside_one_another_are_both_read(tmp_path):
    files = StudyFiles(tmp_path, **MR)
    files.series("t2 upper", 9, step=4)
    files.series("t2 lower", 9, step=4, origin=(0, 0, -300))
    files.series("t2 lower again", 9, step=4, origin=(0, 0, -300))
    selection = select_frames(files.load(), load_plans()["general"])
    assert sorted(names_read(files, selection)) == ["t2 lower again", "t2 upper"]


def test_label_of_a_slide_is_never_read(tmp_path):
    for kind in ("VOLUME", "LABEL", "OVERVIEW"):
        mammogram(tmp_path, kind, Modality="SM", ImageType=["ORIGINAL", "PRIMARY", kind])
    study = load(tmp_path)
    (frame,) = select_frames(study, choose_plan(study, CLINICAL.identity)).frames
    assert frame[0].header.ImageType[2] == "VOLUME"


def test_what_the_plan_is_not_for_is_left_out(tmp_path):
    files = StudyFiles(tmp_path, BodyPartExamined="CHEST")
    files.series("Thorax", 12)
    files.series("Neck", 12, BodyPartExamined="NECK")
    files.series("MR", 12, **MR)
    selection = select_frames(files.load(), load_plans()["ct-chest"])
    reasons = why_not(files, selection)
    assert "header does not say that it shows" in reasons["Neck"]
    assert "modality is not CT" in reasons["MR"]


def test_damaged_image_counts_only_where_it_is_missed(tmp_path):
    files = StudyFiles(tmp_path, BodyPartExamined="CHEST")
    files.series("Thorax", 12, ConvolutionKernel="Br40")
    files.series("Thorax sharp", 12, ConvolutionKernel="Bl57")
    study = files.load()
    damaged = study.series[1].instances[0]
    damaged.header.Rows = 0
    assert not select_frames(study, load_plans()["ct-chest"]).damaged
    study.series[0].instances[0].header.Rows = 0
    selection = select_frames(study, load_plans()["ct-chest"])
    assert selection.damaged
    assert len(selection.frames) == 11


def test_rules_can_read_everything(chest_study):
    files = chest_study
    rules = SeriesRules(leave_out=(), volumes=100)
    plan = load_plans()["general"].model_copy(update={"series": rules})
    assert "Topogram" in names_read(files, select_frames(files.load(), plan))


ANYTHING = (
    "ImageType", "ConvolutionKernel", "SeriesDescription", "BodyPartExamined", "AcquisitionContrast", "PatientAge",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SeriesTime", "RepetitionTime",
    "PerFrameFunctionalGroupsSequence", "AnatomicRegionSequence", "ViewCodeSequence", "SequenceOfUltrasoundRegions",
    "ImageLaterality", "ContrastBolusAgent", "InversionTime",
)  # fmt: skip


@pytest.mark.parametrize("odd", [7, 1.5, ["A", "B"], [3, 4], b"bytes", Sequence([Dataset()])], ids=str)
def test_headers_that_hold_anything_break_nothing(odd):
    header = Dataset()
    for keyword in ANYTHING:
        element = DataElement(keyword, "UN", b"", already_converted=True)
        element._value = odd  # as a file with a false value representation gives it
        header._dict[element.tag] = element
    instance = Instance(Path("none"), header, "1.2.1", "1.2.840.10008.5.1.4.1.1.4", "1.2.2", "1.2.3", 1)
    series = Series("1.2.2", "MR", (instance,))
    volume = Volume(series, (Slice(instance, 1, Plane(np.zeros(3), *np.eye(3)[:2], None)),))
    rules = SeriesRules(thickness_mm=(1, 2), phase=("plain",), sequence=("T2",), kernel="soft", orientation="axial")
    assert rank_volumes([volume], rules)[0].read
    left_out(instance, rules)
    is_derived(instance)
    assert position_of(header) is None
    spacing_of(header)
    for plan in load_plans().values():
        mismatch(plan.match, instance)


def test_damaged_headers_are_no_volume(make_instance):
    told = {"ImagePositionPatient": [1, 2], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    instance = make_instance(np.zeros((4, 4), np.uint16), Modality="CT", **told)
    assert Volume.of(series_of(instance), [instance]) is None
