"""The metrics against figures computed by hand and by others, and a run that is stopped and goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.errors import MedregaError, RuntimeLostError
from engine.evaluation import Answers, Sample, ask_all, read_samples, score
from engine.evaluation.metrics import (
    iou,
    label_counts,
    label_values,
    pair,
    region_counts,
    region_values,
    text_counts,
    text_values,
    with_intervals,
    words,
)
from engine.runtime.scripted import LOST, ScriptedRuntime

HMA = "You are a helpful medical assistant. "
DETECT = (
    f'{HMA}Use "<ref>object</ref><box>[[x1, y1, x2, y2]]</box>". <image>\nPlease locate <ref>disc</ref> in this scan.'
)


def _close(values: Any, **expected: float) -> None:
    for name, value in expected.items():
        assert float(values[name.replace("_", " ")]) == pytest.approx(value), name


def test_words_are_those_of_both_languages() -> None:
    assert words("The Left lung, 2.5 mm: 右肺 CT正常。") == [
        "the",
        "left",
        "lung",
        "2",
        "5",
        "mm",
        "右",
        "肺",
        "ct",
        "正",
        "常",
    ]


def test_text_figures_by_hand() -> None:
    # 2 of 3 words shared, wanted 4; then nothing of 1, wanted 1: BLEU-1 = exp(1 - 5/4) * 2/4.
    sums = text_counts("the left lung", "left lung is clear") + text_counts("yes", "no")
    values = text_values(sums)
    assert float(values["BLEU-1"]) == pytest.approx(math.exp(-0.25) * 0.5)
    assert float(values["F1"]) == pytest.approx((4 / 7 + 0) / 2)
    assert float(values["accuracy"]) == 0
    assert float(text_values(text_counts("Yes.", "yes"))["accuracy"]) == 1
    assert float(text_values(text_counts("", "no"))["BLEU-1"]) == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), min_size=1, max_size=7)] * 2),
        min_size=1,
        max_size=5,
    )
)
def test_corpus_bleu_is_sacrebleu_s(pairs: list[tuple[list[str], list[str]]]) -> None:
    said, wanted = ([" ".join(pair[side]) for pair in pairs] for side in (0, 1))
    metric = sacrebleu.BLEU(max_ngram_order=1, tokenize="none", smooth_method="none", force=True)
    ours = text_values(np.sum([text_counts(one, other) for one, other in zip(said, wanted, strict=True)], 0))
    assert 100 * float(ours["BLEU-1"]) == pytest.approx(metric.corpus_score(said, [wanted]).score)


def test_label_figures_by_hand() -> None:
    labels = ["edema", "mass", "fracture", "never"]
    answers = [({"edema"}, {"edema"}), ({"mass", "edema"}, {"mass"}), (set(), {"fracture"})]
    values = label_values(sum(label_counts(frozenset(a), frozenset(r), labels) for a, r in answers))
    # F1: edema 2/3, mass 1, fracture 0; "never" occurs nowhere.
    _close(values, accuracy=1 / 3)
    assert float(values["macro-F1"]) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_boxes_are_paired_so_that_they_fit_best() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0
    # Taking the best pair first would leave the second box without any.
    first, second = [(0, 0, 10, 10), (0, 0, 10, 6)], [(0, 0, 10, 8), (0, 6, 10, 20)]
    assert [(a, b) for a, b, _ in pair(first, second)] == [(0, 1), (1, 0)]
    assert pair([], second) == []


def test_region_figures_by_hand() -> None:
    reference = [("Disc", (0.0, 0.0, 10.0, 10.0)), ("line", (20.0, 20.0, 30.0, 30.0))]
    answer = [("disc", (0.0, 0.0, 10.0, 8.0)), ("ring", (20.0, 20.0, 30.0, 26.0)), ("ring", (50.0, 50.0, 60.0, 60.0))]
    values = region_values(region_counts(answer, reference))
    _close(values, IoU=0.7, region_precision=2 / 3, region_recall=1, region_F1=0.8)
    assert [float(values[f"Acc@{at}"]) for at in ("0.25", "0.50", "0.75")] == [1, 1, 0.5]
    _close(values, object_precision=1 / 2, object_recall=1 / 2, object_F1=1 / 2)
    _close(values, object_and_region_precision=1 / 3, object_and_region_recall=1 / 2, object_and_region_F1=0.4)
    nothing = region_values(region_counts([], reference))
    _close(nothing, IoU=0, region_recall=0, region_F1=0)
    assert np.isnan(nothing["region precision"])


def test_an_interval_holds_what_theory_says() -> None:
    counts = np.stack([text_counts("yes", "yes" if n % 4 else "no") for n in range(400)])
    value, low, high = with_intervals(counts, text_values)["accuracy"]
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert value == 0.75
    assert (value - low, high - value) == pytest.approx((half, half), rel=0.15)
    assert with_intervals(counts, text_values) == with_intervals(counts, text_values)  # drawn alike each time


@pytest.mark.parametrize(
    ("question", "reference", "kind", "language"),
    [
        ("<image>\nWhat is present?", "cardiovascular", "vqa", "en"),
        ("<image>\n这张图片的成像方式是什么?", "CT", "vqa", "zh"),
        (f"{HMA}Your task is report generation. <image>\n", "Findings: clear. Impression: normal", "report", "en"),
        ("你的任务是生成诊断报告。<image>\n", "影像诊断：清晰", "report", "zh"),
        ("Possible:\n The possible diagnoses are:\nnormal\ndrusen\n<image>\nPlease", "drusen", "classification", "en"),
        ("<image>\nWhat is <ref>this</ref><box>[[1, 2, 3, 4]]</box>?", "mandible", "identification", "en"),
        (DETECT, "<ref>disc</ref><box>[[1, 2, 30, 40], [5, 6, 70, 80]]</box>", "detection", "en"),
        (
            "请定位并描述<image><ref>胰腺癌</ref>",
            "<ref>胰腺癌</ref><box>[[1, 2, 30, 40]]</box>：肿块",
            "grounded",
            "zh",
        ),
    ],
)
def test_what_is_asked_is_told_by_the_sample(question: str, reference: str, kind: str, language: str) -> None:
    sample = Sample("1", "a.png", question, reference)
    assert (sample.kind, sample.language) == (kind, language)


def _write(folder: Path, samples: list[tuple[str, str]]) -> Path:
    lines = []
    for number, (question, reference) in enumerate(samples):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reference}]
        lines.append(json.dumps({"id": number, "image": f"./{number}.png", "conversations": turns}, ensure_ascii=False))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return folder / "data.jsonl"


LABELS = "The possible diagnoses are:\nNo finding\nEdema\nMass\n<image>\nPlease diagnose the disease."
SAMPLES = [
    (DETECT, "<ref>disc</ref><box>[[0, 0, 100, 100]]</box>"),
    (LABELS, "Edema, Mass"),
    ("<image>\nIs it a CT?", "yes"),
    ("Where is it? <image>\nPlease locate <ref>line</ref>.", "<ref>line</ref><box>[[0, 0, 100, 100]]</box>"),
]
ANSWERS = {"disc": "[[0, 0, 100, 50]]", "diagnoses": "mass, edema, oddity", "CT": "Yes", "line": "<box>[[1, 2]]</box>"}


def test_a_run_is_scored_by_kind(tmp_path: Path) -> None:
    samples = read_samples(_write(tmp_path, SAMPLES))
    runtime = ScriptedRuntime(ANSWERS)
    answers = Answers(tmp_path / "answers.jsonl", runtime, 400)
    done: list[int] = []
    ask_all(samples, tmp_path, runtime, answers, in_flight=2, progress=done.append)
    assert (done[0], done[-1]) == (0, 4)
    scores = {one.group: one for one in score(samples, answers.given)}
    detection = scores["detection, en"]
    assert (detection.samples, detection.unreadable) == (2, 1)
    assert detection.figures["IoU"][0] == 0.25  # a half box of the first, nothing of the second
    assert detection.figures["object and region precision"][0] == 1  # a box without a name is of what was asked for
    labels = scores["classification, en, 3 labels"]
    assert (labels.figures["macro-F1"][0], labels.unreadable) == (1.0, 1)
    assert scores["vqa, en"].figures["accuracy"][0] == 1


def test_a_run_that_broke_off_asks_only_what_is_left(tmp_path: Path) -> None:
    samples = read_samples(_write(tmp_path, SAMPLES))
    path = tmp_path / "answers.jsonl"
    broken = ScriptedRuntime(ANSWERS | {"CT": LOST})
    with pytest.raises(RuntimeLostError):
        ask_all(samples, tmp_path, broken, Answers(path, broken, 400))
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"sample": "killed in the mid')
    lost = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    runtime = ScriptedRuntime(ANSWERS)
    lost["model"] = json.loads(json.dumps({**lost["model"], "weights_digest": runtime.identity.weights_digest}))
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([json.dumps(lost) + "\n", *lines[1:]]), encoding="utf-8")  # as if it were the same model
    answers = Answers(path, runtime, 400)
    given = len(answers.given)
    ask_all(samples, tmp_path, runtime, answers)
    assert given >= 2
    assert len(runtime.calls) == 4 - given
    assert Answers(path, runtime, 400).given == answers.given
    assert len(answers.given) == 4
    with pytest.raises(MedregaError, match="another model"):
        Answers(path, ScriptedRuntime({}), 400)


def test_an_image_that_cannot_be_read_is_told_and_tried_again(tmp_path: Path) -> None:
    samples = read_samples(_write(tmp_path, SAMPLES[2:3]))
    good = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(good[:30])
    runtime = ScriptedRuntime(ANSWERS)
    answers = Answers(tmp_path / "answers.jsonl", runtime, 400)
    ask_all(samples, tmp_path, runtime, answers)
    assert answers.given == {}
    assert "cannot be decoded" in answers.refused[samples[0].digest]
    (tmp_path / "0.png").write_bytes(good)
    ask_all(samples, tmp_path, runtime, answers)
    assert list(answers.given.values()) == ["Yes"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is no sample"),
        ('{"id": 1, "image": "a.png"}', "conversations"),
        ('{"id": 1, "image": ["a", "b"], "conversations": []}', "not one question"),
        ("[]", "line 2"),
    ],
)
def test_a_line_that_is_no_sample_is_numbered(tmp_path: Path, line: str, words: str) -> None:
    path = _write(tmp_path, SAMPLES[:1])
    path.write_text(path.read_text(encoding="utf-8").strip() + f"\n{line}\n", encoding="utf-8")
    with pytest.raises(MedregaError, match=words):
        read_samples(path)
