"""A decision: what the rules say is to happen to one run of a study. It is made once, and kept with the run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final, Self

from engine.errors import NodeError
from engine.findings import Language

DEFAULT_ROUTE: Final = "default"
"""Name of the built-in route, which takes every study where there are no rules."""


class Action(StrEnum):
    """What happens to a study on a route, from the least to the most that is held back."""

    READ = "read"
    """It is read, and its results are sent."""
    SHADOW = "shadow"
    """It is read and its results are kept; nothing is sent."""
    OFF = "off"
    """It is not read."""


class Priority(StrEnum):
    """How soon a study is read, the most urgent first."""

    STAT = "stat"
    HIGH = "high"
    ROUTINE = "routine"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the most urgent; what the ledger sorts by."""
        return list(Priority).index(self)


@dataclass(frozen=True, slots=True)
class Target:
    """A destination of the settings, and what it gets on this route other than it usually does.

    Parameters
    ----------
    name : str
    profile : str or None
        Its output profile; the destination's own without one.
    languages : tuple of Language or None
    """

    name: str
    profile: str | None = None
    languages: tuple[Language, ...] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to happen to a run.

    Parameters
    ----------
    route : str or None
        Name of the route; None where none matched.
    action : Action
    priority : Priority
    plan : str or None
        The engine chooses where there is none.
    destinations : tuple of Target or None
        None for all that the settings have.
    engine : str or None
        The reading queue; None for that of any engine.
    sampled : bool
        False where the route reads a share of its studies, and this one is not of it.
    """

    route: str | None = DEFAULT_ROUTE
    action: Action = Action.READ
    priority: Priority = Priority.ROUTINE
    plan: str | None = None
    destinations: tuple[Target, ...] | None = None
    engine: str | None = None
    sampled: bool = True

    @property
    def ignored(self) -> str:
        """Why the run is not read, in plain words; empty if it is."""
        if self.route is None:
            return "no route matches this study"
        if self.action is Action.OFF:
            return f"route {self.route} is off"
        if not self.sampled:
            return f"route {self.route} reads a share of its studies, and this one is not of it"
        return ""

    def held_back(self, action: Action) -> Decision:
        """The same with an action of the switch by hand, if that holds back more."""
        order = list(Action)
        return replace(self, action=max(self.action, action, key=order.index))

    def to_json(self) -> str:
        """For the ledger."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A decision as `to_json` gave it.

        Raises
        ------
        NodeError
            If it is not one.
        """
        try:
            value = json.loads(text)
            targets = value.pop("destinations")
            return cls(
                **value
                | {
                    "action": Action(value["action"]),
                    "priority": Priority(value["priority"]),
                    "destinations": None if targets is None else tuple(map(_target, targets)),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise NodeError(f"a decision in the ledger cannot be read ({type(error).__name__})") from None


def _target(value: dict[str, object]) -> Target:
    languages = value["languages"]
    return Target(**value | {"languages": None if languages is None else tuple(languages)})  # type: ignore[arg-type]
