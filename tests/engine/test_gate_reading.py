"""Acceptance of the gate: a model that contradicts itself, flips sides, invents priors and sizes, and spills boxes.

Nothing wrong reaches the findings, their texts or the report; everything that was said is in the record.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydicom.uid import CTImageStorage

from engine import load_studies, read_study
from engine.errors import ModelError
from engine.findings import Laterality, RunState, StudyReading
from engine.gate import Calibration, unsupported
from engine.grammar import format_boxes
from engine.plan import ImageWords, Plan, PlanObject
from engine.plan.model import BoxLimits
from engine.runtime.scripted import ScriptedAnswer, ScriptedRuntime

PIXELS = np.arange(200 * 100, dtype=np.uint16).reshape(200, 100)
FRONTAL = {"ViewPosition": "PA", "BodyPartExamined": "CHEST"}
RIGHT, LEFT, MIDDLE = (100, 200, 300, 400), (700, 200, 900, 400), (400, 200, 600, 400)
LOCATE, BACK_EN, BACK_ZH = "Please locate", "What is <ref>this</ref>", "图中<ref>这个区域</ref>"
TELL_EN, TELL_ZH, REPORT_EN, REPORT_ZH = "describe the condition", "请定位并描述", "report generation", "生成诊断报告"


def thing(label: str, zh: str, threshold: float | None = None) -> PlanObject:
    return PlanObject(label=label, concept=label.lower(), en=label.lower(), zh=zh, threshold=threshold)


EFFUSION, NODULE = thing("Pleural effusion", "胸腔积液"), thing("Nodule", "结节")
RIGHT_LUNG, LEFT_LUNG = thing("right lung", "右肺"), thing("left lung", "左肺")
OBJECTS = (EFFUSION, NODULE, RIGHT_LUNG, LEFT_LUNG)


@pytest.fixture
def read(make, tmp_path):
    """Read a frontal chest radiograph, unless there is another image, with these answers."""

    def run(answers, *tasks, objects=OBJECTS, calibration=None, **keys) -> StudyReading:
        if not list(tmp_path.glob("*.dcm")):
            make(PIXELS, **FRONTAL)
        words = ImageWords(noun="chest x-ray image", with_article="a chest x-ray image")
        plan = Plan(name="test", tasks=tasks, image=words, objects=objects, **keys)
        (study,), _ = load_studies([tmp_path])
        runtime = ScriptedRuntime(answers, default="?", commissioning=False)
        reading = read_study(study, plan, runtime, calibration=calibration)
        assert StudyReading.from_json(reading.to_json()) == reading
        return reading

    return run


def reasons(reading: StudyReading) -> list[str]:
    return [held.reason for held in reading.held_back]


def shown(reading: StudyReading) -> str:
    """All words that results would show."""
    texts = [text for finding in reading.findings for text in finding.text.values()]
    return "\n".join([*reading.narrative.values(), *texts])


LIES_EN = (
    "Findings: In comparison with the study of ___, the left pleural effusion has increased. There is no pleural "
    "effusion. A right pleural effusion is seen. The nodule measures 12 mm. The lateral view confirms it. "
    "It enhances in the arterial phase. The heart is enlarged. Findings were discussed with Dr. X. "
    "Impression: Unchanged nodule. Pleural effusion."
)
LIES_ZH = (
    "影像诊断：较前片对比，左侧胸腔积液增多。未见胸腔积液。右侧胸腔积液。结节直径约12mm。侧位片示积液。"
    "动脉期强化。心影增大。影像结论：新发结节。胸腔积液。"
)


def test_nothing_wrong_that_a_lying_model_says_is_shown_and_all_of_it_is_recorded(read):
    boxes = [RIGHT, (102, 200, 300, 400), (-5, 0, 100, 100), (0, 0, 1200, 300), (0, 0, 999, 999), (5, 5, 5, 5)]
    located = (
        f"{format_boxes('Pleural effusion', boxes)}, {format_boxes('left lung', [RIGHT])}, "
        f"{format_boxes('right lung', [LEFT])}, {format_boxes('liver', [RIGHT])}, <ref>Nodule</ref><box>[[1, 2"
    )
    answers = {
        TELL_EN: f"{format_boxes('Pleural effusion', [RIGHT])}: A left pleural effusion of 3 cm. It is stable.",
        TELL_ZH: f"{format_boxes('胸腔积液', [RIGHT])}：左侧胸腔积液。较前增多。右侧少量胸腔积液。",
        BACK_EN: "Nodule",
        BACK_ZH: "胸腔积液",
        REPORT_EN: LIES_EN,
        REPORT_ZH: LIES_ZH,
        LOCATE: located,
    }
    reading = read(answers, "detection", "grounded", "identification", "report")

    (finding,) = reading.findings
    assert finding.concept == "pleural effusion"
    assert finding.regions[0].box == pytest.approx((10.01, 40.04, 30.03, 80.08), abs=0.01)
    assert finding.text == {"en": "Pleural effusion", "zh": "右侧少量胸腔积液。"}
    assert finding.certainty == pytest.approx(np.exp(-0.1) / 2)
    assert not finding.calibrated
    assert any("did not confirm" in note for note in finding.notes)
    assert finding.notes[-2:] == ("the report (en) denies it", "the report (zh) denies it")
    assert reading.narrative == {
        "en": "Findings: A right pleural effusion is seen. The heart is enlarged. Impression: Pleural effusion.",
        "zh": "影像诊断：右侧胸腔积液。心影增大。影像结论：胸腔积液。",
    }
    assert not any(unsupported(line) for line in shown(reading).splitlines())
    held = "\n".join(one.words for one in reading.held_back)
    for words in [
        *("In comparison with the study of ___", "There is no pleural effusion.", "The nodule measures 12 mm."),
        *("The lateral view confirms it.", "arterial phase", "discussed with Dr. X.", "Unchanged nodule."),
        *("较前片对比", "未见胸腔积液。", "直径约12mm", "侧位片", "动脉期", "新发结节。"),
        *("left pleural effusion of 3 cm", "It is stable.", "左侧胸腔积液。", "较前增多。"),
        *("[-5, 0, 100, 100]", "[0, 0, 1200, 300]", "[0, 0, 999, 999]", "[5, 5, 5, 5]", "[102, 200, 300, 400]"),
        *("left lung[100, 200, 300, 400]", "right lung[700, 200, 900, 400]", "liver[100, 200, 300, 400]", "[1, 2"),
    ]:
        assert words in held
    assert all(one.reason and one.sop_instance_uid for one in reading.held_back)
    assert {use.answer for use in reading.prompts} >= {located, LIES_EN, LIES_ZH}


# --- boxes


def test_one_place_under_two_names_is_noted_at_both(read):
    both = f"{format_boxes('Pleural effusion', [RIGHT])}, {format_boxes('Nodule', [(105, 200, 300, 400)])}"
    one, other = read({LOCATE: both}, "detection").findings
    assert one.notes[0] == "the same place was also named 'nodule'"
    assert other.notes[0] == "the same place was also named 'pleural effusion'"


def test_boxes_poured_out_over_and_over_are_one_finding(read):
    reading = read({LOCATE: format_boxes("Nodule", [RIGHT] * 60)}, "detection")
    assert len(reading.findings) == 1
    assert reasons(reading).count("the same box was answered twice") == 59


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"smallest_pixels": 30.0}, "smaller than the plan's 30 pixels"),
        ({"largest_part": 0.01}, "larger than 1% of the image"),
    ],
)
def test_plan_says_how_small_and_how_large_a_box_may_be(read, limits, reason):
    reading = read({LOCATE: format_boxes("Nodule", [RIGHT])}, "detection", boxes=BoxLimits(**limits))
    assert reading.state is RunState.UNUSABLE
    assert any(reason in one for one in reasons(reading))


# --- sides


@pytest.mark.parametrize(
    ("elements", "kept"),
    [
        (FRONTAL, "right lung"),
        ({"PatientOrientation": ["R", "F"], **FRONTAL}, "left lung"),
        ({"ViewPosition": "LL", "BodyPartExamined": "CHEST"}, None),
        ({}, None),
    ],
)
def test_name_of_a_side_is_held_against_the_side_of_its_box(read, make, elements, kept):
    make(PIXELS, **elements)
    reading = read(
        {LOCATE: f"{format_boxes('right lung', [RIGHT])}, {format_boxes('left lung', [RIGHT])}"}, "detection"
    )
    names = [finding.concept for finding in reading.findings]
    assert names == ([kept] if kept else ["right lung", "left lung"])


def test_side_of_a_slice_is_that_of_its_orientation(read, make):
    make(
        PIXELS,
        SOPClassUID=CTImageStorage,
        Modality="CT",
        ImageOrientationPatient=[-1, 0, 0, 0, -1, 0],
        ImagePositionPatient=[0, 0, 0],
        PixelSpacing=[1, 1],
    )
    boxes = f"{format_boxes('right lung', [LEFT])}, {format_boxes('left lung', [LEFT])}"
    assert [finding.concept for finding in read({LOCATE: boxes}, "detection").findings] == ["right lung"]


def test_report_of_the_other_breast_is_held_back(read, make):
    make(PIXELS, Modality="MG", ImageLaterality="L")
    answers = {
        LOCATE: format_boxes("Nodule", [LEFT]),
        REPORT_EN: "Findings: Nodule in the right breast. Skin is thin. Impression: Nodule of the left breast.",
        REPORT_ZH: "影像诊断：右乳结节。影像结论：左乳结节。",
    }
    reading = read(answers, "detection", "report")
    assert reading.narrative == {
        "en": "Findings: Skin is thin. Impression: Nodule of the left breast.",
        "zh": "影像结论：左乳结节。",
    }
    assert reading.findings[0].laterality is Laterality.LEFT


def test_box_near_the_midline_contradicts_no_side(read):
    reading = read({LOCATE: format_boxes("left lung", [MIDDLE])}, "detection")
    assert [finding.concept for finding in reading.findings] == ["left lung"]


# --- contradictions, and the states of a run

CLEAR = {REPORT_EN: "Findings: Clear. Impression: No finding.", REPORT_ZH: "影像诊断：清晰。影像结论：未见异常。"}


def test_nothing_found_is_not_what_a_model_says_that_reports_what_it_could_not_locate(read):
    told = {REPORT_EN: "Findings: A nodule. Impression: Nodule.", REPORT_ZH: CLEAR[REPORT_ZH], LOCATE: "No finding"}
    reading = read(told, "detection", "report")
    assert reading.state is RunState.UNUSABLE
    assert reading.partial
    assert reading.narrative == {}
    assert "Impression: Nodule." not in shown(reading)
    assert any("asked to locate it, said is not there" in reason for reason in reasons(reading))


def test_nothing_found_nothing_usable_and_not_run_are_three_states(read, make, tmp_path):
    assert read({LOCATE: "No finding", **CLEAR}, "detection", "report").state is RunState.NO_FINDINGS
    assert read({LOCATE: "lorem ipsum", **CLEAR}, "detection", "report").state is RunState.UNUSABLE
    for path in tmp_path.glob("*.dcm"):
        path.unlink()
    make(PIXELS, Rows=4000)
    reading = read({LOCATE: "No finding", **CLEAR}, "detection", "report")
    assert reading.state is RunState.NOT_RUN
    assert reading.narrative == {}


def test_report_of_which_only_comparison_is_left_says_nothing(read):
    lies = {REPORT_EN: "Findings: Unchanged. Impression: No change.", REPORT_ZH: "影像诊断：同前。影像结论：较前相仿。"}
    reading = read(lies, "report")
    assert reading.state is RunState.UNUSABLE
    assert reading.narrative == {}
    assert len(reading.held_back) == 4


def test_report_that_is_clear_but_for_a_comparison_does_not_say_that_nothing_was_found(read):
    reading = read({**CLEAR, REPORT_EN: "Findings: New nodule. Impression: No finding."}, "report")
    assert reading.state is RunState.UNUSABLE
    assert reading.partial


def test_diagnosis_of_what_could_not_be_located_is_less_certain_and_noted(read):
    answers = {LOCATE: "No finding", "The possible diagnoses": "Pleural Effusion"}
    reading = read(answers, "detection", "classification", label_sets=["chexpert"])
    (finding,) = reading.findings
    assert finding.certainty == pytest.approx(np.exp(-0.1) / 2)
    assert "said that it is not there" in finding.notes[0]


def test_answer_that_claims_a_size_stands_in_no_report(read):
    questions = [{"en": "How large is it?", "zh": "多大？", "in_narrative": True}]
    reading = read(
        {"How large is it?": "12 mm", "多大？": "很大", LOCATE: format_boxes("Nodule", [RIGHT])},
        *("detection", "vqa"),
        questions=questions,
    )
    assert reading.narrative == {"zh": "多大？ 很大"}
    assert [held.words for held in reading.held_back] == ["12 mm"]


# --- certainty


@pytest.mark.parametrize(("logprob", "kept"), [(-0.1, True), (-1.0, False)])
def test_finding_below_its_labels_threshold_is_held_back(read, logprob, kept):
    answers = {LOCATE: ScriptedAnswer(text=format_boxes("Nodule", [RIGHT]), logprob=logprob)}
    reading = read(answers, "detection", objects=(thing("Nodule", "结节", 0.5), EFFUSION))
    assert bool(reading.findings) is kept
    assert reading.state is (RunState.FINDINGS if kept else RunState.UNUSABLE)
    if not kept:
        assert reasons(reading) == ["the finding is not sure enough: its certainty is 0.37, and the plan wants 0.5"]


def test_disagreement_can_bring_a_finding_below_its_threshold(read):
    answers = {LOCATE: format_boxes("Nodule", [RIGHT]), BACK_EN: "rib", BACK_ZH: "肋骨"}
    reading = read(answers, "detection", "identification", objects=(thing("Nodule", "结节", 0.5),))
    assert reading.findings == ()


def test_certainty_is_calibrated_where_the_site_measured_the_label(read, tmp_path):
    answers = {LOCATE: f"{format_boxes('Nodule', [RIGHT])}, {format_boxes('Pleural effusion', [LEFT])}"}
    digest = ScriptedRuntime(answers, default="?", commissioning=False).identity.weights_digest
    curve = {"certainty": [0.0, 1.0], "observed": [0.0, 0.5]}
    (tmp_path / "site.json").write_text(json.dumps({"weights_digest": digest, "labels": {"nodule": curve}}))
    calibration = Calibration.load(tmp_path / "site.json")
    objects = (thing("Nodule", "结节", 0.4), EFFUSION)
    reading = read(answers, "detection", objects=objects, calibration=calibration)
    by_name = {finding.concept: finding for finding in reading.findings}
    assert by_name["nodule"].calibrated
    assert by_name["nodule"].certainty == pytest.approx(np.exp(-0.1) / 2)
    assert not by_name["pleural effusion"].calibrated
    assert reading.decoding["calibration"] == calibration.digest


def test_calibration_of_other_weights_is_refused(read):
    curve = {"certainty": [0.0, 1.0], "observed": [0.0, 0.5]}
    calibration = Calibration.model_validate({"weights_digest": "0" * 64, "labels": {"*": curve}})
    with pytest.raises(ModelError, match="other weights"):
        read({}, "detection", calibration=calibration)


def test_what_the_model_says_when_asked_back_is_not_quoted_with_a_claim_in_it(read):
    answers = {LOCATE: format_boxes("Nodule", [RIGHT]), BACK_EN: "a 12 mm mass, new since the prior", BACK_ZH: "结节"}
    (finding,) = read(answers, "detection", "identification").findings
    assert finding.notes[0] == "asked back (en), the model did not confirm the name but said something else"


def test_description_that_is_held_back_is_not_said_to_be_of_another_place(read):
    told = f"{format_boxes('Nodule', [RIGHT])}: It is unchanged."
    reading = read({TELL_EN: told, LOCATE: format_boxes("Nodule", [RIGHT])}, "detection", "grounded")
    assert [reason for reason in reasons(reading) if "another place" in reason] == [
        "the description is of another place than the box, or of none"  # of the Chinese one, which is "?"
    ]
    assert reading.findings[0].text["en"] == "Nodule"
