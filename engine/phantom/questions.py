"""What the phantom reader is asked, and what it should say: the published prompt templates filled for phantoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.findings import Language
from engine.phantom.drawing import LABELS, Insert, Scene
from engine.prompts import Prompts

CHINESE: Final = dict(
    zip(LABELS, ("圆盘", "圆环", "线对", "十字", "楔形", "乳房", "肿块", "钙化点", "纤维"), strict=True)
)
NOTHING: Final = {"en": "No finding", "zh": "未见异常"}

_IMAGE: Final[dict[str, Any]] = {"image": "X-ray image", "an_image": "an X-ray image"}

_PLACES: Final = {
    "en": (
        ("upper left", "upper part", "upper right"),
        ("left side", "centre", "right side"),
        ("lower left", "lower part", "lower right"),
    ),
    "zh": (("左上部", "上部", "右上部"), ("左侧", "中央", "右侧"), ("左下部", "下部", "右下部")),
}


@dataclass(frozen=True)
class Exchange:
    """A question with the answer that the scene's truth gives."""

    question: str
    answer: str


def question(task: str, language: Language, **words: Any) -> str:
    """A prompt of the table that ships, about an X-ray image."""
    return Prompts.shipped().compose(task, language, **_IMAGE, **words).text


def box_999(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """Fractions of the image to the model's integers (``pixel = v / 999 * columns``)."""
    x0, y0, x1, y1 = (min(999, max(0, round(v * 999))) for v in box)
    return x0, y0, x1, y1


def written(boxes: list[tuple[int, int, int, int]]) -> str:
    """``[[x1, y1, x2, y2], [...]]``."""
    return "[" + ", ".join("[" + ", ".join(map(str, box)) + "]" for box in boxes) + "]"


def in_order(scene: Scene) -> list[tuple[str, list[Insert]]]:
    """Inserts by label in the question's order, each label's from left to right."""
    groups = [(label, [i for i in scene.inserts if i.label == label]) for label in LABELS]
    return [(label, sorted(found, key=lambda i: (i.box[0], i.box[1]))) for label, found in groups if found]


def name(label: str, language: Language) -> str:
    """The label in a language."""
    return label if language == "en" else CHINESE[label]


def sentence(insert: Insert, language: Language) -> str:
    """What is to be said about an insert."""
    x0, y0, x1, y1 = insert.box
    place = _PLACES[language][min(2, int((y0 + y1) * 1.5))][min(2, int((x0 + x1) * 1.5))]
    label = name(insert.label, language)
    if insert.label == "breast":
        left = (x0 + x1) / 2 < 0.5
        if language == "en":
            return f"A breast on the {'left' if left else 'right'} side."
        return f"{'左侧' if left else '右侧'}见乳房。"
    if language == "en":
        article = "" if label == "specks" else "a "
        words = f"{article}{'bright' if insert.bright else 'dark'} {label} in the {place}."
        return words[0].upper() + words[1:]
    return f"{place}见一{'高' if insert.bright else '低'}密度{label}。"


def detection(scene: Scene) -> Exchange:
    """All objects at once."""
    groups = [
        f"<ref>{label}</ref><box>{written([box_999(i.box) for i in found])}</box>" for label, found in in_order(scene)
    ]
    return Exchange(question("detection", "en", objects=LABELS), ", ".join(groups) or NOTHING["en"])


def identification(scene: Scene, language: Language, rng: np.random.Generator) -> Exchange:
    """A box asked back; one time in six a box that holds nothing."""
    if scene.inserts and rng.random() < 5 / 6:
        insert = scene.inserts[rng.integers(len(scene.inserts))]
        x0, y0, x1, y1 = insert.box
        jitter = rng.normal(0, 0.035, 4) * [x1 - x0, y1 - y0, x1 - x0, y1 - y0]
        box = (x0 + jitter[0], y0 + jitter[1], x1 + jitter[2], y1 + jitter[3])
        said = name(insert.label, language)
    else:
        empty = _empty_box(scene, rng)
        if empty is None:
            return detection(scene)
        box, said = empty, NOTHING[language]
    return Exchange(question("identification", language, box=box_999(box)), said)


def _empty_box(scene: Scene, rng: np.random.Generator) -> tuple[float, float, float, float] | None:
    others = [i.box for i in scene.inserts if i.label != "breast"]
    for _ in range(10):
        (x0, y0), (w, h) = rng.uniform(0, 0.7, 2), rng.uniform(0.1, 0.3, 2)
        box = (x0, y0, x0 + w, y0 + h)
        if all(box[2] < o[0] or o[2] < box[0] or box[3] < o[1] or o[3] < box[1] for o in others):
            return box
    return None


def grounded(scene: Scene, language: Language, rng: np.random.Generator) -> Exchange:
    """A label to be located and described; one time in five one that is absent."""
    groups = dict(in_order(scene))
    if groups and rng.random() < 0.8:
        label = list(groups)[rng.integers(len(groups))]
        boxes = written([box_999(i.box) for i in groups[label]])
        text = " ".join(sentence(i, language) for i in groups[label])
        if language == "zh":
            text = text.replace(" ", "")
        shown = name(label, language)
        answer = f"<ref>{shown}</ref><box>{boxes}</box>{': ' if language == 'en' else '：'}{text}"
    else:
        label, answer = LABELS[rng.integers(len(LABELS))], NOTHING[language]
        if label in groups:
            return grounded(scene, language, rng)
    return Exchange(question("grounded", language, objects=[name(label, language)]), answer)


def report(scene: Scene, language: Language) -> Exchange:
    """Findings and impression in sentences."""
    found = [insert for _, group in in_order(scene) for insert in group]
    if language == "en":
        findings = " ".join(sentence(i, "en") for i in found) or "No insert is seen."
        names = ", ".join(label for label, _ in in_order(scene))
        return Exchange(question("report", "en"), f"Findings: {findings} Impression: {names or NOTHING['en']}.")
    findings = "".join(sentence(i, "zh") for i in found) or "未见插件。"
    names = "、".join(CHINESE[label] for label, _ in in_order(scene))
    return Exchange(question("report", "zh"), f"影像诊断：{findings}影像结论：{names or NOTHING['zh']}。")


def phrases() -> list[str]:
    """Stretches of words that answers are made of, for the tokenizer."""
    places = [place for table in _PLACES.values() for row in table for place in row]
    stubs = [
        "bright ",
        "dark ",
        "Bright ",
        "Dark ",
        " in the ",
        "见一",
        "高密度",
        "低密度",
        "No insert is seen.",
        "未见插件。",
    ]
    sides = ["A breast on the left side.", "A breast on the right side.", "左侧见乳房。", "右侧见乳房。"]
    heads = ["Findings: ", " Impression: ", "影像诊断：", "影像结论：", "Answer the questions."]
    return [*LABELS, *CHINESE.values(), *NOTHING.values(), *places, *stubs, *sides, *heads]


def random_exchange(scene: Scene, rng: np.random.Generator) -> Exchange:
    """Any question but detection."""
    language: Language = "en" if rng.random() < 0.5 else "zh"
    kind = rng.random()
    if kind < 0.4:
        return identification(scene, language, rng)
    return grounded(scene, language, rng) if kind < 0.75 else report(scene, language)
