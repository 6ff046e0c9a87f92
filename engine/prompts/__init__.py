"""The model's input format as data: prompt templates that are reproduced letter by letter, never phrased in code."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from engine.errors import PlanError
from engine.findings import Language
from engine.grammar import SCALE, ModelBox, format_boxes

__all__ = ["IMAGE", "PLACES", "REGIONAL", "Prompt", "Prompts", "Template"]

IMAGE: Final = "<image>\n"
"""Where the image stands in a question."""
REGIONAL: Final = "regional"
"""The template that tells of regions found before, put before another template's question."""
PLACES: Final = (
    *("objects", "names", "box", "regions", "labels", "labels_inline"),
    *("note", "an_image", "image", "question"),
)
"""What a template may hold in braces."""
_PLACE = re.compile(r"\{(" + "|".join(PLACES) + r")\}")
_MAY_BE_EMPTY: Final = frozenset(["note"])


@dataclass(frozen=True, slots=True)
class Template:
    """One prompt template.

    Parameters
    ----------
    name : str
        Task and language, ``detection.en``.
    instruction, rest : str
        What stands before and behind the image, with ``{placeholders}``.
    source : {"published", "composed", "plan"}
        Whether the model's authors published this prompt, this project composed it from published ones, or it is a
        plan's own.
    """

    name: str
    instruction: str
    rest: str
    source: Literal["published", "composed", "plan"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, ready to be asked."""

    template: str
    language: Language
    text: str


@dataclass(frozen=True)
class Prompts:
    """The table of prompt templates.

    Parameters
    ----------
    templates : mapping of str to Template
        By name: task and language.
    version : str
        SHA-256 of the table and of the image's place, hexadecimal: which words a reading was asked with.
    image_first : bool
        Put the image before the instruction, as the model's training did, instead of behind it, as its published
        inference does.
    """

    templates: Mapping[str, Template]
    version: str
    image_first: bool = False

    @classmethod
    def load(cls, path: Path | None = None, *, image_first: bool = False) -> Prompts:
        """Read a table of prompts; the one that ships without `path`."""
        data = tomllib.loads((path or Path(__file__).with_name("prompts.toml")).read_text(encoding="utf-8"))
        words = {**data, "image_first": image_first}
        canonical = json.dumps(words, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        templates = {
            f"{task}.{language}": Template(f"{task}.{language}", **template)
            for task, languages in data.items()
            for language, template in languages.items()
        }
        return cls(templates, hashlib.sha256(canonical.encode("utf-8")).hexdigest(), image_first)

    @classmethod
    @cache
    def shipped(cls) -> Prompts:
        """The table that ships, read once."""
        return cls.load()

    def with_own(self, words: Mapping[str, Mapping[Language, tuple[str, str]]]) -> Prompts:
        """Return the table with a plan's own templates in it, and a version of its own.

        Parameters
        ----------
        words : mapping of str to mapping of Language to (str, str)
            By task, or another template's name: instruction and rest.
        """
        if not words:
            return self
        own = {
            f"{task}.{language}": Template(f"{task}.{language}", *parts, "plan")
            for task, languages in words.items()
            for language, parts in languages.items()
        }
        told = [self.version, sorted((template.name, template.instruction, template.rest) for template in own.values())]
        version = hashlib.sha256(json.dumps(told).encode("utf-8")).hexdigest()
        return Prompts({**self.templates, **own}, version, self.image_first)

    def compose(
        self,
        task: str,
        language: Language,
        *,
        objects: Sequence[str] = (),
        box: ModelBox | None = None,
        labels: Sequence[str] = (),
        image: str = "",
        an_image: str = "",
        question: str = "",
        note: str = "",
        located: Mapping[str, Sequence[ModelBox]] | None = None,
    ) -> Prompt:
        """Fill a template.

        Parameters
        ----------
        task : str
            A task, or another template's name without its language.
        language : Language
        objects : sequence of str
            What to locate or describe.
        box : tuple of int, optional
            The region asked about, on the model's 0-999 scale.
        labels : sequence of str
            The possible answers of a classification.
        image, an_image : str
            The image's noun, as ``X-ray image`` and with its article, ``an X-ray image``.
        question : str
            The question of ``vqa``.
        note : str
            What a classification's prompt says behind its labels.
        located : mapping of str to sequence of ModelBox, optional
            Regions found before, by label: the question is asked with them in it (regional chain of thought).

        Raises
        ------
        PlanError
            If there is no such template, or it needs something that was not given.
        """
        name = f"{task}.{language}"
        if name not in self.templates:
            raise PlanError(f"there is no prompt for task {task!r} in language {language!r}")
        regions = {label: tuple(boxes) for label, boxes in (located or {}).items()}
        told = [*([box] if box else []), *(one for boxes in regions.values() for one in boxes)]
        if not all(0 <= value <= SCALE for one in told for value in one):
            raise ValueError(f"a box in a question lies within 0 and {SCALE}")
        template = self.templates[name]
        parts = {
            "objects": ", ".join(f"<ref>{item}</ref>" for item in objects),
            "names": ", ".join(objects),
            "box": f"<box>[[{', '.join(map(str, box))}]]</box>" if box else "",
            "regions": ", ".join(format_boxes(label, boxes) for label, boxes in regions.items()),
            "labels": "\n".join(labels),
            "labels_inline": " and ".join(labels),
            "note": note and f"{note} ",
            "an_image": an_image,
            "image": image,
            "question": question,
        }

        def fill(place: re.Match[str]) -> str:
            if not (words := parts[place[1]]) and place[1] not in _MAY_BE_EMPTY:
                raise PlanError(f"the prompt {name} needs {place[1]}")
            return words

        before = self.templates[f"{REGIONAL}.{language}"].rest if regions else ""
        instruction, rest = (_PLACE.sub(fill, half) for half in (template.instruction, before + template.rest))
        text = IMAGE + instruction + rest if self.image_first else instruction + IMAGE + rest
        return Prompt(f"{name}+{REGIONAL}" if regions else name, language, text)
