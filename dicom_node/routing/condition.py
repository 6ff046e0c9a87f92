"""Conditions: expressions over a study's attributes in CEL, the Common Expression Language, checked before they run.

CEL has no loops, no side effects and no access to anything but what it is given, and bounds its own work. Its logic
has three values, which is what routing wants: a comparison with something that is not known is neither true nor false,
``&&`` and ``||`` still decide where their other side settles it, and only a condition that is true matches.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Self

from cel_expr_python import cel

from dicom_node.routing.facts import ATTRIBUTES, Facts, Value

_TYPES: Final = {"text": cel.Type.STRING, "number": cel.Type.INT, "list": cel.Type.List(cel.Type.STRING)}
_TOKEN: Final = re.compile(
    r"(?P<space>\s+|//[^\n]*)"
    r"|(?P<string>[rRbB]{0,2}(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'))"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign>&&|\|\||.)",
    re.DOTALL,
)
_FAULT: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): ([^\n]*)")
_UNKNOWN: Final = re.compile(r"undeclared reference to '([\w.]+)'")
_OVERLOAD: Final = re.compile(r"found no matching overload for '(?:_(.+?)_|([^']+))' applied to '(.*)'")
_IN_WORDS: Final = {
    "string": "text",
    "int": "a whole number",
    "list(string)": "a list",
    "double": "a number with a point",
}
_FUNCTIONS: Final = ("contains", "startsWith", "endsWith", "matches", "size", "exists", "all", "int", "string")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an expression or a file, and where: line and column count from 1."""

    line: int
    column: int
    why: str


@dataclass(frozen=True)
class Condition:
    """An expression that has been checked: it is true, false, or cannot be decided.

    Parameters
    ----------
    text : str
    names : frozenset of str
        The attributes that it names.
    """

    text: str
    names: frozenset[str]
    _expression: cel.Expression = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self | list[Fault]:
        """Check an expression: its grammar, the names in it, and that what is compared can be compared."""
        try:
            expression = _environment().compile(text)
        except RuntimeError as error:  # the library has no error of its own
            found = _FAULT.findall(str(error))
            return [_explained(text, int(line), int(column), why) for line, column, why in found] or [
                Fault(1, 1, "it is no expression")
            ]
        if (kind := expression.return_type().name()) != "BOOL":
            said = _IN_WORDS.get(kind.lower(), kind.lower())
            return [Fault(1, 1, f"a condition is true or false, and this is {said}")]
        if faults := list(_pattern_faults(text)):
            return faults
        return cls(text, frozenset(_names(text)), expression)

    def holds(self, facts: Facts) -> bool | None:
        """Whether it is true; None where that cannot be decided."""
        try:
            result = self._expression.eval(data=dict(facts.values))
        except RuntimeError:  # the library's bound on the work of one expression
            return None
        return bool(result.value()) if result.type().name() == "BOOL" else None

    def why_not(self, facts: Facts) -> str:
        """Which part of it is not true, and the values that make it so; for a condition that does not hold."""
        whole = _inside(self.text)
        if len(parts := list(_split(whole, "||"))) > 1:
            return "; and ".join(_part(part).why_not(facts) for part in parts)
        if len(parts := list(_split(whole, "&&"))) > 1:
            told = [(part.holds(facts), part) for part in map(_part, parts)]
            # What is false settles it; what cannot be decided matters only where nothing is.
            wanted = False if any(verdict is False for verdict, _ in told) else None
            return "; ".join(part.why_not(facts) for verdict, part in told if verdict is wanted)
        lacking = sorted(self.names & facts.missing.keys())
        if self.holds(facts) is None:
            reasons = "; ".join(f"{name} {facts.missing[name]}" for name in lacking)
            return f"{whole} cannot be decided: {reasons or 'it fails when it is worked out'}"
        values = ", ".join(f"{name} is {_shown(facts.values[name])}" for name in sorted(self.names - set(lacking)))
        return f"{whole} is false{f': {values}' if values else ''}"


@cache
def _environment() -> cel.Env:
    return cel.NewEnv(variables={name: _TYPES[attribute.kind] for name, attribute in ATTRIBUTES.items()})


def _part(text: str) -> Condition:
    """A part of a condition that has been checked as a whole."""
    part = Condition.parse(text)
    assert isinstance(part, Condition)  # noqa: S101 - operands of && and || are conditions
    return part


def _tokens(text: str) -> Iterator[re.Match[str]]:
    return (token for token in _TOKEN.finditer(text) if token.lastgroup != "space")


def _names(text: str) -> Iterator[str]:
    """Attributes in an expression: names that are no member of something else."""
    before = ""
    for token in _tokens(text):
        if token.lastgroup == "name" and before != "." and token[0] in ATTRIBUTES:
            yield token[0]
        before = token[0]


def _split(text: str, operator: str) -> Iterator[str]:
    """Operands of an operator that stand in no brackets; the whole where there is none, or a choice with ``?``."""
    depth, begin = 0, 0
    parts: list[str] = []
    for token in _tokens(text):
        if token.lastgroup != "sign":
            continue
        depth += (token[0] in "([{") - (token[0] in ")]}")
        if depth == 0 and token[0] == "?":
            parts, begin = [], 0
            break
        if depth == 0 and token[0] == operator:
            parts.append(text[begin : token.start()])
            begin = token.end()
    return (part.strip() for part in [*parts, text[begin:]])


def _inside(text: str) -> str:
    """An expression without the brackets around the whole of it."""
    while True:
        text = text.strip()
        tokens = list(_tokens(text))
        depth = 0
        for token in tokens[:-1]:
            depth += (token[0] == "(") - (token[0] == ")") if token.lastgroup == "sign" else 0
            if depth == 0:
                return text
        if not tokens or depth != 1 or tokens[0][0] != "(" or tokens[-1][0] != ")":
            return text
        text = text[tokens[0].end() : tokens[-1].start()]


def _pattern_faults(text: str) -> Iterator[Fault]:
    """Patterns for `matches` are read only when they are used; written in the expression they can be tried before."""
    tokens = list(_tokens(text))
    for name, bracket, pattern in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if name[0] == "matches" and bracket[0] == "(" and pattern.lastgroup == "string":
            tried = _environment().compile(f'"".matches({pattern[0]})').eval(data={})
            if tried.type().name() != "BOOL":
                line = text.count("\n", 0, pattern.start()) + 1
                column = pattern.start() - (text.rfind("\n", 0, pattern.start()) + 1) + 1
                yield Fault(line, column, f"{pattern[0]} is no regular expression (RE2)")


def _explained(text: str, line: int, column: int, why: str) -> Fault:
    """The library's words in a person's."""
    if unknown := _UNKNOWN.match(why):
        name = unknown[1]
        call = _stands(text, line, column, "(")
        column -= len(name) if call else 0  # of a call the library names the bracket
        known: Iterable[str] = _FUNCTIONS if call else ATTRIBUTES
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        if not call and name.isupper():
            advice = f'a text stands in quotes: "{name}"'
        return Fault(line, column, f"there is no {'function' if call else 'attribute'} {name}; {advice}")
    if overload := _OVERLOAD.match(why):
        kinds = re.findall(r"list\(\w+\)|\w+", overload[3])
        said = " and ".join(_IN_WORDS.get(kind, kind) for kind in kinds)
        what = overload[1] or overload[2]
        column -= len(what) if _stands(text, line, column, "(") else 0
        return Fault(line, column, f"{what} does not go with {said}")
    said = re.sub(r" expecting .*", "", why.removeprefix("Syntax error: "))
    return Fault(line, column, said.replace("mismatched input '<EOF>'", "something is missing at the end"))


def _stands(text: str, line: int, column: int, sign: str) -> bool:
    return bool(text) and text.splitlines()[line - 1][column - 1 : column] == sign


def _shown(value: Value) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
