"""Report generation: findings and impression of an image in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.findings import Finding, Language
from engine.grammar import is_nothing, parse
from engine.grounding import certainty
from engine.interview import ImageInterview, clean
from engine.report import impression, is_report

_NAMES: Final[dict[Language, str]] = {"en": "Report", "zh": "报告"}


def report(image: ImageInterview) -> None:
    """Ask for a report in each language; where nothing is located, it is itself the finding."""
    texts: dict[Language, str] = {}
    sure: float | None = None
    for language in image.languages:
        answer = image.ask("report", language)
        parsed = parse(answer.text)
        text = clean(parsed.text)
        if not is_report(text, language) or parsed.unreadable:
            image.hold("the answer has not the form of a report", answer.text)
            continue
        if answer.finish == "length":
            image.hold("the report broke off at its greatest length; there may have been more", "")
            image.record.partial = True
        image.record.narratives.setdefault(language, []).append((image.number, text))
        texts[language] = text
        sure = certainty(answer) if sure is None else sure
    if not image.wants("detection"):
        if texts:
            _image_level(image, texts, sure)
        else:
            image.record.partial = True  # others may have been clear; nothing is known of this one


def _image_level(image: ImageInterview, texts: Mapping[Language, str], sure: float | None) -> None:
    """A report that no box goes with is itself the finding, unless it says that there is nothing."""
    last = {language: impression(text, language) for language, text in texts.items()}
    if all(is_nothing(text) for text in last.values()):
        image.record.nothing += 1
        return
    names = {language: _NAMES[language] for language in texts}
    image.record.findings.append(Finding("report", "report", names, last, sure, ()))
