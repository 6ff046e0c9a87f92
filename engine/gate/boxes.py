"""Boxes that may be shown: inside the image, of a sane size, on the side that their name says, and once each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from engine.findings import Box
from engine.gate.certainty import certainty
from engine.gate.sides import Sides, stated_sides
from engine.grammar import ModelBox, Parsed
from engine.imaging import Transform
from engine.plan import Plan, PlanObject
from engine.runtime.protocol import Answer

SAME_BOX: Final = 0.75
"""Two boxes of one label that overlap by more (IoU) are one; of two labels, one place with two names."""

Held = list[tuple[str, str]]
"""Reasons, each with the words that it is about."""


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
    notes : tuple of str
        What the checks say of it, for people.
    """

    object: PlanObject
    label: str
    model_box: ModelBox
    box: Box
    certainty: float | None
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The box as the record tells it."""
        return f"{self.label}{list(self.model_box)}"


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (_area(one) + _area(other) - both)


def screen(
    parsed: Parsed, answer: Answer, plan: Plan, transform: Transform, sides: Sides | None = None
) -> tuple[list[Candidate], Held]:
    """Let the boxes of an answer pass that may be shown.

    Parameters
    ----------
    parsed : Parsed
    answer : Answer
    plan : Plan
        Its objects, and the sizes that it allows.
    transform : Transform
        Of the frame that the answer is about.
    sides : Sides, optional
        Where the frame's left and right are.

    Returns
    -------
    candidates : list of Candidate
        The surest first.
    held_back : list of (str, str)
        Reason and words of what may not.
    """
    held: Held = [("this part of the answer cannot be read as a box", words) for words in parsed.unreadable]
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
        elif reason := _misfit(box, plan, transform):
            held.append((reason, words))
        elif sides and sides.contradict(stated_sides(found.en), box):
            held.append(("the box is on another side than its name says", words))
        else:
            passed.append(Candidate(found, region.label, region.box, box, certainty(answer, region.spans)))
    kept = _merge(passed)
    twice = [candidate for candidate in passed if all(candidate is not one for one in kept)]
    held += [("the same box was answered twice", candidate.words) for candidate in twice]
    return [_noted(candidate, kept) for candidate in kept], held


def _misfit(box: Box, plan: Plan, transform: Transform) -> str | None:
    """Why a box has no size that a finding can have."""
    smallest, largest = plan.boxes.smallest_pixels, plan.boxes.largest_part
    edge = min(box[2] - box[0], box[3] - box[1])
    if edge < 1:
        return "the box is smaller than a pixel"
    if edge < smallest:
        return f"the box is smaller than the plan's {smallest:g} pixels"
    if _area(box) > largest * transform.rows * transform.columns:
        return f"the box is larger than {largest:.0%} of the image and so shows no place"
    return None


def _merge(candidates: Sequence[Candidate]) -> list[Candidate]:
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: -(c.certainty or 0.0)):
        if not any(c.object == candidate.object and iou(c.box, candidate.box) > SAME_BOX for c in kept):
            kept.append(candidate)
    return kept


def _noted(candidate: Candidate, all_kept: Sequence[Candidate]) -> Candidate:
    """The candidate with a note of what else its place was called."""
    others = [
        other.object.en
        for other in all_kept
        if other.object != candidate.object and iou(other.box, candidate.box) > SAME_BOX
    ]
    notes = tuple(f"the same place was also named {name!r}" for name in dict.fromkeys(others))
    return replace(candidate, notes=notes) if notes else candidate


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
