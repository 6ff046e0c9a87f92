"""Each task a plan may name, asked and answered, and what the reading says then; its results are valid objects."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from engine import load_plans, load_studies, read_study
from engine.findings import RunState, StudyReading
from engine.grammar import format_boxes
from engine.plan import ImageWords, Match, Plan, PlanObject, Question
from engine.runtime.scripted import ScriptedAnswer, ScriptedRuntime
from sr_writer import OutputProfile, check_results, write_results

PIXELS = np.arange(200 * 100, dtype=np.uint16).reshape(200, 100)
BOX = (100, 200, 300, 400)
DOCUMENTS = OutputProfile(presentation_state=False, secondary_capture=False)
LUNGS = tuple(
    PlanObject(label=f"{s} lung", concept=f"{s} lung", en=f"{s} lung", zh=zh)
    for s, zh in (("right", "右肺"), ("left", "左肺"))
)
EFFUSION = PlanObject(label="Pleural effusion", concept="pleural effusion", en="pleural effusion", zh="胸腔积液")
CHEST_EN, CHEST_ZH = "Findings: Large heart. Impression: Cardiomegaly.", "影像诊断：心影增大。影像结论：心影增大。"


@pytest.fixture
def read(make, tmp_path):
    """Read a radiograph (or what lies in the folder), and write the reading as DICOM to see that it can be."""

    def run(answers, *tasks, languages=("en", "zh"), **keys) -> tuple[StudyReading, list[str]]:
        if not list(tmp_path.glob("*.dcm")):
            make(PIXELS)
        words = ImageWords(noun="chest x-ray image", with_article="a chest x-ray image")
        plan = Plan(name="test", tasks=tasks, image=words, **keys)
        (study,), _ = load_studies([tmp_path])
        runtime = ScriptedRuntime(answers, default="?", commissioning=False)
        reading = read_study(study, plan, runtime, languages=languages)
        assert StudyReading.from_json(reading.to_json()) == reading
        sources = [dcmread(path, stop_before_pixels=True) for path in tmp_path.glob("*.dcm")]
        check_results(write_results(reading, sources, DOCUMENTS), reading, sources)
        return reading, [call.question for call in runtime.calls]

    return run


# --- classification


def test_diagnoses_are_image_level_findings_under_their_clean_names(read):
    reading, (question,) = read(
        {"The possible diagnoses": "Brocho-pneumonia, CPAM"}, "classification", label_sets=["vindr-pcxr"]
    )
    assert [(f.label, f.concept, f.names["zh"]) for f in reading.findings] == [
        ("Brocho-pneumonia", "bronchopneumonia", "支气管肺炎"),
        ("CPAM", "congenital pulmonary airway malformation", "先天性肺气道畸形"),
    ]
    assert all(f.regions == () and f.text["en"] == f.concept[0].upper() + f.concept[1:] for f in reading.findings)
    assert reading.state is RunState.FINDINGS
    assert not reading.partial
    assert '\n"No finding" means no diseases are detected. <image>\nPlease diagnose' in question
    (use,) = reading.prompts
    assert (use.task, use.language, use.template) == ("classification", "en", "classification.en")


def test_certainty_of_a_diagnosis_is_that_of_its_own_words(read):
    reading, _ = read(
        {"The possible diagnoses": ScriptedAnswer(text="Edema, Pneumonia", logprob=-0.5)},
        "classification",
        label_sets=["chexpert"],
    )
    assert [f.certainty for f in reading.findings] == pytest.approx([np.exp(-0.5)] * 2)


@pytest.mark.parametrize(("labels", "answer"), [("chexpert", "No Finding"), ("oct2017", "normal"), ("mura", "Normal.")])
def test_no_finding_is_never_a_finding(read, labels, answer):
    reading, _ = read({"The possible diagnoses": answer}, "classification", label_sets=[labels])
    assert reading.state is RunState.NO_FINDINGS
    assert reading.findings == ()
    assert not reading.partial


@pytest.mark.parametrize("answer", ["gout", "", "Edema, No Finding", "There is no evidence of pneumonia."])
def test_answer_without_a_usable_diagnosis_is_held_back(read, answer):
    reading, _ = read({"The possible diagnoses": answer}, "classification", label_sets=["chexpert"])
    assert reading.state is RunState.UNUSABLE
    assert reading.partial
    assert reading.held_back


def test_same_diagnosis_of_several_images_is_one_finding(read, make):
    study = generate_uid()
    for _ in range(3):
        make(PIXELS, StudyInstanceUID=study)
    answers = [ScriptedAnswer(text="Edema", logprob=-1.0), "No Finding", ScriptedAnswer(text="Edema", logprob=-0.5)]
    reading, _ = read({"The possible diagnoses": answers}, "classification", label_sets=["chexpert"])
    (finding,) = reading.findings
    assert finding.notes == ("named by the classification of image 1, 3",)
    assert finding.certainty == pytest.approx(np.exp(-0.5))


def test_diagnosis_that_is_also_located_is_the_located_finding(read):
    reading, _ = read(
        {"Please locate": format_boxes("Pleural effusion", [BOX]), "The possible diagnoses": "Pleural Effusion, Edema"},
        *("detection", "classification"),
        objects=[EFFUSION],
        label_sets=["chexpert"],
    )
    located, named = reading.findings
    assert len(located.regions) == 1
    assert "named by the classification of image 1" in located.notes
    assert named.concept == "pulmonary edema"


# --- organ, tissue and questions go to the record


@pytest.mark.parametrize(
    ("task", "labels", "answer"), [("organ", "organmnist", "left kidney"), ("tissue", "pannuke", "Colon")]
)
def test_organ_and_tissue_are_recorded_and_no_finding(read, task, labels, answer):
    nothing = {f"The possible {task}s": answer, "The possible diagnoses": "No finding"}
    reading, _ = read(nothing, task, "classification", label_sets=[labels, "vindr-cxr"])
    assert reading.state is RunState.NO_FINDINGS
    assert (task, answer) in [(use.task, use.answer) for use in reading.prompts]
    assert reading.held_back == ()
    assert reading.narrative == {}


def test_organ_stands_in_the_report_where_the_plan_says_so(read):
    answers = {"The possible organs": "left kidney", "report generation": CHEST_EN, "生成诊断报告": CHEST_ZH}
    reading, _ = read(answers, "organ", "report", label_sets=["organmnist"], narrate=["organ"])
    assert reading.narrative == {"en": f"Organ: left kidney.\n{CHEST_EN}", "zh": f"器官：左肾。\n{CHEST_ZH}"}


@pytest.mark.parametrize("answer", ["left kidney, liver", "kidneys", ""])
def test_organ_that_is_not_one_stands_in_no_report(read, answer):
    answers = {"The possible organs": answer, "report generation": CHEST_EN}
    reading, _ = read(answers, "organ", "report", languages=("en",), label_sets=["organmnist"], narrate=["organ"])
    assert reading.narrative == {"en": CHEST_EN}
    assert len(reading.held_back) == 1


def test_organ_that_is_none_of_the_set_is_held_back(read):
    nothing = {"The possible organs": "brain", "The possible diagnoses": "No finding"}
    reading, _ = read(nothing, "organ", "classification", label_sets=["organmnist", "vindr-cxr"])
    assert [held.words for held in reading.held_back] == ["brain"]


def test_questions_are_answered_in_both_languages_and_stand_in_the_report_where_told(read):
    reading, questions = read(
        {
            "Which view": "PA.",
            "什么体位": "后前位。",
            "Is it": "yes",
            "是否": "是",
            "report generation": CHEST_EN,
            "生成诊断报告": CHEST_ZH,
        },
        *("vqa", "report"),
        questions=[
            Question(en="Which view is this?", zh="这是什么体位?", in_narrative=True),
            Question(en="Is it rotated?", zh="是否旋转?"),
        ],
    )
    assert len(questions) == 6
    assert reading.narrative["en"] == f"Which view is this? PA\n{CHEST_EN}"
    assert reading.narrative["zh"] == f"这是什么体位? 后前位\n{CHEST_ZH}"
    assert [use.answer for use in reading.prompts][2:4] == ["yes", "是"]


def test_answer_that_says_nothing_is_held_back(read):
    reading, _ = read(
        {"Which view": "<ref></ref>", "report generation": CHEST_EN},
        *("vqa", "report"),
        languages=("en",),
        questions=[Question(en="Which view is this?", zh="这是什么体位?", in_narrative=True)],
    )
    assert reading.narrative["en"] == CHEST_EN
    assert [held.reason for held in reading.held_back] == ["the answer is no word or phrase"]


# --- grounded report and grounded finding


def test_grounded_report_alone_gives_boxes_and_their_text(read):
    right, left = (102, 106, 481, 910), (535, 128, 923, 889)
    boxes = f"{format_boxes('right lung', [right])}, {format_boxes('left lung', [left])}"
    told = f"{boxes}: Clear on the right. Opaque on the left."
    reading, questions = read(
        {
            "describe the condition of": told,
            "<ref>右肺</ref>": f"{format_boxes('右肺', [right])}：右肺清晰。",
            "<ref>左肺</ref>": f"{format_boxes('左肺', [left])}：左肺致密。",
        },
        "grounded",
        objects=LUNGS,
    )
    assert questions[0].endswith("describe the condition of <ref>right lung</ref>, <ref>left lung</ref>")
    texts = {finding.concept: dict(finding.text) for finding in reading.findings}
    assert texts == {
        "right lung": {"en": "Clear on the right.", "zh": "右肺清晰。"},
        "left lung": {"en": "Opaque on the left.", "zh": "左肺致密。"},
    }
    assert all(len(finding.regions) == 1 for finding in reading.findings)
    assert len(questions) == 3


def test_grounded_finding_can_be_asked_in_chinese_alone(read):
    reading, (question,) = read(
        {"请定位并描述": f"{format_boxes('胸腔积液', [BOX])}：右侧胸腔积液。"},
        "grounded",
        objects=[EFFUSION],
        languages=("zh",),
    )
    assert "<ref>胸腔积液</ref>" in question
    (finding,) = reading.findings
    assert finding.text == {"zh": "右侧胸腔积液。"}


def test_grounded_nothing_is_no_finding(read):
    reading, _ = read({"describe the condition of": "No finding"}, "grounded", objects=[EFFUSION])
    assert reading.state is RunState.NO_FINDINGS


# --- regional chain of thought


def test_what_was_located_is_told_in_the_questions_that_follow(read):
    told = format_boxes("Pleural effusion", [BOX])
    reading, questions = read(
        {
            "Please locate": told,
            "The possible diagnoses": "Edema",
            "Which": "basal",
            "哪里": "肺底",
            "report generation": CHEST_EN,
            "生成诊断报告": CHEST_ZH,
        },
        *("detection", "regional", "classification", "vqa", "report"),
        objects=[EFFUSION],
        label_sets=["chexpert"],
        questions=[Question(en="Which part?", zh="在哪里?")],
    )
    english = f"<image>\nThe regions of interest are {told}. "
    assert [english in question for question in questions] == [False, True, True, False, True, False]
    assert f"<image>\n感兴趣区域为{format_boxes('胸腔积液', [BOX])}。" in questions[3]
    assert [use.template for use in reading.prompts][1] == "classification.en+regional"
    assert {finding.concept for finding in reading.findings} == {"pleural effusion", "pulmonary edema"}


def test_without_a_located_region_the_questions_are_plain(read):
    reading, questions = read(
        {"Please locate": "No finding", "The possible diagnoses": "Edema"},
        *("detection", "regional", "classification"),
        objects=[EFFUSION],
        label_sets=["chexpert"],
    )
    assert "regions of interest" not in questions[1]
    assert reading.state is RunState.FINDINGS


# --- templates


def test_plan_can_choose_another_template(read):
    _, questions = read(
        {"Please locate": "No finding"},
        *("detection", "report"),
        objects=[EFFUSION],
        templates={"detection": "detection_multiple", "report": "report_detailed"},
    )
    assert "There might be multiple boxes for one object" in questions[0]
    assert "Finding includes the observations" in questions[1]
    assert "生成诊断报告" in questions[2]


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"tasks": ["vqa"], "questions": [Question(en="a", zh="b")]}, "can find anything"),
        ({"tasks": ["classification"], "label_sets": ["organmnist"]}, "one of its own"),
        ({"tasks": ["classification"], "label_sets": ["mine"]}, "no label set 'mine'"),
        ({"tasks": ["classification"]}, "needs label_sets"),
        ({"tasks": ["report", "regional"]}, "about boxes"),
        ({"tasks": ["grounded"]}, "needs objects"),
        ({"tasks": ["report"], "templates": {"report": "sonnet"}}, "no prompt template 'sonnet'"),
    ],
)
def test_plan_that_asks_what_cannot_be_asked_is_refused(keys, complaint):
    with pytest.raises(ValueError, match=complaint):
        Plan(name="test", image=ImageWords(noun="CT scan", with_article="a CT scan"), **keys)


# --- the plans that ship


class Agreeable(ScriptedRuntime):
    """A model that finds the first of whatever it is asked about, in the middle of every image."""

    def _pick(self, question: str) -> ScriptedAnswer:
        names = re.findall(r"<ref>(.+?)</ref>", question.partition("<image>")[2])
        options = re.search(r"The possible \w+ are(?::\n| )(.+?)(?:\n| and )", question)
        if "report generation" in question or "生成诊断报告" in question:
            text = CHEST_EN if "report generation" in question else CHEST_ZH
        elif options:
            text = options[1]
        elif names and names[0] not in ("this", "这个区域"):
            text = f"{format_boxes(names[0], [(300, 300, 600, 600)])}: Seen."
        else:
            text = "yes"
        return ScriptedAnswer(text=text)


@pytest.mark.parametrize("name", sorted(load_plans()))
def test_every_plan_that_ships_is_asked_and_read_in_full(name, make, tmp_path):
    make(PIXELS)
    (study,), _ = load_studies([tmp_path])
    plan = load_plans()[name].model_copy(update={"match": Match()})  # whatever its images are called
    runtime = Agreeable(commissioning=plan.commissioning)
    reading = read_study(study, plan, runtime)
    assert reading.state is (RunState.NO_FINDINGS if name in ("musculoskeletal-xray", "oct") else RunState.FINDINGS)
    assert {use.task for use in reading.prompts} == set(plan.tasks) - {"regional"}
    assert not any("cannot be read" in held.reason or "no label" in held.reason for held in reading.held_back)
    sources = [dcmread(path, stop_before_pixels=True) for path in tmp_path.glob("*.dcm")]
    check_results(write_results(reading, sources, DOCUMENTS), reading, sources)
