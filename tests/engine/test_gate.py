"""The gate's parts: what a sentence claims, which side a box is on, what a certainty is worth."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from engine.errors import ModelError
from engine.findings import Laterality, ModelIdentity
from engine.gate import (
    Calibration,
    Candidate,
    Sides,
    given_of,
    pass_report,
    pass_words,
    sentences,
    sides_of,
    stated_sides,
    unsupported,
)
from engine.plan import PlanObject

EFFUSION = PlanObject(label="Pleural effusion", concept="pleural effusion", en="pleural effusion", zh="胸腔积液")
NODULE = PlanObject(label="Nodule", concept="nodule", en="nodule", zh="结节")
NOWHERE = Sides(100, 100)
FRONTAL = Sides(100, 100, across="left")
ON_THE_LEFT, ON_THE_RIGHT = (70.0, 40.0, 90.0, 60.0), (10.0, 40.0, 30.0, 60.0)


def header(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def candidate(item: PlanObject = EFFUSION, box=ON_THE_LEFT) -> Candidate:
    return Candidate(item, item.label, (1, 2, 3, 4), box, 0.9)


# --- sentences


@given(st.text(alphabet="Ab1. 。；;:\nDr.影像结论：Findings", max_size=80))
@settings(max_examples=200, deadline=None)
def test_sentences_together_are_the_text(text):
    assert "".join(sentences(text)) == text


def test_sentences_end_where_people_end_them():
    text = "Findings: A 2.5 mass, seen by Dr. Who; one more. Impression: 1. Mass. 2. Cyst.两肺清晰。心影大！"
    assert [sentence.strip() for sentence in sentences(text)] == [
        "Findings: A 2.5 mass, seen by Dr. Who;",
        "one more.",
        "Impression: 1. Mass.",
        "2. Cyst.",
        "两肺清晰。",
        "心影大！",
    ]


# --- claims

PRIOR = """
In comparison with the study of ___, there is little change.
Compared to the prior radiograph, the effusion is larger.
As compared to the previous image, the monitoring devices are there.
No comparison.
Comparison: None.
The cardiomediastinal silhouette is unchanged.
Cardiomegaly is stable.
New right lower lobe opacity.
There is a newly developed consolidation.
Interval increase in the left effusion.
No interval change.
No significant change.
The effusion has increased.
The opacities have substantially improved.
Pneumothorax has resolved.
The nodule increased in size.
Persistent left effusion.
Again seen is a hiatal hernia.
The heart remains enlarged.
The tube has been removed.
Improvement of the edema.
Worsening consolidation.
Residual opacity at the base.
Previously seen nodule is gone.
The lungs are better aerated than before.
The left effusion is slightly smaller.
Slight increase in pulmonary edema.
Little change in the appearance.
Follow-up shows partial clearing.
The effusion is now moderate.
Unaltered appearance of the chest.
The line was withdrawn.
较前片对比，右下肺斑片影增多。
与前片比较，右侧胸腔积液减少。
与2019-03-01片对比，病灶较前吸收。
较前相仿。
余同前。
引流管已拔除。
治疗后缩小。
随诊对比，病灶缩小。
两肺结节同前。
右肺结节变化不大。
对比既往胸片，心影增大。
新发右侧气胸。
新出现的斑片影。
左侧胸腔积液，较上次增多。
双肺病变未见明显变化。
左肺炎症好转。
渗出较前有所吸收。
病灶已吸收。
右肺病灶缩小。
仍可见少量气胸。
结节大小稳定。
复查示骨折线模糊。
""".strip().splitlines()
SIZES = """
A 12 mm nodule in the right upper lobe.
Mass measuring 3.2 x 2.1 cm.
A 5mm calcification.
The tube ends 4 cm above the carina.
Subcentimeter nodules.
A lesion of about 2 centimeters.
Density of 35 HU.
Nodule of 3 x 4.
Cobb angle 25 degrees.
右肺上叶见一结节，直径约12mm。
肿块大小约3.2cm×2.1cm。
囊肿约5毫米。
病灶长约2厘米。
""".strip().splitlines()
OTHERS = """
78 year old man with chest pain.
History of breast cancer.
患者男，65岁，见结节。
Findings were discussed with Dr. Smith by telephone.
已电话通知临床医生。
Nodule as on 2012-03-04.
Study of ___.
The lateral view shows an effusion.
PA and lateral views of the chest.
正侧位胸片见积液。
A hypervascular lesion in the arterial phase.
动脉期明显强化。
The lesion enhances.
Post-contrast rim enhancement.
病灶呈环形强化。
""".strip().splitlines()
SOUND = """
The heart is enlarged.
There is a large right pleural effusion with adjacent atelectasis.
Lungs are clear without focal consolidation, effusion or pneumothorax.
Degenerative changes of the thoracic spine.
The right lung is smaller than the left.
Follow-up CT is recommended.
Increased interstitial markings bilaterally.
Decreased lung volumes.
Old healed rib fracture on the left.
Median sternotomy wires from prior surgery.
The remaining lung is clear.
High-resolution detail of the apices.
The left kidney is small compared to the right kidney.
Varying degrees of atelectasis.
Mass in the lateral aspect of the right breast.
Clustered microcalcifications in the upper outer quadrant.
Well-defined hyperintense lesion in the left frontal lobe.
Blunting of the costophrenic angle.
心影增大。
两肺纹理增多、增粗。
左侧肋膈角消失。
右上肺容积缩小。
双肺纹理加重。
左肾较右肾缩小。
建议随访复查。
术后改变，可见金属缝线。
与对侧比较，左侧乳腺密度增高。
骨质密度减低，腰椎退行性改变。
两肺未见明显异常。
右肺上叶见结节影，边界清楚。
L4椎体1度滑脱。
""".strip().splitlines()


@pytest.mark.parametrize("sentence", PRIOR)
def test_comparison_with_an_image_that_was_not_given_is_found(sentence):
    assert "compares" in (unsupported(sentence) or "") or "___" in sentence or "2019" in sentence
    assert unsupported(sentence)


@pytest.mark.parametrize("sentence", SIZES)
def test_measured_size_is_found(sentence):
    assert "measure" in (unsupported(sentence) or "")


@pytest.mark.parametrize("sentence", OTHERS)
def test_other_things_that_nobody_told_are_found(sentence):
    assert unsupported(sentence)


@pytest.mark.parametrize("sentence", SOUND)
def test_what_a_picture_shows_passes(sentence):
    assert unsupported(sentence) is None


@pytest.mark.parametrize(
    ("elements", "sentence"),
    [
        ({"SeriesDescription": "LIVER_ARTERIAL_PHASE"}, "Hypervascular and enhancing in the arterial phase."),
        ({"SeriesDescription": "腹部 动脉期"}, "动脉期明显强化。"),
        ({"ContrastBolusAgent": "X"}, "The lesion enhances."),
        ({"ViewPosition": "LL"}, "The lateral view shows an effusion."),
        ({"ViewPosition": "MLO"}, "Seen on the mediolateral oblique view."),
    ],
)
def test_what_the_header_tells_may_be_said(elements, sentence):
    assert unsupported(sentence)
    assert unsupported(sentence, given_of(header(**elements))) is None


@pytest.mark.parametrize(
    ("elements", "sentence"),
    [
        ({"SeriesDescription": "portal venous phase"}, "Bright in the arterial phase."),
        ({"SeriesDescription": "chest non-contrast"}, "The lesion enhances."),
        ({"ViewPosition": "PA"}, "The lateral view shows an effusion."),
        ({"ContrastBolusAgent": ""}, "The lesion enhances."),
    ],
)
def test_what_the_header_does_not_tell_may_not(elements, sentence):
    assert unsupported(sentence, given_of(header(**elements)))


# --- sides


@pytest.mark.parametrize(
    ("words", "sides"),
    [
        ("Right pleural effusion.", {"right"}),
        ("right-sided effusion", {"right"}),
        ("Left lung and right lung", {"left", "right"}),
        ("Bilateral effusions.", {"left", "right"}),
        ("Both lungs are clear.", {"left", "right"}),
        ("Right effusion with shift to the left.", {"right"}),
        ("The trachea deviates toward the right.", set()),
        ("right-to-left shunt", set()),
        ("The bright spot has cleft borders.", set()),
        ("右侧胸腔积液", {"right"}),
        ("双侧", {"left", "right"}),
        ("两肺", {"left", "right"}),
        ("纵隔左移", set()),
        ("右肺体积缩小，纵隔向右移位", {"right"}),
        ("长宽比左右", set()),
        ("Thrombus in the left portal vein.", set()),
        ("肝左叶低密度影", set()),
    ],
)
def test_sides_that_words_name(words, sides):
    assert stated_sides(words) == sides


@pytest.mark.parametrize(
    ("elements", "across", "down"),
    [
        ({"PatientOrientation": ["L", "F"]}, "left", None),
        ({"PatientOrientation": ["R", "F"]}, "right", None),
        ({"PatientOrientation": ["LP", "FR"]}, "left", None),
        ({"PatientOrientation": ["F", "L"]}, None, "left"),
        ({"PatientOrientation": ["P", "F"], "ViewPosition": "PA", "BodyPartExamined": "CHEST"}, None, None),
        ({"ViewPosition": "PA", "BodyPartExamined": "CHEST"}, "left", None),
        ({"ViewPosition": "AP", "BodyPartExamined": "ABDOMEN"}, "left", None),
        ({"ViewPosition": "LL", "BodyPartExamined": "CHEST"}, None, None),
        ({"ViewPosition": "PA"}, None, None),
        ({"ViewPosition": "PA", "BodyPartExamined": "HAND"}, None, None),
        ({"PatientOrientation": ["L", "F"], "BodyPartExamined": "KNEE"}, None, None),
        ({"PatientOrientation": ["A", "R"], "Modality": "MG"}, None, None),
        ({"PatientOrientation": ["", ""]}, None, None),
        ({}, None, None),
    ],
)
def test_left_and_right_of_a_picture(elements, across, down):
    sides = sides_of(header(**elements), 1, 100, 100)
    assert (sides.across, sides.down) == (across, down)


@pytest.mark.parametrize(
    ("orientation", "across", "down"),
    [
        ([1, 0, 0, 0, 1, 0], "left", None),
        ([-1, 0, 0, 0, 1, 0], "right", None),
        ([0.95, 0.31, 0, -0.31, 0.95, 0], "left", None),
        ([0, 1, 0, 0, 0, -1], None, None),  # sagittal
        ([0, 1, 0, -1, 0, 0], None, "right"),
    ],
)
def test_left_and_right_of_a_slice(orientation, across, down):
    slice_ = header(ImageOrientationPatient=orientation, ImagePositionPatient=[0, 0, 0], PixelSpacing=[1, 1])
    sides = sides_of(slice_, 1, 100, 100)
    assert (sides.across, sides.down) == (across, down)


def test_boxes_near_the_midline_are_on_no_side():
    assert FRONTAL.side_of(ON_THE_LEFT) == "left"
    assert FRONTAL.side_of(ON_THE_RIGHT) == "right"
    assert FRONTAL.side_of((30, 0, 54, 10)) is None
    assert FRONTAL.side_of((52, 0, 90, 10)) is None
    assert NOWHERE.side_of(ON_THE_LEFT) is None


def test_side_of_the_image_comes_before_the_place_in_it():
    breast = sides_of(header(Modality="MG", ImageLaterality="R", PatientOrientation=["P", "L"]), 1, 100, 100)
    assert breast.image is Laterality.RIGHT
    assert breast.side_of(ON_THE_LEFT) == "right"
    assert breast.contradict({"left"})
    assert not breast.contradict({"right"}, ON_THE_LEFT)
    assert not breast.contradict({"left", "right"})


def test_chest_has_no_laterality_whatever_its_header_says():
    chest = sides_of(header(BodyPartExamined="CHEST", ImageLaterality="R", PatientOrientation=["L", "F"]), 1, 100, 100)
    assert chest.image is Laterality.UNKNOWN
    assert chest.side_of(ON_THE_LEFT) == "left"
    assert sides_of(header(BodyPartExamined="HAND", ImageLaterality="R"), 1, 100, 100).image is Laterality.RIGHT


@given(st.floats(0, 90), st.floats(1, 10), st.sampled_from(["left", "right"]))
@settings(max_examples=100, deadline=None)
def test_turning_a_picture_round_turns_its_sides(x, width, across):
    box, mirrored = (x, 10, x + width, 20), (100 - x - width, 10, 100 - x, 20)
    other = "right" if across == "left" else "left"
    assert Sides(100, 100, across=across).side_of(box) == Sides(100, 100, across=other).side_of(mirrored)


# --- words about a box, and reports


def test_only_the_sentence_at_fault_is_held_back():
    text = "A right effusion is seen. A left effusion is seen. It measures 3 cm. It is free-flowing."
    passed = pass_words(text, "en", frozenset(), FRONTAL, candidate())
    assert passed.text == "A left effusion is seen. It is free-flowing."
    assert [words for _, words in passed.held] == ["A right effusion is seen.", "It measures 3 cm."]


def test_denial_of_a_box_is_held_back():
    passed = pass_words("未见胸腔积液。", "zh", frozenset(), FRONTAL, candidate())
    assert passed.text == ""
    assert passed.held[0][0] == "it denies what the box is said to show"


def test_text_in_the_wrong_language_is_held_back():
    assert pass_words("A left effusion.", "zh", frozenset(), NOWHERE).text == ""
    assert pass_words("左侧积液。", "en", frozenset(), NOWHERE).text == ""
    assert pass_words("左侧积液（effusion）。", "zh", frozenset(), NOWHERE).held == ()
    assert pass_words("CT", "zh", frozenset(), NOWHERE).held == ()


def test_sentence_said_over_and_over_is_shown_once():
    passed = pass_report("Findings: Mass. Mass. Mass. Impression: Mass.", "en", frozenset(), NOWHERE, [])
    assert passed.text == "Findings: Mass. Impression: Mass."
    assert len(passed.held) == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Findings: Left pleural effusion. Impression: Effusion.", None),
        (
            "Findings: Right pleural effusion. Clear apices. Impression: Effusion.",
            "Findings: Clear apices. Impression: Effusion.",
        ),
        ("Findings: No pleural effusion. Impression: Clear.", "Impression: Clear."),
        ("Findings: No nodule, mass or pleural effusion. Impression: Clear.", "Impression: Clear."),
        ("Findings: No right pleural effusion. Impression: Left pleural effusion.", None),
        ("Findings: Pleural effusion but no nodule.", None),
        ("影像诊断：未见气胸，左侧胸腔积液。影像结论：胸腔积液。", None),
        ("影像诊断：右侧胸腔积液。影像结论：胸腔积液。", "影像结论：胸腔积液。"),
        (
            "影像诊断：肋膈角变钝，不能排除胸腔积液。影像结论：已排除胸腔积液。",
            "影像诊断：肋膈角变钝，不能排除胸腔积液。",
        ),
    ],
)
def test_report_agrees_with_what_was_located(text, shown):
    language = "en" if text.isascii() else "zh"
    passed = pass_report(text, language, frozenset(), FRONTAL, [candidate()])
    assert passed.text == (text if shown is None else shown)


def test_report_of_something_that_could_not_be_located_is_held_back():
    text = "Findings: A nodule is seen. No pleural effusion. Impression: Nodule."
    passed = pass_report(text, "en", frozenset(), FRONTAL, [], [EFFUSION, NODULE])
    assert passed.text == "Findings: No pleural effusion."
    assert len(passed.held) == 2


def test_report_of_which_nothing_is_left_is_empty():
    passed = pass_report("Findings: Unchanged. Impression: No change.", "en", frozenset(), NOWHERE, [])
    assert passed.text == ""
    assert len(passed.held) == 2


@given(st.text(max_size=200), st.sampled_from(["en", "zh"]))
@settings(max_examples=200, deadline=None)
def test_any_text_passes_or_is_held_and_nothing_is_added(text, language):
    passed = pass_report(text, language, frozenset(), FRONTAL, [candidate()], [NODULE])
    assert set(passed.text) <= set(text)
    assert all(words in text for _, words in passed.held)
    assert not any(unsupported(sentence) for sentence in sentences(passed.text)) or not passed.held


# --- calibration

DIGEST = "ab" * 32
CURVES = {
    "weights_digest": DIGEST,
    "labels": {
        "nodule": {"certainty": [0.0, 0.5, 1.0], "observed": [0.0, 0.2, 0.8]},
        "*": {"certainty": [0.2, 0.8], "observed": [0.1, 0.9]},
    },
}


def identity(digest: str) -> ModelIdentity:
    return ModelIdentity("M", "1", "x", digest, "scripted", "s", commissioning=False)


def test_calibration_is_read_from_json_and_toml(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(CURVES))
    (tmp_path / "c.toml").write_text(
        f'weights_digest = "{DIGEST}"\n[labels.nodule]\ncertainty = [0.0, 0.5, 1.0]\nobserved = [0.0, 0.2, 0.8]\n'
        '[labels."*"]\ncertainty = [0.2, 0.8]\nobserved = [0.1, 0.9]\n'
    )
    one, other = Calibration.load(tmp_path / "c.json"), Calibration.load(tmp_path / "c.toml")
    assert one == other
    assert one.digest == other.digest
    assert one.apply("nodule", 0.75) == pytest.approx(0.5)
    assert one.apply("mass", 0.99) == 0.9
    assert one.apply("nodule", None) is None
    assert Calibration.model_validate(CURVES | {"labels": {"mass": CURVES["labels"]["*"]}}).apply("nodule", 0.5) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "neither TOML nor JSON"),
        ("{}", "weights_digest"),
        (json.dumps(CURVES | {"labels": {}}), "labels"),
        (json.dumps(CURVES | {"labels": {"a": {"certainty": [0.5, 0.2], "observed": [0, 1]}}}), "does not rise"),
        (json.dumps(CURVES | {"labels": {"a": {"certainty": [0.2, 0.5], "observed": [1, 0]}}}), "falls"),
        (json.dumps(CURVES | {"labels": {"a": {"certainty": [0.2, 0.5], "observed": [1]}}}), "equally long"),
        (json.dumps(CURVES | {"labels": {"a": {"certainty": [0.2, 5], "observed": [0, 1]}}}), "certainty"),
        (json.dumps(CURVES | {"label": 1}), "label"),
    ],
)
def test_calibration_that_is_none_is_refused(tmp_path, text, words):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(ModelError, match="cannot be read"):
        Calibration.load(tmp_path / "missing.toml")


def test_calibration_holds_for_the_weights_that_it_was_measured_with():
    calibration = Calibration.model_validate(CURVES)
    calibration.check(identity(DIGEST))
    with pytest.raises(ModelError, match="other weights"):
        calibration.check(identity("cd" * 32))
