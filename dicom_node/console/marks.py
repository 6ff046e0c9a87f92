"""Marks: a reading's regions on one frame, as SVG draws them in the frame's own pixel grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.findings import Box, Finding, Language, Mask
from engine.masks import unpack
from sr_writer.drawing import colour_name


@dataclass(frozen=True, slots=True)
class Mark:
    """A region of a finding on the frame that is shown.

    Parameters
    ----------
    finding : int
        The finding's place in the reading, from 0.
    region : int
        The region's place in the finding, from 0.
    name : str
    colour : str
        The finding's, as in the result objects.
    box : Box
    outline : str
        Edge of its mask as an SVG path; empty without a mask.
    """

    finding: int
    region: int
    name: str
    colour: str
    box: Box
    outline: str

    @property
    def width(self) -> float:
        """Columns."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Rows."""
        return self.box[3] - self.box[1]


def marks_on(findings: Sequence[Finding], sop_instance_uid: str, frame: int, language: Language) -> list[Mark]:
    """The marks of a frame, named in a language where it has a name."""
    return [
        Mark(
            finding=number,
            region=place,
            name=finding.names.get(language) or finding.label,
            colour=colour_name(number),
            box=region.box,
            outline=outline(region.mask) if region.mask is not None else "",
        )
        for number, finding in enumerate(findings)
        for place, region in enumerate(finding.regions)
        if (region.sop_instance_uid, region.frame) == (sop_instance_uid, frame)
    ]


def outline(mask: Mask) -> str:
    """The edge of a mask, between its pixels and those around them, as an SVG path."""
    pixels = np.pad(unpack(mask), 1).astype(np.int8)
    steps = []
    for rows in (True, False):
        edges = np.diff(pixels if rows else pixels.T, axis=0) != 0
        ends = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        for line, row in enumerate(ends):
            for first, last in np.flatnonzero(row).reshape(-1, 2) - 1:
                if rows:
                    steps.append(f"M{mask.x + first} {mask.y + line}H{mask.x + last}")
                else:
                    steps.append(f"M{mask.x + line} {mask.y + first}V{mask.y + last}")
    return "".join(steps)
