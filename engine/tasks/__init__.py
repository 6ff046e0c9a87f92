"""The tasks a plan may name: each asks one kind of question about an image and makes of the answers what they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.dialects import one_object
from engine.findings import Language
from engine.gate import Candidate
from engine.interview import ImageInterview
from engine.labels import LABEL_TASKS
from engine.plan import FINDING_TASKS, Plan, Task
from engine.tasks.classification import classify, recognise
from engine.tasks.detection import detect
from engine.tasks.grounded import Texts, describe, ground
from engine.tasks.identification import finding_of
from engine.tasks.report import report
from engine.tasks.vqa import answer_questions

__all__ = ["questions_per_image", "read_image"]


def read_image(image: ImageInterview) -> None:
    """Ask all that the plan asks about one image; the answers go to the interview's record.

    What is located comes first, so that the later questions can tell of it (regional chain of thought).
    """
    nothing = image.record.nothing
    candidates, texts = _locate(image)
    for candidate in candidates:
        if finding := image.weighed(finding_of(image, candidate, texts.get(candidate, {}))):
            image.record.findings.append(finding)
    if image.wants("classification"):
        classify(image, candidates)
    if image.wants("organ"):
        recognise(image, "organ")
    if image.wants("tissue"):
        recognise(image, "tissue")
    if image.wants("vqa"):
        answer_questions(image, candidates)
    if image.wants("report"):
        alone = {"report"} == set(FINDING_TASKS).intersection(image.plan.tasks)
        if report(image, candidates, alone=alone):
            image.record.nothing, image.record.partial = nothing, True  # the model contradicts itself


def questions_per_image(plan: Plan, languages: Sequence[Language], skipped: Collection[Task] = ()) -> int:
    """How many questions an image costs before anything is found on it, but for the skipped tasks."""
    tasks = set(plan.tasks).difference(skipped)
    each_object = "detection" in tasks and one_object(plan.dialect)
    once = len(plan.objects) if each_object else bool({"detection", "grounded"} & tasks)
    once += sum(len(plan.sets_of(task)) for task in LABEL_TASKS if task in tasks)
    each = ("report" in tasks) + ("vqa" in tasks) * len(plan.questions)
    return once + each * len(languages)


def _locate(image: ImageInterview) -> tuple[list[Candidate], Texts]:
    if image.wants("detection"):
        candidates = detect(image)
        return candidates, describe(image, candidates, image.languages) if image.wants("grounded") else {}
    return ground(image) if image.wants("grounded") else ([], {})
