"""The tasks a plan may name: each asks one kind of question about an image and makes of the answers what they are."""

from __future__ import annotations

from collections.abc import Sequence

from engine.findings import Language
from engine.interview import ImageInterview
from engine.plan import Plan
from engine.tasks.detection import detect
from engine.tasks.grounded import describe
from engine.tasks.identification import finding_of
from engine.tasks.report import report

__all__ = ["questions_per_image", "read_image"]


def read_image(image: ImageInterview) -> None:
    """Ask all that the plan asks about one image; the answers go to the interview's record."""
    candidates = detect(image) if image.wants("detection") else []
    texts = describe(image, candidates) if image.wants("grounded") else {}
    for candidate in candidates:
        image.record.findings.append(finding_of(image, candidate, texts.get(candidate, {})))
    if image.wants("report"):
        report(image)


def questions_per_image(plan: Plan, languages: Sequence[Language]) -> int:
    """How many questions each image costs before anything is found on it."""
    return ("detection" in plan.tasks) + ("report" in plan.tasks) * len(languages)
