"""A plan: which questions are asked of which images of a kind of study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from engine.dialects import MEDREGA, dialects
from engine.findings import LANGUAGES, Language
from engine.imaging import Window
from engine.labels import LABEL_TASKS, LabelSet, label_sets
from engine.plan.parts import (
    FINDING_TASKS,
    BoxLimits,
    FramePolicy,
    ImageWords,
    Limits,
    Match,
    Name,
    Part,
    PlanObject,
    PlanWindow,
    Question,
    SeriesRules,
    Task,
    Wording,
)
from engine.prompts import Prompts
from engine.refine import REFINER

__all__ = ["Plan"]


def _label_set(name: str) -> str:
    if name not in label_sets():
        raise ValueError(f"there is no label set {name!r}; those that ship are {', '.join(label_sets())}")
    return name


def _dialect(name: str) -> str:
    if name not in (MEDREGA, *dialects()):
        raise ValueError(f"there is no dialect {name!r}; known are {', '.join((MEDREGA, *dialects()))}")
    return name


class Plan(Part):
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
    prompts : dict of str to dict of Language to Wording
        The plan's own prompt templates, by task or by another template's name: for models that are asked otherwise.
    templates : dict of Task to str
        Prompt templates to use instead of a task's own, as ``detection = "detection_multiple"``.
    dialect : str
        How the model spells boxes: ``medrega``, or one of `engine.dialects`.
    constrained : bool
        Whether detection may answer only in the form of boxes of `objects`, where the runtime can hold it to that.
    priors : int
        How many earlier studies of the same patient, modality and part of the body are fetched beside a study: 0 or 1.
    """

    name: Name
    title: str = ""
    commissioning: bool = False
    match: Match = Match()
    tasks: tuple[Task, ...] = Field(min_length=1)
    languages: tuple[Language, ...] = Field(default=LANGUAGES, min_length=1)
    image: ImageWords
    refiner: Annotated[str, Field(pattern=REFINER)] | None = None
    series: SeriesRules = SeriesRules()
    frames: FramePolicy = FramePolicy()
    windows: tuple[PlanWindow, ...] = ()
    limits: Limits = Limits()
    boxes: BoxLimits = BoxLimits()
    objects: tuple[PlanObject, ...] = ()
    label_sets: tuple[Annotated[str, AfterValidator(_label_set)], ...] = ()
    narrate: tuple[Literal["organ", "tissue"], ...] = ()
    questions: tuple[Question, ...] = ()
    prompts: dict[Name, dict[Language, Wording]] = Field(default_factory=dict)
    templates: dict[Task, Name] = Field(default_factory=dict)
    dialect: Annotated[str, AfterValidator(_dialect)] = MEDREGA
    constrained: bool = False
    priors: Annotated[int, Field(ge=0, le=1)] = 0

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
            if not any(f"{template}.{language}" in self.wording().templates for language in LANGUAGES):
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

    def wording(self, table: Prompts | None = None) -> Prompts:
        """Return a table of prompts, the one that ships without, with the plan's own in it."""
        own = {task: {x: (w.instruction, w.rest) for x, w in each.items()} for task, each in self.prompts.items()}
        return (table or Prompts.shipped()).with_own(own)

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
