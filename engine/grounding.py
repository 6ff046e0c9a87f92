"""Checks that make a model's boxes fit to be shown: inside the image, of a size, once each, and how sure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from engine.findings import Box
from engine.grammar import ModelBox, Parsed
from engine.imaging import Transform
from engine.plan import Plan, PlanObject
from engine.runtime.protocol import Answer

SAME_BOX: Final = 0.9
"""Two boxes of one label that overlap by more (IoU) are one."""
SAME_PLACE: Final = 0.5
"""A sentence belongs to a box if its own box overlaps by at least this much (IoU)."""
DISAGREEMENT: Final = 0.5
"""What a certainty is multiplied by when the model, asked back, says something else."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A box that passed the checks.

    Parameters
    ----------
    object : PlanObject
        What the plan calls it.
    label : str
        What the model calls it.
    model_box : ModelBox
    box : Box
        In the SCOORD frame of the source frame.
    certainty : float or None
    """

    object: PlanObject
    label: str
    model_box: ModelBox
    box: Box
    certainty: float | None


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (_area(one) + _area(other) - both)


def certainty(answer: Answer, spans: Sequence[tuple[int, int]] = ()) -> float | None:
    """How probable a model found its own words: the geometric mean of its tokens' probabilities.

    Parameters
    ----------
    answer : Answer
    spans : sequence of (int, int)
        The characters of the answer that count; all of them without, or where the runtime does not tell places.

    Returns
    -------
    float or None
        0 to 1, uncalibrated; None where no token counts.
    """
    logprobs = list(answer.logprobs)
    if spans and len(answer.offsets) == len(logprobs):
        ends = [*answer.offsets[1:], len(answer.text)]
        logprobs = [
            logprob
            for logprob, first, last in zip(logprobs, answer.offsets, ends, strict=True)
            if any(first < end and start < last for start, end in spans)
        ]
    if not logprobs:
        return None
    mean = sum(logprobs) / len(logprobs)
    return min(1.0, math.exp(mean)) if math.isfinite(mean) else 0.0


def screen(
    parsed: Parsed, answer: Answer, plan: Plan, transform: Transform
) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Let the boxes of a detection pass that may be shown.

    Returns
    -------
    candidates : list of Candidate
    held_back : list of (str, str)
        Reason and words of what may not.
    """
    held = [("this part of the answer cannot be read as a box", words) for words in parsed.unreadable]
    passed: list[Candidate] = []
    for region in parsed.regions:
        words = f"{region.label}{list(region.box)}"
        found = plan.find(region.label)
        if found is None:
            held.append(("the box names nothing that was asked for", words))
            continue
        box = transform.to_source(region.box)
        if not region.in_range or not transform.contains(box):
            held.append(("the box reaches beyond the image", words))
        elif box[2] - box[0] < 1 or box[3] - box[1] < 1:
            held.append(("the box is smaller than a pixel", words))
        else:
            passed.append(Candidate(found, region.label, region.box, box, certainty(answer, region.spans)))
    kept = _merge(passed)
    held += [
        ("the same box was answered twice", f"{c.label}{list(c.model_box)}")
        for c in passed
        if all(c is not k for k in kept)
    ]
    return kept, held


def sentence_for(candidate: Candidate, parsed: Parsed, transform: Transform) -> str | None:
    """Return what a grounded answer says of a candidate: None unless one of its boxes is at the same place.

    Where the answer has one sentence for each box, the box gets its own; otherwise all of the text.
    """
    near = [
        iou(candidate.box, transform.to_source(region.box)) if region.in_range else 0.0 for region in parsed.regions
    ]
    if not near or max(near) < SAME_PLACE or not parsed.text:
        return None
    sentences = _sentences(parsed.text)
    return sentences[near.index(max(near))] if len(sentences) == len(near) else parsed.text


def _merge(candidates: Iterable[Candidate]) -> list[Candidate]:
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: -(c.certainty or 0.0)):
        if not any(c.object == candidate.object and iou(c.box, candidate.box) > SAME_BOX for c in kept):
            kept.append(candidate)
    return kept


def _sentences(text: str) -> list[str]:
    marked = text.replace("。", "。\n").replace(". ", ".\n")
    return [sentence.strip() for sentence in marked.split("\n") if sentence.strip()]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
