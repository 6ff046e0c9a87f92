"""The model's label vocabularies: what a classification may answer, in its own spelling, and what that means.

``sets.toml`` holds each set's prompt in its parts, ``labels.csv`` its labels: the model's spelling, the clean name (key
of the code table), and the Chinese name. A label without a clean name says that there is nothing to find.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import StringIO
from types import MappingProxyType
from typing import Final, Literal, get_args

from engine.findings import Language

__all__ = ["LABEL_TASKS", "Label", "LabelSet", "label_sets"]

LabelTask = Literal["classification", "organ", "tissue"]
LABEL_TASKS: Final[tuple[LabelTask, ...]] = get_args(LabelTask)
"""The tasks that choose from a label set."""

_FOLDER: Final = files("engine").joinpath("labels")


@dataclass(frozen=True, slots=True)
class Label:
    """One possible answer.

    Parameters
    ----------
    word : str
        The model's own spelling.
    concept : str
        The clean name; empty where the label says that there is nothing to find.
    zh : str
        The Chinese name.
    """

    word: str
    concept: str
    zh: str

    @property
    def names(self) -> dict[Language, str]:
        """The name by language."""
        return {"en": self.concept or self.word, "zh": self.zh}


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The possible answers of one classification.

    Parameters
    ----------
    name, title : str
    task : {"classification", "organ", "tissue"}
    image, an_image : str
        What the prompt calls the image.
    labels : tuple of Label
        In the order of the prompt.
    note : str
        What the prompt says behind the labels.
    template : str
        Name of the prompt template; the task's own when empty.
    """

    name: str
    title: str
    task: LabelTask
    image: str
    an_image: str
    labels: tuple[Label, ...]
    note: str = ""
    template: str = ""

    def find(self, word: str) -> Label | None:
        """Return the label that a word of the model's means, in whichever language, if the set has it."""
        sought = " ".join(word.split()).casefold()
        if not sought:
            return None
        same = (x for x in self.labels if sought in (x.word.casefold(), x.concept.casefold(), x.zh))
        return next(same, None)


@cache
def label_sets() -> Mapping[str, LabelSet]:
    """Read the label sets that ship, by name."""
    labels: dict[str, list[Label]] = {}
    for row in csv.DictReader(StringIO(_FOLDER.joinpath("labels.csv").read_text(encoding="utf-8"))):
        labels.setdefault(row["set"], []).append(Label(row["label"], row["concept"], row["zh"]))
    sets = tomllib.loads(_FOLDER.joinpath("sets.toml").read_text(encoding="utf-8"))
    return MappingProxyType({name: LabelSet(name, labels=tuple(labels[name]), **parts) for name, parts in sets.items()})
