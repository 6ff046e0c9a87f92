"""The parts of a plan: which series it is for, which it reads, how much of them, in which windows, and what it asks."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import pydicom.uid
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydicom.uid import UID

from engine.findings import Language
from engine.prompts import PLACES

__all__ = [
    "FINDING_TASKS",
    "BoxLimits",
    "Count",
    "FramePolicy",
    "ImageWords",
    "LeftOut",
    "Limits",
    "Match",
    "Name",
    "Orientation",
    "Part",
    "PlanObject",
    "PlanWindow",
    "Question",
    "SeriesRules",
    "Task",
    "Wording",
]

Task = Literal[
    "detection", "identification", "grounded", "regional", "classification", "organ", "tissue", "vqa", "report"
]
FINDING_TASKS: Final = ("detection", "grounded", "classification", "report")
"""Tasks that can find something, or say that there is nothing: a plan needs one of them."""
LeftOut = Literal["localizer", "dose page", "screenshot", "slide label", "derived"]
Orientation = Literal["axial", "coronal", "sagittal"]
Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


def _sop_class(told: str) -> str:
    """A SOP class by its UID, or by its keyword in PS3.6."""
    uid = getattr(pydicom.uid, told, told)
    if not isinstance(uid, str) or not UID(uid).is_valid or not uid[:1].isdigit():
        raise ValueError("no SOP class: a UID, or a keyword as CTImageStorage")
    return str(uid)


class Part(BaseModel):
    """A table of a plan's file: keys that are not known are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageWords(Part):
    """What the questions call an image: ``X-ray image``, and ``an X-ray image``."""

    noun: Name
    with_article: Name


class Match(Part):
    """Which series a plan is for: every key that is given must hold, and one of its values is enough.

    `body_part`, `region` and `words` are three ways to tell the same, and count as one key: what the header codes
    decides, and words of its descriptions only where it codes nothing. A header that does not tell matches nothing.

    Parameters
    ----------
    modality : tuple of str
    sop_class : tuple of str
        By UID, or by keyword: ``CTImageStorage``.
    body_part : tuple of str
        Of Body Part Examined (PS3.16 annex L); case, spaces and punctuation do not count.
    region : tuple of str
        Code values of Anatomic Region Sequence, in SNOMED CT.
    words : tuple of str
        In Study Description, Series Description, Protocol Name, and the descriptions of the procedure.
    view : tuple of str
        View Position, also as coded in View Code Sequence: ``PA``, ``MLO``.
    laterality : tuple of {"L", "R", "B", "U"}
    age_from, age_below : float, optional
        Of the patient, in years.
    """

    modality: tuple[Name, ...] = ()
    sop_class: tuple[Annotated[str, AfterValidator(_sop_class)], ...] = ()
    body_part: tuple[Name, ...] = ()
    region: tuple[Name, ...] = ()
    words: tuple[Name, ...] = ()
    view: tuple[Name, ...] = ()
    laterality: tuple[Literal["L", "R", "B", "U"], ...] = ()
    age_from: Annotated[float, Field(ge=0)] | None = None
    age_below: Annotated[float, Field(gt=0)] | None = None

    @property
    def specificity(self) -> int:
        """How many keys are given: of two plans that fit, the one that says more about its images is chosen."""
        anatomy = bool(self.body_part or self.region or self.words)
        age = self.age_from is not None or self.age_below is not None
        return anatomy + age + sum(map(bool, (self.modality, self.sop_class, self.view, self.laterality)))


class SeriesRules(Part):
    """Which series of a study are read.

    Parameters
    ----------
    leave_out : tuple of str
        Of ``localizer``, ``dose page``, ``screenshot``, ``slide label`` (and overview), and ``derived`` (reformats,
        projections and maps of a volume, where the study has originals).
    volumes : int
        How many volumes are read: the best one of each kind (body part, side, view, contrast phase, MR sequence), and
        of more kinds than that the preferred ones. Images that stand alone are not counted.
    orientation : {"axial", "coronal", "sagittal"}, optional
        Preferred.
    kernel : {"soft", "sharp"}, optional
        Preferred reconstruction kernel of CT.
    thickness_mm : tuple of (float, float), optional
        Preferred slice thickness, from and to.
    phase, sequence : tuple of str
        Contrast phases and MR sequences, the preferred one first; see `engine.series`.
    minimum_slices : int
        A volume of fewer slices is a planning or monitoring scan and left out.
    """

    leave_out: tuple[LeftOut, ...] = ("localizer", "dose page", "screenshot", "slide label")
    volumes: Count = 4
    orientation: Orientation | None = None
    kernel: Literal["soft", "sharp"] | None = None
    thickness_mm: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]] | None = None
    phase: tuple[Name, ...] = ()
    sequence: tuple[Name, ...] = ()
    minimum_slices: Count = 1


class FramePolicy(Part):
    """How much of a series is read; of more than that, evenly spread ones, and the rest is recorded as not read.

    Parameters
    ----------
    images_per_series : int
        Projections, photographs and other images that stand alone.
    slices_per_series : int or "all"
        Slices of a volume: images with a position in the patient (PS3.3 C.7.6.2), chosen by it.
    frames_per_instance : int
        Frames of a multi-frame object that is no volume.
    slices_for : dict of Task to int
        Tasks that are asked of so many of a volume's slices only, evenly spread, as ``report = 3``.
    """

    images_per_series: Count = 4
    slices_per_series: Count | Literal["all"] = 1
    frames_per_instance: Count = 1
    slices_for: dict[Task, Count] = {}


class PlanWindow(Part):
    """A window for some tasks (PS3.3 C.11.2.1.2), instead of the image's own.

    Parameters
    ----------
    name : str
    center, width : float
        In modality units: Hounsfield units of CT.
    tasks : tuple of Task
        The tasks it is for; every other task that no window names without.
    """

    name: Name
    center: float
    width: Annotated[float, Field(ge=1)]
    tasks: tuple[Task, ...] = ()


class Limits(Part):
    """What a study may cost: questions, and seconds, checked between questions."""

    questions_per_study: Count = 100
    seconds_per_study: Annotated[float, Field(gt=0)] | None = None


class BoxLimits(Part):
    """Which boxes can be those of a finding.

    Parameters
    ----------
    smallest_pixels : float
        Least length of an edge, in pixels of the image.
    largest_part : float
        Largest part of the image's area; what is larger shows no place.
    """

    smallest_pixels: Annotated[float, Field(ge=1)] = 1.0
    largest_part: Annotated[float, Field(gt=0, le=1)] = 0.98


class PlanObject(Part):
    """Something to look for.

    Parameters
    ----------
    label : str
        The model's own word. In a plan it is enough where one of the plan's label sets has it.
    concept : str
        The clean name, key of the code table.
    en, zh : str
        Its name by language.
    threshold : float, optional
        Least certainty of a finding that is shown; what is below is held back.
    """

    label: Name
    concept: Name
    en: Name
    zh: Name
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def names(self) -> dict[Language, str]:
        """The name by language."""
        return {"en": self.en, "zh": self.zh}


class Question(Part):
    """A question of the task ``vqa``, by language; its answer goes to the record and, if so told, to the report."""

    en: Name
    zh: Name
    in_narrative: bool = False


def _places(words: str) -> str:
    for place in re.findall(r"\{(.*?)\}", words):
        if place not in PLACES:
            raise ValueError(f"a prompt has no place {{{place}}}; it may have {', '.join(PLACES)}")
    return words


class Wording(Part):
    """A prompt template of a plan's own: what stands before the image, and behind it."""

    instruction: Annotated[str, AfterValidator(_places)] = ""
    rest: Annotated[str, AfterValidator(_places)] = ""
