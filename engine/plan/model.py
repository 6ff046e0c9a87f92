"""A plan: which questions are asked of which images of a kind of study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

import pydicom.uid
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydicom.uid import UID

from engine.dialects import MEDREGA, dialects
from engine.findings import LANGUAGES, Language
from engine.imaging import Window
from engine.labels import LABEL_TASKS, LabelSet, label_sets
from engine.prompts import Prompts

__all__ = [
    "FramePolicy",
    "ImageWords",
    "LeftOut",
    "Limits",
    "Match",
    "Orientation",
    "Plan",
    "PlanObject",
    "PlanWindow",
    "Question",
    "SeriesRules",
    "Task",
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


def _label_set(name: str) -> str:
    if name not in label_sets():
        raise ValueError(f"there is no label set {name!r}; those that ship are {', '.join(label_sets())}")
    return name


def _dialect(name: str) -> str:
    if name not in (MEDREGA, *dialects()):
        raise ValueError(f"there is no dialect {name!r}; known are {', '.join((MEDREGA, *dialects()))}")
    return name


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageWords(_Part):
    """What the questions call an image: ``X-ray image``, and ``an X-ray image``."""

    noun: Name
    with_article: Name


class Match(_Part):
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
        In Study Description, Series Description and Protocol Name.
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


class SeriesRules(_Part):
    """Which series of a study are read.

    Parameters
    ----------
    leave_out : tuple of str
        Of ``localizer``, ``dose page``, ``screenshot``, ``slide label`` (and overview), and ``derived`` (reformats,
        projections and maps of a volume, where the study has originals).
    volumes : int
        How many volumes are read: the best one of each kind (body part, contrast phase, MR sequence), and of more
        kinds than that the preferred ones. Images that stand alone are not counted.
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


class FramePolicy(_Part):
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


class PlanWindow(_Part):
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


class Limits(_Part):
    """What a study may cost: questions, and seconds, checked between questions."""

    questions_per_study: Count = 100
    seconds_per_study: Annotated[float, Field(gt=0)] | None = None


class BoxLimits(_Part):
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


class PlanObject(_Part):
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


class Question(_Part):
    """A question of the task ``vqa``, by language; its answer goes to the record and, if so told, to the report."""

    en: Name
    zh: Name
    in_narrative: bool = False


class Plan(_Part):
    """One plan, as its TOML file says.

    Parameters
    ----------
    name, title : str
    commissioning : bool
        Whether it is for the commissioning model, or for every other.
    match : Match
        Which series it is for; all of them without.
    tasks : tuple of str
        Of ``detection`` (where is it), ``identification`` (what is it, asked back about each box), ``grounded`` (a
        sentence about it; without ``detection``, also where it is), ``regional`` (what was located is told in the
        questions that come after), ``classification`` (which diagnoses, of `label_sets`), ``organ`` and ``tissue``
        (which one is it, of `label_sets`), ``vqa`` (`questions`), and ``report``.
    languages : tuple of Language
    image : ImageWords
    refiner : str, optional
        What draws a finding's outline within its box; the setting's without.
    series : SeriesRules
    frames : FramePolicy
    windows : tuple of PlanWindow
    limits : Limits
    boxes : BoxLimits
    objects : tuple of PlanObject
        What ``detection`` looks for, in the order of the question.
    label_sets : tuple of str
        The vocabularies of ``classification``, ``organ`` and ``tissue``.
    narrate : tuple of str
        Of ``organ`` and ``tissue``, those whose answers also stand in the report.
    questions : tuple of Question
    templates : dict of Task to str
        Prompt templates to use instead of a task's own, as ``detection = "detection_multiple"``.
    dialect : str
        How the model spells boxes: ``medrega``, or one of `engine.dialects`.
    constrained : bool
        Whether detection may answer only in the form of boxes of `objects`, where the runtime can hold it to that.
    """

    name: Name
    title: str = ""
    commissioning: bool = False
    match: Match = Match()
    tasks: tuple[Task, ...] = Field(min_length=1)
    languages: tuple[Language, ...] = Field(default=LANGUAGES, min_length=1)
    image: ImageWords
    refiner: Name | None = None
    series: SeriesRules = SeriesRules()
    frames: FramePolicy = FramePolicy()
    windows: tuple[PlanWindow, ...] = ()
    limits: Limits = Limits()
    boxes: BoxLimits = BoxLimits()
    objects: tuple[PlanObject, ...] = ()
    label_sets: tuple[Annotated[str, AfterValidator(_label_set)], ...] = ()
    narrate: tuple[Literal["organ", "tissue"], ...] = ()
    questions: tuple[Question, ...] = ()
    templates: dict[Task, Name] = {}
    dialect: Annotated[str, AfterValidator(_dialect)] = MEDREGA
    constrained: bool = False

    _own: bool = PrivateAttr(default=False)

    @property
    def own(self) -> bool:
        """Whether it is a site's own, which comes before those that ship."""
        return self._own

    def as_own(self) -> Self:
        """Return the same plan as a site's own."""
        plan = self.model_copy()
        plan._own = True
        return plan

    @model_validator(mode="before")
    @classmethod
    def _from_label_sets(cls, data: Any) -> Any:
        """Fill in what the plan's label sets tell of an object that is given by its label alone."""
        if not isinstance(data, dict) or not isinstance(data.get("objects"), list | tuple):
            return data
        named = data.get("label_sets")
        known = [label_sets()[n] for n in (named if isinstance(named, list | tuple) else ()) if n in label_sets()]
        objects = list(data["objects"])
        for place, item in enumerate(objects):
            if isinstance(item, dict) and isinstance(word := item.get("label"), str):
                label = next(
                    (label for one in known for label in one.labels if label.word == word and label.concept), None
                )
                if label is not None:
                    objects[place] = {"concept": label.concept, "en": label.concept, "zh": label.zh} | item
        return {**data, "objects": objects}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needs = {"detection": "objects", "grounded": "objects", "vqa": "questions"}
        for task, key in (*needs.items(), *((task, "label_sets") for task in LABEL_TASKS)):
            if task in self.tasks and not getattr(self, key):
                raise ValueError(f"the task {task!r} needs {key}")
        for task in ("identification", "regional"):
            if task in self.tasks and not {"detection", "grounded"}.intersection(self.tasks):
                raise ValueError(f"the task {task!r} is about boxes and needs the task 'detection' or 'grounded'")
        if not set(FINDING_TASKS).intersection(self.tasks):
            raise ValueError(f"none of its tasks can find anything: it needs one of {', '.join(FINDING_TASKS)}")
        for task in LABEL_TASKS:
            if task in self.tasks and not self.sets_of(task):
                raise ValueError(f"the task {task!r} needs one of its own in label_sets")
        if self.constrained and self.dialect != MEDREGA:
            raise ValueError("answers can be constrained in the dialect 'medrega' only")
        for task, template in self.templates.items():
            if not any(f"{template}.{language}" in Prompts.shipped().templates for language in LANGUAGES):
                raise ValueError(f"there is no prompt template {template!r} for the task {task!r}")
        _once("[[objects]] have the same label", [item.label.casefold() for item in self.objects])
        _once("[[windows]] have the same name", [window.name for window in self.windows])
        _once("[[windows]] are for the same task", [task for w in self.windows for task in w.tasks or ("any other",)])
        return self

    def find(self, name: str) -> PlanObject | None:
        """Return the object that a word of the model's means, in whichever language, if the plan has it."""
        word = name.strip().casefold()
        return next(
            (item for item in self.objects if word in (item.label.casefold(), item.en.casefold(), item.zh)), None
        )

    def sets_of(self, task: str) -> list[LabelSet]:
        """The label sets that a task chooses from."""
        return [found for name in self.label_sets if (found := label_sets()[name]).task == task]

    def window(self, task: Task) -> Window | None:
        """Return the window for a task; None where the image's own is to be used."""
        named = next((window for window in self.windows if task in window.tasks), None)
        found = named or next((window for window in self.windows if not window.tasks), None)
        return Window(found.center, found.width) if found else None


def _once(complaint: str, values: Sequence[str]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"two {complaint}")
