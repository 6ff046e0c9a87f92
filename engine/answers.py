"""What the answers of the other tasks mean: labels, a report, a phrase. As in `engine.grammar`, any string goes in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engine.findings import Language
from engine.grammar import is_nothing, plain
from engine.labels import Label, LabelSet

_BETWEEN: Final = re.compile(r"[,，、;；\n]+")
_AND: Final = re.compile(r"\band\b|和|及")
_HEADINGS: Final[dict[Language, tuple[re.Pattern[str], re.Pattern[str]]]] = {
    "en": (re.compile(r"\bfindings?\s*[:：]", re.IGNORECASE), re.compile(r"\bimpressions?\s*[:：]", re.IGNORECASE)),
    "zh": (re.compile(r"影像(?:诊断|所见|表现)\s*[:：]"), re.compile(r"影[像响]结论\s*[:：]")),
}


@dataclass(frozen=True, slots=True)
class Named:
    """A label that an answer names, and the characters of the answer that do."""

    label: Label
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Labels:
    """The answer of a classification.

    Parameters
    ----------
    named : tuple of Named
        In the order of the answer, each label once; without those that say that there is nothing.
    nothing : bool
        Whether it says that there is nothing to find.
    unreadable : tuple of str
        Parts that are no label of the set.
    """

    named: tuple[Named, ...]
    nothing: bool
    unreadable: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether it says something, and does not contradict itself."""
        return bool(self.named) != self.nothing


@dataclass(frozen=True, slots=True)
class ReportText:
    """The answer of a report: its parts without their headings, empty where it lacks one."""

    findings: str
    impression: str


def parse_labels(answer: str, labels: LabelSet, *, complete: bool = True) -> Labels:
    """Read labels separated by commas.

    Parameters
    ----------
    answer : str
    labels : LabelSet
    complete : bool
        False where the answer broke off: its last label may be the beginning of another one, and is not read.
    """
    named: dict[Label, Named] = {}
    unreadable: list[str] = []
    nothing = False
    pieces = [piece for start, end in _pieces(answer) for piece in _split(answer, start, end, labels)]
    for place, (start, end) in enumerate(pieces):
        word = _bare(answer[start:end])
        label = labels.find(word)
        if not complete and place == len(pieces) - 1:
            unreadable.append(word)
        elif (label is not None and not label.concept) or (label is None and is_nothing(word)):
            nothing = True
        elif label is None:
            unreadable.append(word)
        else:
            named.setdefault(label, Named(label, (start, end)))
    return Labels(tuple(named.values()), nothing, tuple(unreadable))


def parse_report(answer: str, language: Language) -> ReportText | None:
    """Take a report apart at its headings; None if it has none, or no words behind them."""
    first, second = _HEADINGS[language]
    at, then = first.search(answer), second.search(answer)
    if at and then and then.start() < at.start():
        at = None
    findings = answer[at.end() : then.start() if then else None].strip() if at else ""
    impression = answer[then.end() :].strip() if then else ""
    return ReportText(findings, impression) if findings or impression else None


def parse_phrase(answer: str) -> str:
    """Return the word or phrase of an answer, without tags and full stop; empty where it says nothing."""
    return plain(answer)


def _pieces(answer: str) -> Iterator[tuple[int, int]]:
    """The parts between separators that hold anything."""
    start = 0
    for gap in [*_BETWEEN.finditer(answer), None]:
        end = gap.start() if gap else len(answer)
        if _bare(answer[start:end]):
            yield start, end
        start = gap.end() if gap else end


def _split(answer: str, start: int, end: int, labels: LabelSet) -> Iterator[tuple[int, int]]:
    """A part as it is, or cut at its "and"s where only its halves are labels."""
    cuts = [] if labels.find(_bare(answer[start:end])) else list(_AND.finditer(answer, start, end))
    halves = list(zip([start, *(c.end() for c in cuts)], [*(c.start() for c in cuts), end], strict=True))
    whole = all(labels.find(_bare(answer[first:last])) for first, last in halves)
    yield from (half for half in halves) if whole else [(start, end)]


def _bare(piece: str) -> str:
    return plain(piece).strip("\"'“” ")
