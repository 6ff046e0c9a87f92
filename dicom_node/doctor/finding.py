"""What a check finds: ok, a warning or a failure, in words for a person, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """It works, and something will bite later."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    Parameters
    ----------
    outcome : Outcome
    words : str
        What was found, without patient data and secrets.
    remedy : str
        What to do about it; empty where all is well.
    check : str
        Which check found it; entered by whoever ran it.
    """

    outcome: Outcome
    words: str
    remedy: str = ""
    check: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Something that is looked at.

    Parameters
    ----------
    name : str
        As the person knows it: ``database``, ``destination pacs``; its first word is what ``--only`` chooses by.
    look : callable
        Gives what it finds, one after the other. `MedregaError` that it raises is its last finding, a failure.
    seconds : float or None
        How long it may take before it counts as hanging; as long as it likes without.
    """

    name: str
    look: Callable[[], Iterable[Finding]]
    seconds: float | None = 60

    @property
    def kind(self) -> str:
        """What sort of thing it looks at."""
        return self.name.partition(" ")[0]


def ok(words: str) -> Finding:
    """All is well."""
    return Finding(Outcome.OK, words)


def warn(words: str, remedy: str) -> Finding:
    """It works, and something will bite later."""
    return Finding(Outcome.WARN, words, remedy)


def fail(words: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(Outcome.FAIL, words, remedy)
