"""How other models spell boxes: declared in ``dialects.toml``, read into the same parsed answer as MedRegA's.

A plan names its model's dialect. A reader is as total as `engine.grammar.parse`: any string goes in, and what was meant
as a box and cannot be read as one is told.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.grammar import SCALE, Grounded, ModelBox, Parsed, parse

MEDREGA: Final = "medrega"
"""The dialect that `engine.grammar` reads."""
_TRACE: Final = 60
"""Characters of a faulty box that are told."""


class Dialect(BaseModel):
    """One model's way of writing boxes; see ``dialects.toml`` for the keys.

    Raises
    ------
    ValueError
        If an expression is none, or lacks what it is to capture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    scale: float = Field(gt=0)
    offset: float = Field(ge=0)
    order: tuple[Literal["x0", "y0", "x1", "y1"], ...] = Field(min_length=4, max_length=4)
    frame: Literal["image", "centre square"]
    one_object: bool
    group: re.Pattern[str]
    box: re.Pattern[str]
    trace: re.Pattern[str]
    tags: re.Pattern[str]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(set(self.order)) < len(self.order):
            raise ValueError("the order names each of a box's numbers once")
        if self.box.groups != len(self.order):
            raise ValueError("the expression of a box captures four numbers")
        if "boxes" not in self.group.groupindex:
            raise ValueError("the expression of a group captures its boxes")
        return self

    def parse(self, answer: str, rows: int, columns: int, asked: str = "") -> Parsed:
        """Take an answer apart.

        Parameters
        ----------
        answer : str
        rows, columns : int
            Size of the image, which the centre square is cut from.
        asked : str
            What boxes without a name are of.

        Returns
        -------
        Parsed
            Its boxes lie on MedRegA's scale: 0 to 999 of the whole image.
        """
        regions: list[Grounded] = []
        unreadable: list[str] = []
        words, done = "", 0
        read: list[tuple[int, int]] = []
        for group in self.group.finditer(answer):
            label = (group.groupdict().get("label") or "").strip() or asked
            for box in self.box.finditer(answer, *group.span("boxes")):
                read.append(box.span())
                placed = self._place([float(number) for number in box.groups()], rows, columns)
                if placed is None:
                    unreadable.append(f"{label}{box[0]}")
                else:
                    named = group.span("label") if group.groupdict().get("label") else (box.start(), box.start())
                    regions.append(Grounded(label, placed, (named, box.span())))
            words, done = words + answer[done : group.start()], group.end()
        for trace in self.trace.finditer(answer):
            if not any(start < trace.end() <= end for start, end in read):
                unreadable.append(answer[trace.start() : trace.start() + _TRACE])
        text = self.tags.sub("", words + answer[done:])
        return Parsed(tuple(regions), re.sub(r"[ \t]+", " ", text).strip(" \t\n,.:;"), tuple(unreadable))

    def _place(self, numbers: list[float], rows: int, columns: int) -> ModelBox | None:
        """A box on MedRegA's scale; None where it is flat, or reaches beyond what it is relative to."""
        told = dict(zip(self.order, ((number + self.offset) / self.scale for number in numbers), strict=True))
        x0, x1 = sorted((told["x0"], told["x1"]))
        y0, y1 = sorted((told["y0"], told["y1"]))
        if x0 == x1 or y0 == y1 or x1 > 1 or y1 > 1:
            return None
        side_x, side_y = 1.0, 1.0
        if self.frame == "centre square":
            side_x, side_y = min(rows, columns) / columns, min(rows, columns) / rows
        first_x, first_y = (1 - side_x) / 2, (1 - side_y) / 2
        across, down = SCALE * side_x, SCALE * side_y
        return (
            SCALE * first_x + x0 * across,
            SCALE * first_y + y0 * down,
            SCALE * first_x + x1 * across,
            SCALE * first_y + y1 * down,
        )


@cache
def dialects() -> Mapping[str, Dialect]:
    """Read the dialects that ship, by name; MedRegA's own is not among them."""
    text = files("engine").joinpath("dialects.toml").read_text(encoding="utf-8")
    return MappingProxyType({name: Dialect.model_validate(keys) for name, keys in tomllib.loads(text).items()})


def one_object(dialect: str) -> bool:
    """Whether a question in this dialect is about one object only."""
    return dialect != MEDREGA and dialects()[dialect].one_object


def read_boxes(dialect: str, answer: str, rows: int, columns: int, asked: str = "") -> Parsed:
    """Take an answer apart that is written in a dialect; see `Dialect.parse`."""
    if dialect == MEDREGA:
        return parse(answer)
    return dialects()[dialect].parse(answer, rows, columns, asked)
