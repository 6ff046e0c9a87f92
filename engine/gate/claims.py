"""Claims that need what a model was not given: it saw one picture, and no earlier one, no ruler, and no patient."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from engine.plan.match import view_of

_LATERAL: Final = ("LL", "RL", "LAT", "LATERAL", "LM", "ML")
# What a series' description may say of its contrast phase; words in English and Chinese.
_NAMED: Final = {
    "arterial": r"arterial|\bart\b|动脉期",
    "portal": r"portal|\bpvp?\b|门静?脉期",
    "venous": r"(?<!portal )venous|\bven\b|(?<!门)静脉期",
    "delayed": r"delay|equilibrium|excretory|nephrographic|延迟|平衡|排泄",
    "contrast": r"(?<!non )(?<!non-)(?<!pre-)contrast|\+ ?c\b|\bce\b|增强",
}

Given = frozenset[str]
"""What a picture is known to show: ``contrast``, contrast phases, ``lateral``, ``oblique``."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that a sentence may say and a model cannot know.

    Parameters
    ----------
    reason : str
        Why it is held back.
    pattern : re.Pattern
    given : str
        What a picture must show for it to be known; empty where nothing helps.
    """

    reason: str
    pattern: re.Pattern[str]
    given: str = ""


def given_of(header: Dataset) -> Given:
    """Read what a picture shows: of contrast by its header and its series' description, of views by View Position."""
    view = view_of(header) or ""
    said = str(header.get("SeriesDescription") or "").replace("_", " ")
    given = {name for name, words in _NAMED.items() if re.search(words, said, re.IGNORECASE)}
    if given or header.get("ContrastBolusAgent") or header.get("ContrastBolusAgentSequence"):
        given.add("contrast")
    if view in _LATERAL:
        given.add("lateral")
    if "O" in view:  # LLO, MLO, ...
        given.add("oblique")
    return frozenset(given)


def unsupported(sentence: str, given: Given = frozenset()) -> str | None:
    """Say what a sentence needs that the model was not given; None if nothing.

    Parameters
    ----------
    sentence : str
        In English, Chinese, or a mixture.
    given : set of str
    """
    return next(
        (claim.reason for claim in _claims() if claim.given not in given and claim.pattern.search(sentence)), None
    )


@cache
def _claims() -> tuple[Claim, ...]:
    table = tomllib.loads(Path(__file__).with_name("claims.toml").read_text(encoding="utf-8"))
    return tuple(
        Claim(
            item["reason"],
            re.compile("|".join(item["patterns"]).replace("{study}", table["study"]), re.IGNORECASE),
            item.get("given", ""),
        )
        for item in table["claims"]
    )
