"""Boxes on neighbouring slices become one finding of the volume they are slices of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from engine.findings import Box, Finding, Laterality
from engine.geometry import Plane, extent_of, position_of
from engine.study import Study

__all__ = ["link"]

OVERLAP: Final = 0.5
"""Boxes on neighbouring slices are one finding if their intersection has at least this part of the smaller one: an end
slice shows less of a thing than the slice beside it, but shows it within the same bounds."""
GAP: Final = 1.5
"""Slices further apart than this many of their series' usual steps are no neighbours: what lies between is unseen."""


@dataclass(frozen=True)
class _Place:
    """Where a slice stands among its neighbours: in which stack, as which one, and how far along the normal."""

    stack: int
    number: int
    mm: float
    step: float
    axes: tuple[Plane, Plane]  # its own, and that of the stack that all are compared in

    def neighbours(self, other: _Place) -> bool:
        """Whether the other one is the next slice, and nothing is missing between them."""
        return other.number == self.number + 1 and other.mm - self.mm <= GAP * self.step

    def rectangle(self, box: Box) -> Box:
        """A box in the stack's own plane, mm."""
        plane, reference = self.axes
        points = plane.corners(box)
        across, along = points @ reference.right, points @ reference.down
        return float(across.min()), float(along.min()), float(across.max()), float(along.max())


def link(findings: Iterable[Finding], study: Study) -> list[Finding]:
    """Join the findings of neighbouring slices, and measure all of them.

    Findings with one box each on slices of one series are joined where their concept is the same, their boxes overlap
    in the patient, and no slice of the series lies unread between them. A finding has at most one box a slice: where
    several overlap, those that overlap most are joined.

    Parameters
    ----------
    findings : iterable of Finding
    study : Study

    Returns
    -------
    list of Finding
        Each with `extent_mm` where the geometry tells its size in the patient. A joined one has a region a slice, in
        the order of their places; its label, words and certainty are those of its most certain slice, and it keeps the
        notes of all.
    """
    findings = list(findings)
    headers = {instance.sop_instance_uid: instance.header for instance in study.instances}
    after = _successors(findings, _places(study)) if len(findings) > 1 else {}
    heads = [number for number in range(len(findings)) if number not in after.values()]
    chains = [_chain(head, after) for head in heads]
    result: list[Finding] = []
    for chain in sorted(chains, key=min):
        whole = _join([findings[number] for number in chain])
        extent = extent_of(whole.regions, headers)
        if extent and extent.basis != "detector":
            whole = replace(whole, extent_mm=(extent.columns_mm, extent.rows_mm, extent.depth_mm))
        result.append(whole)
    return result


def _places(study: Study) -> dict[tuple[str, int], _Place]:
    """The place of every slice of a study, by instance and frame."""
    stacks: list[list[tuple[tuple[str, int], Plane]]] = []
    for series in study.series:
        begin = len(stacks)
        for instance in series.instances:
            for frame in range(1, instance.number_of_frames + 1):
                if (plane := position_of(instance.header, frame)) is None:
                    continue
                stack = next((known for known in stacks[begin:] if known[0][1].parallel(plane)), None)
                if stack is None:
                    stacks.append(stack := [])
                stack.append(((instance.sop_instance_uid, frame), plane))
    places: dict[tuple[str, int], _Place] = {}
    for number, stack in enumerate(stacks):
        reference = stack[0][1]
        # Slices of several passes lie at the same places, to within what is written of them.
        at = np.array([float(plane.origin @ reference.normal) for _, plane in stack])
        levels = np.unique(np.round(at, 3))
        step = float(np.median(np.diff(levels))) if len(levels) > 1 else 0.0
        for (key, plane), mm in zip(stack, at, strict=True):
            level = int(np.searchsorted(levels, np.round(mm, 3)))
            places[key] = _Place(number, level, float(levels[level]), step, (plane, reference))
    return places


def _successors(findings: Sequence[Finding], places: Mapping[tuple[str, int], _Place]) -> dict[int, int]:
    """Which finding goes on as which on the next slice."""
    rows: dict[tuple[str, int, int], list[tuple[int, _Place, Box]]] = {}
    for number, finding in enumerate(findings):
        if len(finding.regions) == 1:
            (region,) = finding.regions
            if place := places.get((region.sop_instance_uid, region.frame)):
                key = (finding.concept, place.stack, place.number)
                rows.setdefault(key, []).append((number, place, place.rectangle(region.box)))
    after: dict[int, int] = {}
    for (concept, stack, level), row in rows.items():
        pairs = [
            (_overlap(box, other), number, following)
            for number, place, box in row
            for following, next_place, other in rows.get((concept, stack, level + 1), ())
            if place.neighbours(next_place)
        ]
        for overlap, number, following in sorted(pairs, reverse=True):
            if overlap >= OVERLAP and number not in after and following not in after.values():
                after[number] = following
    return after


def _chain(head: int, after: Mapping[int, int]) -> list[int]:
    chain = [head]
    while chain[-1] in after:
        chain.append(after[chain[-1]])
    return chain


def _join(findings: Sequence[Finding]) -> Finding:
    """Make one finding of those of successive slices; a single one stays as it is."""
    surest = max(findings, key=lambda finding: finding.certainty or 0.0)
    sides = {finding.laterality for finding in findings}
    return replace(
        surest,
        regions=tuple(region for finding in findings for region in finding.regions),
        laterality=surest.laterality if len(sides) == 1 else Laterality.UNKNOWN,
        notes=tuple(dict.fromkeys(note for finding in findings for note in finding.notes)),
    )


def _overlap(one: Box, other: Box) -> float:
    """Intersection over the smaller of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / smaller if width > 0 and height > 0 else 0.0
