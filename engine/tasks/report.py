"""Report generation: findings and impression of an image in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from engine.answers import parse_report
from engine.findings import Finding, Language
from engine.gate import NOT_THERE, Candidate, certainty, denied, pass_report
from engine.grammar import is_nothing
from engine.interview import ImageInterview, clean
from engine.tasks.regional import located

_NAMES: Final[dict[Language, str]] = {"en": "Report", "zh": "报告"}


def report(image: ImageInterview, candidates: Sequence[Candidate], *, alone: bool) -> bool:
    """Ask for a report in each language; where no other task finds anything (`alone`), it is itself the finding.

    Returns
    -------
    bool
        Whether it names what the model, asked to locate it, said is not there.
    """
    held: list[str] = []
    last: dict[Language, str] = {}
    sure: float | None = None
    for language in image.languages:
        answer = image.ask("report", language, located=located(image, candidates, language))
        parsed = image.parse(answer.text)
        text = clean(parsed.text)
        if parse_report(text, language) is None or parsed.unreadable:
            image.hold("the answer has not the form of a report", answer.text)
            continue
        passed = pass_report(text, language, image.given, image.sides, candidates, image.absent)
        text = image.passed(passed)
        held += [reason for reason, _ in passed.held]
        for item in denied(passed, candidates):
            image.record.note(item.concept, image.rendered, f"the report ({language}) denies it")
        parts = parse_report(text, language)
        if parts is None:
            continue  # nothing of it may be shown
        if answer.finish == "length":
            image.hold("the report broke off at its greatest length; there may have been more", "")
            image.record.partial = True
        image.record.narratives.setdefault(language, []).append((image.number, text))
        last[language] = parts.impression or text
        sure = certainty(answer) if sure is None else sure
    if alone:
        # A report of which a part is held back does not say that there is nothing, and of an image without a report
        # nothing is known; others may have been clear.
        if not last or (held and _clear(last)):
            image.record.partial = True
        else:
            _image_level(image, last, sure)
    return NOT_THERE in held


def _clear(last: Mapping[Language, str]) -> bool:
    return all(is_nothing(text) for text in last.values())


def _image_level(image: ImageInterview, last: Mapping[Language, str], sure: float | None) -> None:
    """A report that nothing else goes with is itself the finding, unless it says that there is nothing."""
    if _clear(last):
        image.record.nothing += 1
        return
    names = {language: _NAMES[language] for language in last}
    image.record.findings.append(Finding("report", "report", names, last, sure, ()))
