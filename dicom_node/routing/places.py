"""Places: where the values of a TOML file stand, which the parser of the standard library does not tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"(?P<comment>\#[^\n]*)"
    r"|(?P<string>\"\"\"(?:\\.|[^\\])*?\"\"\"+|'''.*?'''+|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*')"
    r"|(?P<bare>[A-Za-z0-9_-]+)"
    r"|(?P<end>\n)"
    r"|(?P<sign>\S)",
    re.DOTALL,
)
_ESCAPES: Final = {"u": 6, "U": 10}
_BLANK: Final = re.compile(r"\\[ \t]*\n\s*")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; line and column count from 1."""

    line: int
    column: int


class Places:
    """Where keys and their strings stand in a file that is an array of tables.

    Parameters
    ----------
    text : str
        Valid TOML with ends of line as ``\\n``.
    table : str
        Name of the array of tables.
    """

    def __init__(self, text: str, table: str) -> None:
        self._text = text
        self._tables: list[int] = []
        self._keys: dict[tuple[int, str], int] = {}
        self._strings: dict[tuple[int, str], list[re.Match[str]]] = {}
        self._scan(table)

    def _scan(self, table: str) -> None:
        header = re.compile(rf"^[ \t]*\[\[[ \t]*([\"']?){re.escape(table)}\1[ \t]*\]\]", re.MULTILINE)
        headers = {match.end() - 1: match for match in header.finditer(self._text)}
        depth, key, fresh = 0, "", True
        for token in _TOKEN.finditer(self._text):
            kind = token.lastgroup
            if kind == "end":
                fresh = fresh or depth == 0
            elif kind == "sign" and (depth or not fresh or token[0] == "["):
                depth += (token[0] in "[{") - (token[0] in "]}")
                if depth == 0 and token.start() in headers:
                    self._tables.append(headers[token.start()].start())
                    key = ""
            elif fresh and depth == 0 and kind in ("bare", "string"):
                key, fresh = token[0].strip("\"'"), False
                self._keys.setdefault((len(self._tables) - 1, key), token.start())
            elif kind == "string":
                self._strings.setdefault((len(self._tables) - 1, key), []).append(token)

    def table(self, index: int) -> Place:
        """Where a table begins; the beginning of the file where it cannot be told."""
        return self._place(self._tables[index] if index < len(self._tables) else 0)

    def key(self, index: int, key: str) -> Place:
        """Where a key of a table stands, or the table where it has no such key."""
        start = self._keys.get((index, key))
        return self.table(index) if start is None else self._place(start)

    def string(self, index: int, key: str, value: str, line: int = 1, column: int = 1) -> Place:
        """Where a character of a string stands that is a key's value or an item of it.

        Parameters
        ----------
        index : int
        key : str
        value : str
            The string, as the parser gave it.
        line, column : int
            Of the character, within the string.
        """
        for token in self._strings.get((index, key), ()):
            offsets = _offsets(token[0])
            if len(offsets) != len(value):
                continue
            begin = sum(len(row) + 1 for row in value.split("\n")[: line - 1]) + column - 1
            at = offsets[begin] if begin < len(offsets) else (offsets[-1] + 1 if offsets else 1)
            if all(self._text[token.start() + n] in (char, "\\") for n, char in zip(offsets, value, strict=True)):
                return self._place(token.start() + at)
        return self.key(index, key)

    def _place(self, offset: int) -> Place:
        line = self._text.count("\n", 0, offset) + 1
        return Place(line, offset - (self._text.rfind("\n", 0, offset) + 1) + 1)


def _offsets(token: str) -> list[int]:
    """Where each character of a string's value stands in the string as it is written."""
    quotes = 3 if token.startswith(('"""', "'''")) else 1
    at, end = quotes, len(token) - quotes
    if quotes == 3 and token[at] == "\n":
        at += 1
    offsets = []
    while at < end:
        if token[0] == '"' and token[at] == "\\":
            if blank := _BLANK.match(token, at):
                at = blank.end()
                continue
            offsets.append(at)
            at += _ESCAPES.get(token[at + 1], 2)
        else:
            offsets.append(at)
            at += 1
    return offsets
