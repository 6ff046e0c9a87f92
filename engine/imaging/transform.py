"""The way between a model's boxes and the source frame, in both directions."""

from __future__ import annotations

from dataclasses import dataclass

from engine.findings import Box
from engine.grammar import SCALE, ModelBox


@dataclass(frozen=True, slots=True)
class Transform:
    """Model coordinates to SCOORD coordinates of a source frame, and back.

    The model sees the frame stretched to a square, so x and y scale separately: ``pixel = v / 999 * columns`` (or
    rows). A frame is given to the model in its source grid even where its pixels are not square: the stretch takes
    that in, and boxes need no correction for it.

    Parameters
    ----------
    rows, columns : int
        Size of the source frame.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError("a frame has at least one row and one column")

    def to_source(self, box: tuple[float, float, float, float]) -> Box:
        """Return a box of the model's scale (0 to 999) in the SCOORD frame (PS3.3 C.18.6): 0 to columns, 0 to rows."""
        x0, y0, x1, y1 = box
        return (
            x0 / SCALE * self.columns,
            y0 / SCALE * self.rows,
            x1 / SCALE * self.columns,
            y1 / SCALE * self.rows,
        )

    def to_model(self, box: Box) -> tuple[float, float, float, float]:
        """Return a SCOORD box on the model's scale: the inverse of `to_source`."""
        x0, y0, x1, y1 = box
        return (
            x0 / self.columns * SCALE,
            y0 / self.rows * SCALE,
            x1 / self.columns * SCALE,
            y1 / self.rows * SCALE,
        )

    def to_grammar(self, box: Box) -> ModelBox:
        """Return a SCOORD box as the model spells it: integers within 0 to 999, at least 1 apart."""
        x0, y0, x1, y1 = (min(SCALE, max(0, round(value))) for value in self.to_model(box))
        x0, y0 = min(x0, SCALE - 1), min(y0, SCALE - 1)
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)

    def contains(self, box: Box) -> bool:
        """Whether a SCOORD box lies within the frame."""
        x0, y0, x1, y1 = box
        return 0 <= x0 < x1 <= self.columns and 0 <= y0 < y1 <= self.rows
