"""Plans: which questions are asked of which images of a study."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.errors import NotAnImageError, PlanError, UndecodableError
from engine.findings import Language, ModelIdentity
from engine.imaging import check_image
from engine.study import Instance, Study

__all__ = [
    "FramePolicy",
    "ImageWords",
    "Limits",
    "Plan",
    "PlanObject",
    "Task",
    "choose_plan",
    "load_plan",
    "load_plans",
]

Task = Literal["detection", "identification", "grounded", "report"]
Name = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageWords(_Part):
    """What the questions call an image: ``X-ray image``, and ``an X-ray image``."""

    noun: Name
    with_article: Name


class FramePolicy(_Part):
    """How much of a series is read; of more than that, those in the middle, and the rest is recorded as not read.

    Parameters
    ----------
    images_per_series : int
        Projections, photographs and other images that stand alone.
    slices_per_series : int
        Slices of a volume: instances with a position in the patient (PS3.3 C.7.6.2).
    frames_per_instance : int
        Frames of a multi-frame object.
    """

    images_per_series: int = Field(default=4, ge=1)
    slices_per_series: int = Field(default=1, ge=1)
    frames_per_instance: int = Field(default=1, ge=1)


class Limits(_Part):
    """How many questions a study may cost."""

    questions_per_study: int = Field(default=100, ge=1)


class PlanObject(_Part):
    """Something to look for.

    Parameters
    ----------
    label : str
        The model's own word.
    concept : str
        The clean name, key of the code table.
    en, zh : str
        Its name by language.
    """

    label: Name
    concept: Name
    en: Name
    zh: Name

    @property
    def names(self) -> dict[Language, str]:
        """The name by language."""
        return {"en": self.en, "zh": self.zh}


class Plan(_Part):
    """One plan, as its TOML file says.

    Parameters
    ----------
    name, title : str
    commissioning : bool
        Whether it is for the commissioning model, or for every other.
    tasks : tuple of str
        Of ``detection`` (where is it), ``identification`` (what is it, asked back about each box), ``grounded`` (a
        sentence about it) and ``report``.
    languages : tuple of Language
    image : ImageWords
    frames : FramePolicy
    limits : Limits
    objects : tuple of PlanObject
        What ``detection`` looks for, in the order of the question.
    """

    name: Name
    title: str = ""
    commissioning: bool = False
    tasks: tuple[Task, ...] = Field(min_length=1)
    languages: tuple[Language, ...] = Field(default=("en", "zh"), min_length=1)
    image: ImageWords
    frames: FramePolicy = FramePolicy()
    limits: Limits = Limits()
    objects: tuple[PlanObject, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Plan:
        if "detection" in self.tasks and not self.objects:
            raise ValueError("the task 'detection' needs [[objects]] to look for")
        for task in ("identification", "grounded"):
            if task in self.tasks and "detection" not in self.tasks:
                raise ValueError(f"the task {task!r} asks about boxes and needs the task 'detection'")
        labels = [item.label.casefold() for item in self.objects]
        if len(set(labels)) < len(labels):
            raise ValueError("two [[objects]] have the same label")
        return self

    def find(self, name: str) -> PlanObject | None:
        """Return the object that a word of the model's means, in whichever language, if the plan has it."""
        word = name.strip().casefold()
        return next(
            (item for item in self.objects if word in (item.label.casefold(), item.en.casefold(), item.zh)), None
        )


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises
    ------
    PlanError
        If the file is no valid plan; the message names the file, and the line or the key.
    """
    try:
        return Plan.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PlanError(f"the plan {path.name} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"the plan {path.name} is not TOML: {error}") from error
    except ValidationError as error:
        faults = [(".".join(str(part) for part in fault["loc"]) or "plan", fault["msg"]) for fault in error.errors()]
        raise PlanError(
            f"the plan {path.name} is wrong: " + "; ".join(f"{key}: {why}" for key, why in faults)
        ) from error


def load_plans(folder: Path | None = None) -> dict[str, Plan]:
    """Read every plan of a folder, those that ship without one, by name.

    Raises
    ------
    PlanError
        If a plan is wrong, or two have the same name.
    """
    plans: dict[str, Plan] = {}
    for path in sorted((folder or Path(__file__).with_name("plans")).glob("*.toml")):
        plan = load_plan(path)
        if plan.name in plans:
            raise PlanError(f"the plan {path.name} has a name that another one has: {plan.name!r}")
        plans[plan.name] = plan
    return plans


def choose_plan(study: Study, model: ModelIdentity, plans: Iterable[Plan] | None = None) -> Plan:
    """Choose the plan that fits a study and the model that is to read it.

    Raises
    ------
    PlanError
        If the study holds no image of a patient, or no plan is for this kind of model.
    """
    reasons = [_refusal(instance) for instance in study.instances]
    if all(reasons):
        told = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
        raise PlanError(
            f"no plan exists for this study: none of its {len(reasons)} objects is an image of a patient ({told})",
            advice="Structured reports, presentation states and the like are not read; send the images.",
        )
    chosen = next((p for p in plans or load_plans().values() if p.commissioning == model.commissioning), None)
    if chosen is None:
        raise PlanError(f"no plan exists for the model {model.name!r}")
    return chosen


def _refusal(instance: Instance) -> str | None:
    """Why an instance is no image; one that is, but cannot be decoded, has a reading that says so."""
    try:
        check_image(instance)
    except NotAnImageError as error:
        return str(error)
    except UndecodableError:
        return None
    return None
