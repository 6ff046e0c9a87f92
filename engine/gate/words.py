"""Words that may be shown: without the sentences that the model cannot know, or that contradict its boxes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from engine.findings import Language
from engine.gate.boxes import Candidate, iou
from engine.gate.claims import Given, unsupported
from engine.gate.sides import Sides, stated_sides
from engine.grammar import Parsed
from engine.imaging import Transform
from engine.plan import PlanObject

DENIED: Final = "it denies what was located"
NOT_THERE: Final = "it names what the model, asked to locate it, said is not there"

SAME_PLACE: Final = 0.5
"""A sentence belongs to a box if its own box overlaps by at least this much (IoU)."""

# A full stop ends a sentence where no digit follows and no abbreviation or number of a list stands before it.
_END: Final = re.compile(
    r"(?:[。！？；\n]+|[!?;]+(?=\s|$)|(?<!\bDr)(?<!\bNo)(?<!\bvs)(?<!\b\d)\.(?=\s|[A-Z\u4e00-\u9fff]|$))\s*"
)
_HEADING: Final = re.compile(
    r"(?:\b(?:findings?|impressions?)|影像(?:诊断|所见|表现|结论)|影响结论)\s*[:：]\s*", re.IGNORECASE
)
_HAN: Final = re.compile(r"[\u4e00-\u9fff]")
_DENIAL: Final = (
    r"\b(?:no|without|free of|negative for|absence of|rather than)\b"
    r"|未见|未发现|未显示|无|没有|(?<![不难])(?<!不能)排除"
)
# Where a denial ends; in English it goes on over the commas of a list.
_CLAUSE: Final = re.compile(r"[;；。，]|,(?=\s*[\u4e00-\u9fff])|\b(?:but|however|although)\b|但", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Passed:
    """What of a text may be shown.

    Parameters
    ----------
    text : str
        Empty where nothing may.
    held : tuple of (str, str)
        Reasons, each with the sentence that it is about.
    """

    text: str
    held: tuple[tuple[str, str], ...] = ()


def sentences(text: str) -> list[str]:
    """A text's sentences, each with what separates it from the next; joined they are the text."""
    cuts = sorted({match.end() for match in _END.finditer(text)} | {match.start() for match in _HEADING.finditer(text)})
    places = [0, *(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(places) if text[start:end]]


def sentence_for(candidate: Candidate, parsed: Parsed, transform: Transform) -> str | None:
    """Return what a grounded answer says of a candidate: None unless one of its boxes is at the same place.

    Where the answer has one sentence for each box, the box gets its own; otherwise all of the text.
    """
    near = [
        iou(candidate.box, transform.to_source(region.box)) if region.in_range else 0.0 for region in parsed.regions
    ]
    if not near or max(near) < SAME_PLACE or not parsed.text:
        return None
    each = [sentence.strip() for sentence in sentences(parsed.text) if sentence.strip()]
    return each[near.index(max(near))] if len(each) == len(near) else parsed.text


def pass_words(text: str, language: Language, given: Given, sides: Sides, candidate: Candidate | None = None) -> Passed:
    """Let what is said about a box, or about an image as a whole, pass.

    Parameters
    ----------
    text : str
    language : Language
        What it should be written in.
    given : Given
        What the picture is known to show.
    sides : Sides
        Of the picture.
    candidate : Candidate, optional
        The box.
    """

    def contradiction(sentence: str) -> str | None:
        if sides.contradict(stated_sides(sentence), candidate.box if candidate else None):
            return f"it names another side than that of the {'box' if candidate else 'image'}"
        if candidate and _denies(sentence, candidate.object):
            return "it denies what the box is said to show"
        return None

    return _sift(text, language, given, contradiction)


def pass_report(
    text: str,
    language: Language,
    given: Given,
    sides: Sides,
    candidates: Sequence[Candidate],
    absent: Collection[PlanObject] = (),
) -> Passed:
    """Let a report about an image pass, as far as it agrees with what was located on it.

    Parameters
    ----------
    text : str
    language : Language
    given : Given
    sides : Sides
    candidates : sequence of Candidate
        What was located.
    absent : collection of PlanObject
        What the model, asked to locate it, said is not there.
    """

    def contradiction(sentence: str) -> str | None:
        named = stated_sides(sentence)
        if sides.contradict(named):
            return "it names another side than that of the image"
        for item in dict.fromkeys(candidate.object for candidate in candidates):
            boxes = [candidate.box for candidate in candidates if candidate.object == item]
            if not _names(sentence, item):
                continue
            elsewhere = all(sides.contradict(named, box) for box in boxes)
            negated = _denies(sentence, item)
            if negated and not elsewhere:
                return DENIED
            if elsewhere and not negated:
                return "it names another side than that of the box"
        if any(_names(sentence, item) and not _denies(sentence, item) for item in absent):
            return NOT_THERE
        return None

    return _sift(text, language, given, contradiction)


def denied(passed: Passed, candidates: Sequence[Candidate]) -> list[PlanObject]:
    """Return what was located and a report, of which those sentences were held back, denies."""
    said = [words for reason, words in passed.held if reason == DENIED]
    items = dict.fromkeys(candidate.object for candidate in candidates)
    return [item for item in items if any(_denies(words, item) for words in said)]


def _sift(text: str, language: Language, given: Given, contradiction: Callable[[str], str | None]) -> Passed:
    """Take sentences out; a heading goes with the last sentence under it."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    held: list[tuple[str, str]] = []
    for sentence in sentences(text):
        heading = _HEADING.match(sentence)
        if heading:
            parts.append((heading[0], []))
        words = sentence[heading.end() :] if heading else sentence
        if not words.strip(" \t\n.。;；"):
            continue
        reason = unsupported(words, given) or contradiction(words) or _foreign(words, language)
        if not reason and words.strip() in map(str.strip, parts[-1][1]):
            reason = "it repeats another sentence"
        if reason:
            held.append((reason, words.strip()))
        else:
            parts[-1][1].append(words)
    if not held:
        return Passed(text)
    kept = "".join(heading + "".join(words) for heading, words in parts if words)
    return Passed(kept.strip(), tuple(held))


def _foreign(words: str, language: Language) -> str | None:
    """A text in the other language than asked; names and numbers are alike in both."""
    han = len(_HAN.findall(words))
    small = len(re.findall(r"[a-z]", words))  # CT and MRI are the same in both
    if (language == "zh" and not han and small > 1) or (language == "en" and han > small):
        return "it is not in the language that was asked for"
    return None


def _names(sentence: str, item: PlanObject) -> bool:
    return any(re.search(pattern, sentence, re.IGNORECASE) for pattern in _patterns(item))


def _denies(sentence: str, item: PlanObject) -> bool:
    """Whether a sentence says that there is no such thing: wherever it names it, behind a denial."""
    clauses = [clause for clause in _CLAUSE.split(sentence) if _names(clause, item)]
    return bool(clauses) and all(
        any(re.search(rf"(?:{_DENIAL}).*{pattern}", clause, re.IGNORECASE) for pattern in _patterns(item))
        for clause in clauses
    )


def _patterns(item: PlanObject) -> list[str]:
    words = {re.escape(name) for name in (item.label, item.en)}
    return [*(rf"(?<![A-Za-z]){word}(?:s|es)?(?![A-Za-z])" for word in sorted(words)), re.escape(item.zh)]
