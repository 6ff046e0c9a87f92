"""Plans as TOML files: those that ship, and a site's own; a faulty one is refused by file, line and column."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from engine.errors import PlanError
from engine.plan.model import Plan

SHIPPED: Final = Path(__file__).parent.with_name("plans")

_TABLE = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*[=.]")
_TASK = re.compile(r"the task '(\w+)'")
_AT = re.compile(r"\(at (?:line (\d+), column (\d+)|end of document)\)")


@dataclass(frozen=True, slots=True)
class PlanFault:
    """What is wrong with a plan, and where: line and column count from 1."""

    line: int
    column: int
    why: str


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan and where it comes from."""

    plan: Plan
    path: Path


def parse_plan(text: str) -> Plan | list[PlanFault]:
    """Make a plan of a file's text, or say all that is wrong with it."""
    try:
        return Plan.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        place = _AT.search(str(error))
        line, column = (int(n) for n in place.groups()) if place and place[1] else (text.count("\n") + 1, 1)
        return [PlanFault(line, column, f"not TOML: {_AT.sub('', str(error)).strip()}")]
    except RecursionError:
        return [PlanFault(1, 1, "not TOML: its arrays or tables are nested too deeply")]
    except ValidationError as error:
        details = error.errors()
        inside = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
        # A list is too short for pydantic where an item of it is wrong; the item says enough.
        told = (one for one in details if not (one["type"] == "too_short" and one["loc"] in inside))
        return sorted((_fault(text, detail) for detail in told), key=lambda one: (one.line, one.column))


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises
    ------
    PlanError
        If the file is no valid plan; the message names the file, line and column, and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(f"the plan {path.name} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"the plan {path.name} is not UTF-8 text") from error
    plan = parse_plan(text)
    if isinstance(plan, Plan):
        return plan
    told = "; ".join(f"line {fault.line}, column {fault.column}: {fault.why}" for fault in plan)
    raise PlanError(f"the plan {path.name} is wrong: {told}", advice="`medrega-pacs plan check FILE` shows it in place")


def read_plans(folder: Path | None = None) -> dict[str, PlanFile]:
    """Read the plans that ship and those of a site's folder, by name; a site's own replaces one of the same name.

    Raises
    ------
    PlanError
        If the folder is none, a plan is wrong, or two of one folder have the same name.
    """
    if folder is not None and not folder.is_dir():
        raise PlanError(f"the folder of plans {folder} is not there", advice="see the setting engine.plans")
    return _folder(SHIPPED) | (_folder(folder) if folder is not None else {})


def load_plans(folder: Path | None = None) -> dict[str, Plan]:
    """Read the plans that a study may be read by, by name; see `read_plans`."""
    return {name: file.plan for name, file in read_plans(folder).items()}


def _folder(folder: Path) -> dict[str, PlanFile]:
    plans: dict[str, PlanFile] = {}
    for path in sorted(folder.glob("*.toml")):
        plan = load_plan(path)
        if plan.name in plans:
            raise PlanError(f"the plan {path.name} has a name that another one has: {plan.name!r}")
        plans[plan.name] = PlanFile(plan if folder == SHIPPED else plan.as_own(), path)
    return plans


def _fault(text: str, detail: ErrorDetails) -> PlanFault:
    loc, value = detail["loc"], detail["input"]
    said = f"{'.'.join(map(str, loc)) or 'plan'}: {detail['msg'].removeprefix('Value error, ')}"
    if detail["type"] == "extra_forbidden":
        value = None  # the key itself is what is wrong
        said = f"{'.'.join(map(str, loc))}: there is no such key; known are {', '.join(_known_keys(loc[:-1]))}"
    elif not loc and (task := _TASK.search(said)):
        loc, value = ("tasks",), task[1]  # the plan as a whole lacks what one of its tasks needs
    return PlanFault(*_locate(text, loc, value), said)


def _known_keys(loc: Sequence[str | int]) -> list[str]:
    """The keys of the table at a place of a plan."""
    table: type[BaseModel] = Plan
    for name in loc:
        if isinstance(name, str):
            told = table.model_fields[name].annotation
            kinds = (told, *get_args(told))  # Limits, or tuple[PlanObject, ...]
            table = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(table.model_fields)


def _locate(text: str, loc: Sequence[str | int], value: object) -> tuple[int, int]:
    """Line and column of a key of a plan or, where the key holds several strings, of the wrong one among them.

    The parser of the standard library keeps no places. A plan is simple enough to look for them: tables, arrays of
    tables, and keys at the beginning of a line.
    """
    names = [part for part in loc if isinstance(part, str)]
    place = next((part for part in loc if isinstance(part, int)), None)
    found = (1, 1)  # a key that is missing is missed at its table, one of the file at its beginning
    table: list[str] = []
    entry: dict[str, int] = {}
    depth = 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = [part.strip(" \"'") for part in header[2].split(".")]
            if header[1] == "[[":
                entry[header[2]] = entry.get(header[2], -1) + 1
            inside = table == names[: len(table)] and entry.get(header[2], place) == place
            if inside and len(table) >= depth:
                found, depth = (number, line.index("[") + 1), len(table)
        elif (key := _KEY.match(line)) and [*table, key[1].strip("\"'")] == names[: len(table) + 1]:
            if entry.get(".".join(table), place) != place:
                continue
            found = (number, line.index(key[1]) + 1)
            break
    if isinstance(value, str):
        return _value(text, found, value)
    return found


def _value(text: str, key: tuple[int, int], value: str) -> tuple[int, int]:
    """Where a string stands behind a key, on its line or the next ones of an array."""
    lines = text.splitlines()
    for number in range(key[0], len(lines) + 1):
        line = lines[number - 1]
        begin = key[1] if number == key[0] else 0
        if number > key[0] and (_TABLE.match(line) or _KEY.match(line)):
            break
        for quote in "\"'":
            if (at := line.find(f"{quote}{value}{quote}", begin)) >= 0:
                return number, at + 1
    return key
