"""Classification: which diagnoses, which organ, which tissue does an image show, of a set of labels?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from engine.answers import Labels, parse_labels
from engine.findings import Finding, Language
from engine.gate import DISAGREEMENT, Candidate, certainty
from engine.interview import ImageInterview, clean
from engine.labels import LabelSet, LabelTask
from engine.runtime.protocol import Answer
from engine.tasks.regional import located

_SHOWN: Final[dict[tuple[LabelTask, Language], str]] = {
    ("organ", "en"): "Organ: {}.",
    ("organ", "zh"): "器官：{}。",
    ("tissue", "en"): "Tissue: {}.",
    ("tissue", "zh"): "组织：{}。",
}


def classify(image: ImageInterview, candidates: Sequence[Candidate]) -> None:
    """Ask for the diagnoses of each of the plan's label sets; each is an image-level finding, "no finding" is none."""
    for labels in image.plan.sets_of("classification"):
        answer, parsed = _ask(image, "classification", labels, candidates)
        if not parsed.usable:
            image.record.partial = True
        elif parsed.nothing:
            image.record.nothing += 1
            if candidates:
                image.hold("the classification says that there is nothing, and something was located", answer.text)
        for named in parsed.named if parsed.usable else ():
            names = {language: named.label.names[language] for language in image.languages}
            text = {language: name[:1].upper() + name[1:] for language, name in names.items()}
            finding = Finding(
                clean(named.label.word), named.label.concept, names, text, certainty(answer, [named.span]), ()
            )
            if finding.certainty and finding.concept in {item.concept for item in image.absent}:
                note = "asked to locate it, the model said that it is not there"
                finding = replace(finding, certainty=finding.certainty * DISAGREEMENT, notes=(note,))
            if weighed := image.weighed(finding):
                image.record.name(weighed, image.number)


def recognise(image: ImageInterview, task: LabelTask) -> None:
    """Ask which organ or tissue an image shows: recorded, told in the report where the plan says so, and no finding."""
    for labels in image.plan.sets_of(task):
        answer, parsed = _ask(image, task, labels, ())
        if len(parsed.named) > 1:
            image.hold(f"the answer names more than one {task}", answer.text)
        elif parsed.usable and task in image.plan.narrate:
            for language in image.languages:
                words = _SHOWN[task, language].format(parsed.named[0].label.names[language])
                image.record.narratives.setdefault(language, []).append((image.number, words))


def _ask(
    image: ImageInterview,
    task: LabelTask,
    labels: LabelSet,
    candidates: Sequence[Candidate],
) -> tuple[Answer, Labels]:
    """Ask in the model's own vocabulary, which is English; the other names are the label table's."""
    answer = image.ask(
        task,
        "en",
        template=labels.template,
        image=labels.image,
        an_image=labels.an_image,
        labels=[label.word for label in labels.labels],
        note=labels.note,
        located=located(image, candidates, "en"),
    )
    parsed = parse_labels(answer.text, labels, complete=answer.finish != "length")
    for words in parsed.unreadable:
        image.hold("this part of the answer is no label that was asked for", words)
    if parsed.named and parsed.nothing:
        image.hold("the answer names labels and says that there is nothing", answer.text)
    elif not parsed.named and not parsed.nothing and not parsed.unreadable:
        image.hold("the answer names no label", answer.text)
    return answer, parsed
