"""Right and left: what words say, what a header says of an image, and on which side of the patient a box lies."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Final, Literal

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from engine.findings import Box, Laterality
from engine.geometry import position_of
from engine.plan import match

Side = Literal["left", "right"]

MIDDLE: Final = 0.2
"""The part of the width, around the midline, that a box must not reach into to be on a side: patients lie askew."""
_SLANT: Final = 0.7
"""The rows or columns of a slice lead from side to side if they have this part of that direction at least."""

_SIDED: Final = {"L": "left", "R": "right"}
_LATERALITY: Final = {"L": Laterality.LEFT, "R": Laterality.RIGHT, "B": Laterality.BILATERAL}
_FRONTAL: Final = ("AP", "PA")
# What lies on one side of the body: where a box is in its picture says nothing of its side. And what has both sides:
# its pictures have no laterality, though some devices write one for want of an empty value.
_ONE_SIDED: Final = re.compile(
    r"ARM|HAND|FINGER|THUMB|WRIST|ELBOW|HUMERUS|RADIUS|ULNA|SHOULDER|SCAPULA|CLAVICLE|LEG|KNEE|ANKLE|FOOT|TOE|CALCANEUS"
    r"|FEMUR|THIGH|TIBIA|FIBULA|PATELLA|CALF|EXTREMITY|LIMB|EYE|ORBIT"
)
_TWO_SIDED: Final = re.compile(r"CHEST|THORAX|ABDOMEN|PELVIS|HEAD|SKULL|BRAIN|NECK|SPINE")
# Words of direction, not of place ("deviated to the left", "right-to-left shunt"), of both or neither (左右), and of
# what lies on another side than its name says (the left portal vein).
_DIRECTIONS: Final = re.compile(
    r"\b(?:to|toward|towards|from) the (?:left|right)\b|\bright[- ]to[- ]left\b|\bleft[- ]to[- ]right\b"
    r"|[向往偏移](?:左|右)|(?:左|右)[移偏]|左右"
    r"|\bleft (?:hepatic|portal|lobe of the liver)|\bliver'?s? left\b|肝脏?左|左肝|门静?脉左|左支",
    re.IGNORECASE,
)
_BOTH: Final = re.compile(r"\bbilateral(?:ly)?\b|\bboth\b|[双两]", re.IGNORECASE)
_LEFT: Final = re.compile(r"\bleft(?:[- ]sided)?\b|左", re.IGNORECASE)
_RIGHT: Final = re.compile(r"\bright(?:[- ]sided)?\b|右", re.IGNORECASE)


def stated_sides(words: str) -> frozenset[Side]:
    """The sides that words name as places, in English or Chinese; both of them for "bilateral"."""
    placed = _DIRECTIONS.sub(" ", words)
    named: set[Side] = set()
    if _LEFT.search(placed) or _BOTH.search(placed):
        named.add("left")
    if _RIGHT.search(placed) or _BOTH.search(placed):
        named.add("right")
    return frozenset(named)


@dataclass(frozen=True, slots=True)
class Sides:
    """Where the patient's left and right are in a frame, as far as the header tells.

    Parameters
    ----------
    rows, columns : int
        Size of the frame.
    image : Laterality
        The side that the whole image is of: a breast, a hand (PS3.3 C.7.3.1.1.1, C.8.11.7.1.1).
    across, down : {"left", "right"}, optional
        The patient's side that greater columns, or greater rows, lead to. Neither is known for a lateral view, a
        sagittal slice, or where the header does not tell.
    """

    rows: int
    columns: int
    image: Laterality = Laterality.UNKNOWN
    across: Side | None = None
    down: Side | None = None

    def side_of(self, box: Box) -> Side | None:
        """The side of the patient that a box lies on; None where it is near the midline, or that is not known."""
        if self.image in (Laterality.LEFT, Laterality.RIGHT):
            return "left" if self.image is Laterality.LEFT else "right"
        if self.across:
            return _beyond(box[0] / self.columns, box[2] / self.columns, self.across)
        return _beyond(box[1] / self.rows, box[3] / self.rows, self.down) if self.down else None

    def contradict(self, named: Set[Side], box: Box | None = None) -> bool:
        """Whether words name one side, and it is not that of the box, or of the image where there is no box."""
        if len(named) != 1:
            return False
        whole = (0.0, 0.0, float(self.columns), float(self.rows))
        actual = self.side_of(box or whole)
        return actual is not None and actual not in named


def sides_of(header: Dataset, frame: int, rows: int, columns: int) -> Sides:
    """Read where left and right are: the image's own laterality, its orientation in the patient, its view.

    Parameters
    ----------
    header : Dataset
    frame : int
        Frame number, from 1.
    rows, columns : int
        Size of the frame.
    """
    image = laterality_of(header)
    part = match.body_part_of(header)
    if header.get("Modality") == "MG" or _ONE_SIDED.search(part):
        return Sides(rows, columns, image)
    across, down = _of_slice(header, frame) or _of_letters(header) or _of_view(header, part)
    return Sides(rows, columns, image, across, down)


def laterality_of(header: Dataset) -> Laterality:
    """The side that the header gives an image of a paired part of the body, never guessed."""
    if _TWO_SIDED.search(match.body_part_of(header)):
        return Laterality.UNKNOWN
    return _LATERALITY.get(match.laterality_of(header) or "", Laterality.UNKNOWN)


Axes = tuple[Side | None, Side | None]


def _of_slice(header: Dataset, frame: int) -> Axes | None:
    """By Image Orientation (Patient): its x grows to the patient's left (PS3.3 C.7.6.2.1.1)."""
    plane = position_of(header, frame)
    if plane is None:
        return None
    return _along(float(plane.right[0])), _along(float(plane.down[0]))


def _along(x: float) -> Side | None:
    return None if abs(x) < _SLANT else "left" if x > 0 else "right"


def _of_letters(header: Dataset) -> Axes | None:
    """By Patient Orientation (PS3.3 C.7.6.1.1.1): where the rows and the columns lead, the main direction first."""
    value = header.get("PatientOrientation")
    if not isinstance(value, MultiValue | list) or len(value) != 2 or not all(value):
        return None
    across, down = (_SIDED.get(str(letters)[:1].upper()) for letters in value)
    return across, down  # type: ignore[return-value]  # of the two words that are Side


def _of_view(header: Dataset, part: str) -> Axes:
    """By the view of a projection: a frontal one is shown as if the patient faced the reader."""
    frontal = match.view_of(header) in _FRONTAL and _TWO_SIDED.search(part)
    return ("left" if frontal else None), None


def _beyond(low: float, high: float, towards: Side) -> Side | None:
    other: Side = "right" if towards == "left" else "left"
    if low >= 0.5 + MIDDLE / 2:
        return towards
    return other if high <= 0.5 - MIDDLE / 2 else None
