"""Rules: a TOML file of routes, the first that matches decides; a faulty file is refused by line and column."""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from dicom_node.routing.condition import Condition, Fault
from dicom_node.routing.decision import DEFAULT_ROUTE, Action, Decision, Priority, Target
from dicom_node.routing.facts import Facts
from dicom_node.routing.places import Place, Places
from dicom_node.settings import Settings
from dicom_node.settings.section import Section
from engine.errors import SettingsError
from engine.findings import Language
from engine.plan import load_plans

_AT: Final = re.compile(r" ?\(at (?:line (\d+), column (\d+)|end of document)\)")
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_UNKNOWN: Final = "extra_forbidden"
_WORDS: Final = {
    "missing": "is missing",
    "string_pattern_mismatch": "is 1 to 64 letters, digits, points and hyphens",
    "tuple_type": "should be a list in square brackets",
    "model_type": 'should be a name in quotes, or a table as { name = "pacs" }',
    "string_type": "should be a text in quotes",
}
_TABLE: Final = "routes"


class _TargetTable(Section):
    name: str
    profile: str | None = Field(default=None, min_length=1)
    languages: tuple[Language, ...] | None = Field(default=None, min_length=1)


class _RouteTable(Section):
    name: str = Field(pattern=_NAME)
    when: str | None = None
    action: Action = Action.READ
    priority: Priority | None = None
    plan: str | None = None
    destinations: tuple[_TargetTable, ...] | None = None
    engine: str | None = Field(default=None, pattern=_NAME)
    sample: Annotated[float, Field(ge=0, le=100)] = 100


@dataclass(frozen=True, slots=True)
class Route:
    """One rule: what it matches, and what happens then.

    Parameters
    ----------
    name : str
    condition : Condition or None
        None matches everything.
    action : Action
    priority : Priority or None
        That of the entry point, else routine, where there is none.
    plan, engine : str or None
    destinations : tuple of Target or None
    sample : float
        Percentage of its studies that are read.
    """

    name: str
    condition: Condition | None = None
    action: Action = Action.READ
    priority: Priority | None = None
    plan: str | None = None
    destinations: tuple[Target, ...] | None = None
    engine: str | None = None
    sample: float = 100

    def matches(self, facts: Facts) -> bool:
        """Whether a study takes this route; not where that cannot be decided."""
        return self.condition is None or self.condition.holds(facts) is True

    def decide(self, study_instance_uid: str, asked: Priority | None = None) -> Decision:
        """The decision on a study that takes this route."""
        return Decision(
            route=self.name,
            action=self.action,
            priority=self.priority or asked or Priority.ROUTINE,
            plan=self.plan,
            destinations=self.destinations,
            engine=self.engine,
            sampled=in_sample(study_instance_uid, self.name, self.sample),
        )


DEFAULT: Final = (Route(DEFAULT_ROUTE),)
"""The rules where there is no file of them."""


@dataclass(frozen=True, slots=True)
class Names:
    """What rules may refer to: the names of plans, destinations and output profiles."""

    plans: Sequence[str]
    destinations: Sequence[str]
    profiles: Sequence[str]

    @classmethod
    def of(cls, settings: Settings) -> Names:
        """The names that settings give.

        Raises
        ------
        PlanError
            If the site's plans cannot be read.
        """
        found = find_spec(
            "sr_writer"
        )  # not imported: its library takes a second and 50 MB that a listener has no use for
        assert found is not None  # noqa: S101 - a floor of this house
        assert found.origin is not None  # noqa: S101
        return cls(
            plans=tuple(load_plans(settings.engine.plans)),
            destinations=tuple(destination.name for destination in settings.destinations),
            profiles=tuple(path.stem for path in sorted(Path(found.origin).with_name("profiles").glob("*.toml"))),
        )


def in_sample(study_instance_uid: str, route: str, percent: float) -> bool:
    """Whether a study is of a route's sample: always the same answer for a study, and that of a larger share too."""
    if percent >= 100:
        return True
    digest = hashlib.sha256(f"{route}\0{study_instance_uid}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100 < percent


def decide(
    routes: Iterable[Route],
    facts: Facts,
    study_instance_uid: str,
    *,
    asked: Priority | None = None,
    named: str | None = None,
) -> Decision:
    """Decide on a study: by the first route that matches.

    Parameters
    ----------
    routes : iterable of Route
    facts : Facts
    study_instance_uid : str
    asked : Priority, optional
        What the entry point asks for.
    named : str, optional
        The route that the entry point names; its condition is not looked at, and no other one is.
    """
    for route in routes:
        if route.name == named or (named is None and route.matches(facts)):
            return route.decide(study_instance_uid, asked)
    return Decision(route=None, action=Action.OFF, priority=asked or Priority.ROUTINE)


def load_rules(path: Path, names: Names) -> tuple[Route, ...]:
    """Read a file of rules.

    Raises
    ------
    SettingsError
        If it cannot be read or is wrong; the message names the line and column of every fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"there is no file of rules {path}", advice="see the setting routing.rules") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"the rules {path} cannot be read: {why}") from None
    parsed = parse_rules(text, names)
    if isinstance(parsed, list):
        told = "; ".join(f"{path}:{fault.line}:{fault.column}: {fault.why}" for fault in parsed)
        raise SettingsError(f"the rules are wrong: {told}", advice="`medrega-pacs route check` shows it")
    return parsed


def parse_rules(text: str, names: Names) -> tuple[Route, ...] | list[Fault]:
    """Make routes of a file's text, or say all that is wrong with it."""
    text = text.replace("\r\n", "\n")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = _AT.search(str(error))
        line, column = (int(n) for n in at.groups()) if at and at[1] else (text.count("\n") + 1, 1)
        return [Fault(line, column, f"not TOML: {_AT.sub('', str(error))}")]
    except RecursionError:
        return [Fault(1, 1, "not TOML: its arrays or tables are nested too deeply")]
    tables = content.get(_TABLE)
    if set(content) - {_TABLE} or not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        odd = next((key for key in content if key != _TABLE), None)
        why = f"there is no such key: {odd}; a file of rules" if odd else "a file of rules"
        return [Fault(_line_of(text, odd), 1, f"{why} is [[{_TABLE}]] tables alone")]
    parser = _Parser(Places(text, _TABLE), names)
    routes = [parser.route(index, table) for index, table in enumerate(tables)]
    if parser.faults:
        return sorted(parser.faults, key=lambda fault: (fault.line, fault.column))
    return tuple(route for route in routes if route is not None)


class _Parser:
    """Makes routes of tables and gathers what is wrong with them."""

    def __init__(self, places: Places, names: Names) -> None:
        self.faults: list[Fault] = []
        self._places = places
        self._names = names
        self._seen: set[str] = set()

    def route(self, index: int, content: dict[str, Any]) -> Route | None:
        """The route of a table; None where it has a fault."""
        before = len(self.faults)
        condition = self._condition(index, content.get("when"))
        self._check_names(index, content)
        try:
            table = _RouteTable.model_validate(_spelled_out(content))
        except ValidationError as error:
            for detail in error.errors():
                self._fault(self._place(index, content, detail["loc"]), _said(detail))
            return None
        if len(self.faults) > before:
            return None
        targets = table.destinations
        given = None if targets is None else tuple(Target(one.name, one.profile, one.languages) for one in targets)
        return Route(
            name=table.name,
            condition=condition,
            action=table.action,
            priority=table.priority,
            plan=table.plan,
            destinations=given,
            engine=table.engine,
            sample=table.sample,
        )

    def _check_names(self, index: int, content: dict[str, Any]) -> None:
        """Names of plans and the like; told beside the faults of the table's form."""
        if isinstance(name := content.get("name"), str):  # anything else is refused by the table's form
            if name in self._seen:
                self._fault(self._places.string(index, "name", name), f"two routes have the name {name}")
            self._seen.add(name)
        self._known(index, "plan", content.get("plan"), "plan", self._names.plans)
        targets = content.get("destinations")
        used: set[object] = set()
        for target in targets if isinstance(targets, list) else ():
            one = target if isinstance(target, dict) else {"name": target}
            self._known(index, "destinations", one.get("name"), "destination", self._names.destinations)
            if (destination := str(one.get("name"))) in used:
                where = self._places.string(index, "destinations", destination)
                self._fault(where, f"the destination {destination} is named twice")
            used.add(destination)
            profile = str(one.get("profile", self._names.profiles[0]))
            # A path is read when results are made, where the library for it is.
            if "/" not in profile and not profile.endswith(".toml"):
                self._known(index, "destinations", profile, "output profile", self._names.profiles)

    def _condition(self, index: int, text: object) -> Condition | None:
        if not isinstance(text, str):
            return None
        parsed = Condition.parse(text)
        if isinstance(parsed, Condition):
            return parsed
        for fault in parsed:
            self._fault(self._places.string(index, "when", text, fault.line, fault.column), f"when: {fault.why}")
        return None

    def _known(self, index: int, key: str, name: object, kind: str, known: Collection[str]) -> None:
        if isinstance(name, str) and name not in known:
            self._fault(self._places.string(index, key, name), f"there is no {kind} {name}; {nearest(name, known)}")

    def _place(self, index: int, content: dict[str, Any], loc: Sequence[int | str]) -> Place:
        key = str(loc[0])
        value: Any = content.get(key)
        for part in loc[1:]:  # down to the wrong one of a list
            try:
                value = value[part]
            except (LookupError, TypeError):
                break
        return self._places.string(index, key, value) if isinstance(value, str) else self._places.key(index, key)

    def _fault(self, place: Place, why: str) -> None:
        self.faults.append(Fault(place.line, place.column, why))


def nearest(name: str, known: Collection[str]) -> str:
    """Advice on a name that nothing has."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known are {', '.join(sorted(known))}" if known else "there are none at all"


def _spelled_out(content: dict[str, Any]) -> dict[str, Any]:
    """A destination may be its name alone."""
    targets = content.get("destinations")
    if not isinstance(targets, list):
        return content
    return content | {"destinations": [{"name": one} if isinstance(one, str) else one for one in targets]}


def _said(detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"] if isinstance(part, str))
    if detail["type"] == _UNKNOWN:
        model = _RouteTable if len(detail["loc"]) == 1 else _TargetTable
        return f"there is no key {key.rpartition('.')[2]}; {nearest(str(detail['loc'][-1]), tuple(model.model_fields))}"
    return f"{key}: {_WORDS.get(detail['type']) or detail['msg'].removeprefix('Value error, ')}"


def _line_of(text: str, key: str | None) -> int:
    found = re.search(rf"^[ \t]*\[*[ \t\"']*{re.escape(key)}\b", text, re.MULTILINE) if key else None
    return text.count("\n", 0, found.start()) + 1 if found else 1
