"""MedRegA's data format: a JSON object a line, with ``id``, ``image`` and ``conversations``."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from engine.errors import MedregaError
from engine.findings import Language
from engine.grammar import parse
from engine.model.tokenizer import IMAGE

Kind = Literal["vqa", "report", "classification", "identification", "detection", "grounded"]
_CHOICES: Final = re.compile(r"possible [^\n:]+ are:[ \t]*\n(?P<labels>.+?)\n\s*(?:<image>|please |\")", re.I | re.S)
_REPORT: Final = re.compile(r"report generation|生成诊断报告|撰写诊断报告", re.I)
_REGION: Final = re.compile(r"<box>\s*\[+\s*\d")
_CHINESE: Final = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Sample:
    """A question about an image, and the answer that it should get.

    Parameters
    ----------
    id : str
    image : str
        Path of the image, relative to a folder that the caller knows.
    question, reference : str
        With ``<image>``, tags and boxes as the model sees and writes them.
    """

    id: str
    image: str
    question: str
    reference: str

    @property
    def digest(self) -> str:
        """What tells this question from every other."""
        return hashlib.sha256(json.dumps([self.id, self.image, self.question]).encode()).hexdigest()

    @property
    def language(self) -> Language:
        """That of the question."""
        return "zh" if _CHINESE.search(self.question) else "en"

    @property
    def choices(self) -> tuple[str, ...]:
        """The labels that a classification chooses from; empty for every other question."""
        found = _CHOICES.search(self.question)
        return tuple(label.strip() for label in found["labels"].splitlines() if label.strip()) if found else ()

    @property
    def kind(self) -> Kind:
        """What is asked, told by the question and the form of its answer."""
        if self.choices:
            return "classification"
        boxes = parse(self.reference)
        if boxes.regions:
            words = boxes.text
            for region in boxes.regions:
                words = words.replace(region.label, "", 1)
            return "grounded" if re.search(r"\w", words) else "detection"
        if _REGION.search(self.question):
            return "identification"
        return "report" if _REPORT.search(self.question) else "vqa"


def read_samples(path: Path) -> list[Sample]:
    """Read a data file.

    Raises
    ------
    MedregaError
        If a line is no sample; it is numbered, and its words are not told.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MedregaError(f"{path} cannot be read: {type(error).__name__}") from error
    samples = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            samples.append(_sample(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # A JSON error's words hold none of the line; a key is one of the format's own.
            raise MedregaError(f"{path}, line {number} is no sample: {error}") from error
    if not samples:
        raise MedregaError(f"{path} holds no sample")
    return samples


def _sample(raw: dict[str, Any]) -> Sample:
    turns = raw["conversations"]
    if len(turns) != 2 or [turn["from"] for turn in turns] != ["human", "gpt"]:
        raise ValueError("its conversation is not one question and one answer")
    question, reference = (str(turn["value"]) for turn in turns)
    if question.count(IMAGE) > 1 or not isinstance(raw["image"], str):
        raise ValueError("it is about more than one image")
    if IMAGE not in question:
        question = f"{IMAGE}\n{question}"
    return Sample(str(raw["id"]), raw["image"], question, reference)
