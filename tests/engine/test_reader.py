"""What a model answers becomes a reading: checked, asked back, and complete about what was not read or not shown."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from pydicom.uid import BasicTextSRStorage, CTImageStorage, generate_uid

from engine import CancelToken, choose_plan, load_plans, load_studies, read_study
from engine.errors import ReadingCancelledError, RuntimeLostError
from engine.findings import Laterality, RunState, StudyReading
from engine.grammar import format_boxes
from engine.plan import FramePolicy, Limits
from engine.runtime.protocol import Answer
from engine.runtime.scripted import LOST, ScriptedAnswer, ScriptedRuntime

PIXELS = np.arange(200 * 100, dtype=np.uint16).reshape(200, 100)  # 200 rows, 100 columns
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

DETECT, BACK_EN, BACK_ZH = "Please locate <ref>disc</ref>, ", "What is <ref>this</ref>", "图中<ref>这个区域</ref>"
TELL_EN, TELL_ZH, REPORT_EN, REPORT_ZH = "describe the condition", "请定位并描述", "report generation", "生成诊断报告"
BOX = (100, 200, 300, 400)
SOUND = {
    DETECT: format_boxes("disc", [BOX]),
    BACK_EN: "disc",
    BACK_ZH: "圆盘",
    TELL_EN: f"{format_boxes('disc', [(105, 200, 300, 405)])}: A bright disc in the upper left.",
    TELL_ZH: f"{format_boxes('圆盘', [BOX])}：左上部见一高密度圆盘。",
    REPORT_EN: "Findings: A bright disc in the upper left. Impression: disc.",
    REPORT_ZH: "影像诊断：左上部见一高密度圆盘。影像结论：圆盘。",
}


@pytest.fixture
def read(make, tmp_path):
    """Read what lies in the folder, one radiograph unless there are others, with these answers."""

    def run(answers=None, *, plan="phantom", change=None, runtime=None, **options) -> StudyReading:
        if not list(tmp_path.glob("*.dcm")):
            make(PIXELS)
        (study,), _ = load_studies([tmp_path])
        runtime = runtime or ScriptedRuntime(SOUND | (answers or {}), commissioning=plan == "phantom")
        chosen = load_plans()[plan].model_copy(update=change or {})
        reading = read_study(study, chosen, runtime, now=NOW, **options)
        assert StudyReading.from_json(reading.to_json()) == reading
        return reading

    return run


def reasons(reading: StudyReading) -> list[str]:
    return [held.reason for held in reading.held_back]


# --- a sound answer


def test_box_becomes_a_finding_in_both_languages(read):
    reading = read()
    assert reading.state is RunState.FINDINGS
    (finding,) = reading.findings
    assert finding.label == finding.concept == "disc"
    assert finding.names == {"en": "disc", "zh": "圆盘"}
    assert finding.text == {"en": "A bright disc in the upper left.", "zh": "左上部见一高密度圆盘。"}
    assert finding.notes == ()
    (region,) = finding.regions
    assert region.box == pytest.approx((100 / 999 * 100, 200 / 999 * 200, 300 / 999 * 100, 400 / 999 * 200))
    assert region.frame == 1
    assert reading.narrative == {"en": SOUND[REPORT_EN], "zh": SOUND[REPORT_ZH]}
    assert reading.held_back == ()
    assert not reading.partial


def test_reading_records_model_prompts_images_and_time(read):
    reading = read()
    assert reading.created == NOW
    assert reading.plan == "phantom"
    assert reading.model.commissioning
    assert len(reading.prompts_version) == 64
    (image,) = reading.images
    assert (image.rows, image.columns, image.frame) == (200, 100, 1)
    assert [(use.task, use.language) for use in reading.prompts] == [
        ("detection", "en"),
        *[("grounded", "en"), ("grounded", "zh")],
        *[("identification", "en"), ("identification", "zh")],
        *[("report", "en"), ("report", "zh")],
    ]
    assert reading.prompts[0].answer == SOUND[DETECT]


def test_same_study_and_answers_give_the_same_reading(read):
    assert read().digest == read().digest


def test_model_sees_the_source_grid_and_is_asked_about_its_own_box(read):
    runtime = ScriptedRuntime(SOUND)
    read(runtime=runtime)
    assert {(call.rows, call.columns) for call in runtime.calls} == {(200, 100)}
    (back,) = (call.question for call in runtime.calls if BACK_EN in call.question)
    assert "<box>[[100, 200, 300, 400]]</box>" in back


def test_only_the_languages_wanted_are_asked_for(read):
    reading = read(languages=("zh",))
    assert set(reading.narrative) == {"zh"}
    (finding,) = reading.findings
    assert set(finding.names) == set(finding.text) == {"zh"}
    assert ("grounded", "en") not in [(use.task, use.language) for use in reading.prompts]


def test_each_of_several_boxes_gets_its_own_sentence(read):
    other = (500, 500, 900, 900)
    reading = read(
        {
            DETECT: format_boxes("disc", [BOX, other]),
            TELL_EN: f"{format_boxes('disc', [BOX, other])}: A bright disc in the upper left. A dark disc low.",
            TELL_ZH: f"{format_boxes('圆盘', [BOX, other])}：左上部见一高密度圆盘。右下部见一低密度圆盘。",
        }
    )
    texts = {finding.text["en"]: finding.text["zh"] for finding in reading.findings}
    assert texts == {
        "A bright disc in the upper left.": "左上部见一高密度圆盘。",
        "A dark disc low.": "右下部见一低密度圆盘。",
    }


# --- certainty and agreement


def test_certainty_is_the_mean_probability_of_the_boxs_own_tokens(read):
    class Doubtful(ScriptedRuntime):
        def ask(self, image, question, **options) -> Answer:
            answer = super().ask(image, question, **options)
            if DETECT not in question:
                return answer
            second = answer.text.index("cross") - len("<ref>")
            logprobs = tuple(-0.2 if place < second else -1.5 for place in range(len(answer.text)))
            return Answer(answer.text, answer.token_ids, (), logprobs, "stop", answer.offsets)

    boxes = f"{format_boxes('disc', [BOX])}, {format_boxes('cross', [(500, 500, 900, 900)])}"
    reading = read(runtime=Doubtful(SOUND | {DETECT: boxes, BACK_EN: ["disc", "cross"], BACK_ZH: ["圆盘", "十字"]}))
    assert [f.certainty for f in reading.findings] == pytest.approx([math.exp(-0.2), math.exp(-1.5)])
    assert not any(f.calibrated for f in reading.findings)


def test_name_that_is_not_confirmed_lowers_the_certainty_and_is_noted(read):
    (sure,) = read().findings
    (finding,) = read({BACK_EN: "ring"}).findings
    assert finding.concept == "disc"
    assert finding.certainty == pytest.approx(sure.certainty / 2)
    assert finding.notes == ("asked back (en), the model did not confirm the name but said 'ring'",)


@pytest.mark.parametrize("answer", ["未见异常", "", "圆环", "blah"])
def test_chinese_name_falls_back_to_the_label_table(read, answer):
    (sure,) = read().findings
    (finding,) = read({BACK_ZH: answer}).findings
    assert finding.names["zh"] == "圆盘"
    assert finding.certainty < sure.certainty
    assert "the name (zh) is from the label table" in finding.notes


@pytest.mark.parametrize(
    "told",
    [
        f"{format_boxes('disc', [(600, 600, 900, 900)])}: A dark disc in the lower right.",
        "No finding",
        "A disc somewhere.",
        f"{format_boxes('disc', [BOX])}",
        "<ref>disc</ref><box>[[1, 2",
    ],
)
def test_sentence_about_another_place_is_not_used(read, told):
    reading = read({TELL_EN: told})
    (finding,) = reading.findings
    assert finding.text["en"] == "Disc"
    assert finding.text["zh"] == "左上部见一高密度圆盘。"
    assert finding.notes == ("the text (en) is the name from the label table",)
    assert any("another place" in reason for reason in reasons(reading))


# --- boxes that may not be shown


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("<ref>disc</ref><box>[[100, 200, 1100, 400]]</box>", "beyond the image"),
        ("<ref>disc</ref><box>[[-5, 200, 300, 400]]</box>", "beyond the image"),
        ("<ref>disc</ref><box>[[100, 200, 105, 400]]</box>", "smaller than a pixel"),
        ("<ref>disc</ref><box>[[0, 0, 0, 0]]</box>", "cannot be read as a box"),
        ("<ref>disc</ref><box>[[100, 200", "cannot be read as a box"),
        ("<ref>liver</ref><box>[[100, 200, 300, 400]]</box>", "nothing that was asked for"),
        ("<box>[[100, 200, 300, 400]]</box>", "nothing that was asked for"),
        ("I cannot help with that.", "names no region"),
        ("", "names no region"),
    ],
)
def test_answer_that_cannot_be_shown_is_held_back_and_the_reading_is_unusable(read, answer, reason):
    reading = read({DETECT: answer})
    assert reading.state is RunState.UNUSABLE
    assert reading.findings == ()
    assert reading.narrative == {}
    assert reading.partial
    assert any(reason in held for held in reasons(reading))


def test_sound_boxes_are_shown_beside_those_held_back(read):
    reading = read({DETECT: f"{SOUND[DETECT]}, <ref>ring</ref><box>[[1, 2, 3000, 4]]</box>"})
    assert [f.label for f in reading.findings] == ["disc"]
    assert len(reading.held_back) == 1
    assert reading.held_back[0].words == "ring[1, 2, 3000, 4]"


def test_duplicates_are_merged(read):
    reading = read({DETECT: format_boxes("disc", [BOX, (101, 200, 300, 400), (500, 500, 900, 900)])})
    assert len(reading.findings) == 2
    assert reasons(reading).count("the same box was answered twice") == 1


def test_same_place_under_another_name_is_no_duplicate(read):
    both = f"{format_boxes('disc', [BOX])}, {format_boxes('ring', [BOX])}"
    assert [f.label for f in read({DETECT: both}).findings] == ["disc", "ring"]


def test_answer_that_broke_off_makes_the_reading_partial(read):
    reading = read({DETECT: ScriptedAnswer(text=SOUND[DETECT] + ", <ref>cross</ref><box>[[5, 6", finish="length")})
    assert [f.label for f in reading.findings] == ["disc"]
    assert reading.partial
    assert any("broke off" in reason for reason in reasons(reading))


def test_words_no_dicom_text_can_hold_are_cleaned(read):
    reading = read({TELL_EN: f"{format_boxes('disc', [BOX])}: A\x00 bright\x1b disc\ud800."})
    assert reading.findings[0].text["en"] == "A bright disc?."


# --- nothing found, nothing usable, not run


def test_no_finding_is_a_result_of_its_own(read):
    nothing = {
        REPORT_EN: "Findings: No insert is seen. Impression: No finding.",
        REPORT_ZH: "影像诊断：未见插件。影像结论：未见异常。",
    }
    reading = read({DETECT: "No finding", **nothing})
    assert reading.state is RunState.NO_FINDINGS
    assert reading.narrative["en"].startswith("Findings: No insert")
    assert not reading.partial


@pytest.mark.parametrize("answer", ["lorem ipsum", "", "<ref>disc</ref><box>[[1, 2"])
def test_report_without_a_reports_form_is_held_back(read, answer):
    reading = read({REPORT_EN: answer})
    assert set(reading.narrative) == {"zh"}
    assert reasons(reading) == ["the answer has not the form of a report"]


def test_study_without_a_readable_image_was_not_run(read, make):
    make(np.zeros((4, 4), np.uint8), BitsStored=99)
    reading = read()
    assert reading.state is RunState.NOT_RUN
    assert reading.partial
    assert "cannot be decoded" in reading.not_read[0].reason
    assert reading.prompts == ()


# --- which images


def test_one_unreadable_image_does_not_stop_the_others(read, make):
    study = generate_uid()
    make(PIXELS, StudyInstanceUID=study)
    make(PIXELS, StudyInstanceUID=study, Rows=4000)
    make(PIXELS, StudyInstanceUID=study, Rows=60000, Columns=60000)
    reading = read()
    assert reading.state is RunState.FINDINGS
    assert reading.partial
    assert len(reading.images) == 1
    assert len(reading.not_read) == 2
    assert reading.narrative["en"] == SOUND[REPORT_EN]


def test_report_of_several_images_says_which_is_which(read, make):
    study = generate_uid()
    for _ in range(2):
        make(PIXELS, StudyInstanceUID=study)
    reading = read()
    assert reading.narrative["en"] == f"Image 1: {SOUND[REPORT_EN]}\nImage 2: {SOUND[REPORT_EN]}"
    assert reading.narrative["zh"].startswith("图像1：影像诊断")


def test_objects_that_are_no_images_are_recorded_and_nothing_is_partial(read, make):
    study, series = generate_uid(), generate_uid()
    make(PIXELS, StudyInstanceUID=study)
    for _ in range(3):
        make(PIXELS, StudyInstanceUID=study, SeriesInstanceUID=series, SOPClassUID=BasicTextSRStorage)
    reading = read()
    assert not reading.partial
    (note,) = reading.not_read
    assert note.series_instance_uid == series
    assert "3 objects" in note.reason
    assert "structured report" in note.reason


def test_middle_slice_of_a_volume_is_read_and_the_rest_recorded_once(read, make):
    same = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "SOPClassUID": CTImageStorage}
    orientation = [1, 0, 0, 0, 1, 0]
    by_place = {}
    for number, z in enumerate([5.0, -5.0, 0.0, 10.0, -10.0]):  # not in the order of their numbers
        path = make(
            PIXELS, InstanceNumber=number, ImagePositionPatient=[0, 0, z], ImageOrientationPatient=orientation, **same
        )
        by_place[z] = path.stem
    reading = read()
    assert [image.sop_instance_uid for image in reading.images] == [by_place[0.0]]
    (note,) = reading.not_read
    assert note.sop_instance_uid is None
    assert "reads 1 of the series' 5 images" in note.reason
    assert not reading.partial


def test_middle_frame_of_a_multi_frame_object_is_read(read, make):
    make(np.stack([PIXELS] * 7))
    reading = read()
    assert [image.frame for image in reading.images] == [4]
    assert reading.findings[0].regions[0].frame == 4
    assert "reads 1 of the series' 7 images" in reading.not_read[0].reason


def test_plan_says_how_many_frames_are_read(read, make):
    make(np.stack([PIXELS] * 10))
    reading = read(change={"frames": FramePolicy(frames_per_instance=3)})
    assert [image.frame for image in reading.images] == [2, 6, 9]


def test_limit_of_questions_stops_before_the_next_image(read, make):
    study = generate_uid()
    for _ in range(3):
        make(PIXELS, StudyInstanceUID=study)
    reading = read(change={"limits": Limits(questions_per_study=5)})
    assert len(reading.images) == 1
    assert reading.partial
    assert all("limit of 5 questions" in note.reason for note in reading.not_read)


@pytest.mark.parametrize(
    ("elements", "side"),
    [
        ({"ImageLaterality": "L"}, Laterality.LEFT),
        ({"Laterality": "R"}, Laterality.RIGHT),
        ({"ImageLaterality": "B"}, Laterality.BILATERAL),
        ({"ImageLaterality": "U"}, Laterality.UNKNOWN),
        ({"SeriesDescription": "left breast"}, Laterality.UNKNOWN),
    ],
)
def test_side_is_the_headers_and_never_guessed(read, make, elements, side):
    make(PIXELS, **elements)
    assert read().findings[0].laterality is side


# --- other models


def test_general_plan_gives_a_report_as_an_image_level_finding(read):
    reading = read(plan="general")
    assert reading.state is RunState.FINDINGS
    (finding,) = reading.findings
    assert finding.concept == "report"
    assert finding.regions == ()
    assert finding.text == {"en": "disc.", "zh": "圆盘。"}
    assert reading.narrative["en"] == SOUND[REPORT_EN]


def test_general_report_of_nothing_is_no_finding(read):
    nothing = {REPORT_EN: "Findings: Clear. Impression: No finding.", REPORT_ZH: "影像诊断：清晰。影像结论：未见异常。"}
    reading = read(nothing, plan="general")
    assert reading.state is RunState.NO_FINDINGS
    assert reading.narrative["en"] == nothing[REPORT_EN]


def test_general_report_of_nonsense_beside_a_clear_image_is_partial(read, make):
    study = generate_uid()
    for _ in range(2):
        make(PIXELS, StudyInstanceUID=study)
    nothing = "Findings: nothing. Impression: no finding."
    reading = read({REPORT_EN: [nothing, "blah"], REPORT_ZH: "blah"}, plan="general")
    assert reading.state is RunState.NO_FINDINGS
    assert reading.partial


def test_report_that_broke_off_makes_the_reading_partial(read):
    reading = read({REPORT_EN: ScriptedAnswer(text=SOUND[REPORT_EN], finish="length")})
    assert reading.partial
    assert any("the report broke off" in reason for reason in reasons(reading))


def test_general_report_of_nonsense_is_unusable(read):
    reading = read({REPORT_EN: "%%%", REPORT_ZH: "%%%"}, plan="general")
    assert reading.state is RunState.UNUSABLE
    assert len(reading.held_back) == 2


# --- stopping


def test_cancelling_stops_between_questions(read):
    cancel = CancelToken()
    runtime = ScriptedRuntime(SOUND)
    with pytest.raises(ReadingCancelledError):
        read(runtime=runtime, cancel=cancel, progress=lambda asked, _: cancel.cancel() if asked == 2 else None)
    assert len(runtime.calls) == 2


def test_progress_rises_to_what_was_expected(read):
    seen = []
    read(progress=lambda asked, expected: seen.append((asked, expected)))
    assert [asked for asked, _ in seen] == list(range(1, 8))
    assert seen[-1] == (7, 7)
    assert all(asked <= expected for asked, expected in seen)


def test_engine_that_is_lost_ends_the_reading_so_that_it_can_be_repeated(read):
    with pytest.raises(RuntimeLostError) as caught:
        read({TELL_EN: LOST})
    assert caught.value.retry


def test_no_patient_data_reaches_the_reading_or_the_questions(read):
    runtime = ScriptedRuntime(SOUND)
    reading = read(runtime=runtime)
    assert "ZZTOP" not in reading.to_json() + "".join(call.question for call in runtime.calls)
    assert "SECRET" not in reading.to_json()


def test_plan_is_chosen_and_read_through_the_public_face(make, tmp_path):
    make(PIXELS)
    (study,), _ = load_studies([tmp_path])
    runtime = ScriptedRuntime(SOUND)
    assert read_study(study, choose_plan(study, runtime.identity), runtime).created.tzinfo is not None
