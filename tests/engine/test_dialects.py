"""Other models' boxes are read from declared data: scale, axis order, image frame, tags; a swap is a plan's key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import load_studies, read_study
from engine.dialects import MEDREGA, Dialect, dialects, read_boxes
from engine.errors import PlanError
from engine.findings import RunState
from engine.grammar import SCALE, parse
from engine.imaging import Transform
from engine.plan import ImageWords, Plan, PlanObject, load_plan
from engine.prompts import Prompts
from engine.runtime.scripted import ScriptedRuntime

# Each model about the same two places on an image of 200 rows and 100 columns, and the first box in pixels.
ANSWERS = {
    "maira-2": (
        "<obj>Nodule <box><x20><y10><x39><y29></box><box><x50><y50><x60><y60></box></obj>",
        (20.5, 60.5, 39.5, 79.5),  # of the square of 100 x 100 in the middle
    ),
    "radvlm": ("[0.2, 0.1, 0.4, 0.3] and [0.5, 0.5, 0.6, 0.6]", (20, 20, 40, 60)),
    "chexagent-2": (
        "<|ref|>Nodule<|/ref|><|box|>(20,10),(40,30)<|/box|><|box|>(50,50),(60,60)<|/box|>",
        (20, 20, 40, 60),
    ),
    "medmo": ("Nodule <box>[[200, 100, 400, 300], [500, 500, 600, 600]]</box>", (20, 20, 40, 60)),
    "medgemma-1.5": (
        '```json\n[{"box_2d": [100, 200, 300, 400], "label": "Nodule"}, '
        '{"label": "Nodule", "box_2d": [500, 500, 600, 600]}]\n```',
        (20, 20, 40, 60),
    ),
}
OWN_WORDS = """
name = "mine"
tasks = ["detection"]
dialect = "radvlm"
languages = ["en"]

[prompts.detection.en]
rest = "Where is {names}?"

[image]
noun = "X-ray image"
with_article = "an X-ray image"

[[objects]]
label = "Nodule"
concept = "nodule"
en = "nodule"
zh = "结节"
"""
PIECES = st.sampled_from(
    [
        *["<obj>", "</obj>", "<box>", "</box>", "<x12>", "<y5>", "<|ref|>", "<|/ref|>", "<|box|>", "<|/box|>", "(1,2)"],
        *[
            "[",
            "]",
            "[0.1, 0.2, 0.3, 0.4]",
            "[[1, 2, 3, 4]]",
            '{"box_2d": [1, 2, 3, 4], "label": "a"}',
            "{",
            "}",
            '"box_2d"',
        ],
        *["nodule", "结节", " ", "\n", ",", "1", "0.5", "1001", "-1", "and"],
    ]
)


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_is_read_onto_the_source_grid(name):
    answer, expected = ANSWERS[name]
    parsed = read_boxes(name, answer, 200, 100, asked="Nodule")
    assert [region.label for region in parsed.regions] == ["Nodule", "Nodule"]
    assert Transform(200, 100).to_source(parsed.regions[0].box) == pytest.approx(expected)
    assert parsed.unreadable == ()
    assert parsed.text == ""
    assert all(region.in_range for region in parsed.regions)


def test_every_dialect_that_ships_is_tested():
    assert set(dialects()) == set(ANSWERS)
    assert read_boxes(MEDREGA, "disc[[1, 2, 3, 4]]", 5, 5) == parse("disc[[1, 2, 3, 4]]")


@pytest.mark.parametrize("name", ANSWERS)
@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=25).map("".join)), st.integers(1, 3000), st.integers(1, 3000))
def test_any_text_is_read_without_an_exception_and_without_a_box_beyond_the_image(name, text, rows, columns):
    parsed = read_boxes(name, text, rows, columns)
    for region in parsed.regions:
        x0, y0, x1, y1 = region.box
        assert -1e-6 <= x0 < x1 <= SCALE + 1e-6
        assert -1e-6 <= y0 < y1 <= SCALE + 1e-6
        assert all(0 <= first <= last <= len(text) for first, last in region.spans)


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_cut_anywhere_gives_only_boxes_that_were_in_it(name):
    answer, _ = ANSWERS[name]
    whole = {region.box for region in read_boxes(name, answer, 200, 100).regions}
    for end in range(len(answer)):
        assert {region.box for region in read_boxes(name, answer[:end], 200, 100).regions} <= whole


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("maira-2", "<obj>a <box><x20><y10><x20><y29></box></obj>"),  # flat
        ("maira-2", "<obj>a <box><x20><y10><x100><y29></box></obj>"),  # no such bin
        ("maira-2", "<obj>a <box><x20><y10"),
        ("radvlm", "[0.2, 0.1, 1.4, 0.3]"),
        ("radvlm", "[0.2, 0.1, 0.2, 0.3]"),
        ("radvlm", "[20, 10, 40, 30]"),
        ("chexagent-2", "<|ref|>a<|/ref|><|box|>(20,10),(140,30)<|/box|>"),
        ("chexagent-2", "<|ref|>a<|/ref|><|box|>(20,10)"),
        ("medmo", "a <box>[[200, 100, 1400, 300]]</box>"),
        ("medmo", "a <box>[[200, 100"),
        ("medgemma-1.5", '[{"box_2d": [100, 200, 100, 400], "label": "a"}]'),
        ("medgemma-1.5", '[{"box_2d": [100, 200, 1'),
    ],
)
def test_what_cannot_be_read_as_a_box_is_told(name, answer):
    parsed = read_boxes(name, answer, 200, 100)
    assert parsed.regions == ()
    assert len(parsed.unreadable) == 1


def test_words_beside_the_boxes_are_kept():
    parsed = read_boxes("maira-2", "<obj>No effusion.</obj><obj>A nodule. <box><x1><y1><x5><y5></box></obj>", 10, 10)
    assert [region.label for region in parsed.regions] == ["A nodule."]
    assert parsed.text == "No effusion"
    assert read_boxes("radvlm", "It is at [0.1, 0.1, 0.5, 0.5], on the left.", 10, 10).text == "It is at , on the left"


def test_declared_data_is_checked():
    declared = dialects()["medmo"].model_dump()
    with pytest.raises(ValueError, match="order"):
        Dialect.model_validate(declared | {"order": ["x0", "y0", "x1", "x1"]})
    with pytest.raises(ValueError, match="box"):
        Dialect.model_validate(declared | {"box": r"\[(\d+)\]"})
    with pytest.raises(ValueError, match="group"):
        Dialect.model_validate(declared | {"group": "<box>"})


@pytest.mark.parametrize("name", ANSWERS)
def test_swapping_the_model_is_a_key_of_the_plan(name, make, tmp_path):
    make(np.arange(200 * 100, dtype=np.uint16).reshape(200, 100))
    (study,), _ = load_studies([tmp_path])
    answer, expected = ANSWERS[name]
    runtime = ScriptedRuntime({"<ref>Nodule</ref>": answer}, default="No finding", commissioning=False)
    objects = [PlanObject(label=label, concept=label, en=label, zh=label) for label in ("Nodule", "Mass")]
    words = ImageWords(noun="X-ray image", with_article="an X-ray image")
    reading = read_study(
        study, Plan(name="test", tasks=["detection"], dialect=name, objects=objects, image=words), runtime
    )
    assert reading.state is RunState.FINDINGS
    assert any(finding.regions[0].box == pytest.approx(expected) for finding in reading.findings)
    assert len(runtime.calls) == (2 if dialects()[name].one_object else 1)


def test_another_model_is_asked_in_its_own_words(make, tmp_path):
    make(np.arange(200 * 100, dtype=np.uint16).reshape(200, 100))
    (study,), _ = load_studies([tmp_path])
    (tmp_path / "mine.toml").write_text(OWN_WORDS, "utf-8")
    plan = load_plan(tmp_path / "mine.toml")
    runtime = ScriptedRuntime({"<image>\nWhere is Nodule?": ANSWERS["radvlm"][0]}, default="?", commissioning=False)
    told: list[tuple[int, int]] = []
    reading = read_study(study, plan, runtime, progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 1)]
    assert [call.question for call in runtime.calls] == ["<image>\nWhere is Nodule?"]
    assert len(reading.findings) == 2
    assert reading.prompts_version not in (
        Prompts.shipped().version,
        plan.model_copy(update={"prompts": {}}).wording().version,
    )


def test_prompt_with_an_unknown_place_is_refused_at_its_line(tmp_path):
    (tmp_path / "mine.toml").write_text(OWN_WORDS.replace("{names}", "{patient}"), "utf-8")
    with pytest.raises(PlanError, match=r"line 8, column \d+.*no place \{patient\}"):
        load_plan(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [({"dialect": "latin"}, "no dialect 'latin'"), ({"dialect": "medmo", "constrained": True}, "medrega")],
)
def test_plan_with_an_impossible_dialect_is_refused(keys, complaint):
    with pytest.raises(ValueError, match=complaint):
        Plan(name="test", tasks=["report"], image=ImageWords(noun="CT scan", with_article="a CT scan"), **keys)
