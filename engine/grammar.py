"""What MedRegA's answers mean: a total parser of its box grammar.

``<ref>name</ref><box>[[x1, y1, x2, y2], [x3, y3, x4, y4]]</box>`` with integers from 0 to 999. Models slip, and
decoders drop special tokens, so the parser also takes the tagless form ``name[[x1, y1, x2, y2]]``, a bracket too few,
reversed corners, and Chinese punctuation. Whatever looks like a box and cannot be read as one is told, never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

SCALE: Final = 999
"""Coordinates run from 0 to this."""

ModelBox = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` on the model's scale, x1 < x2 and y1 < y2: integers, but for other models' boxes put on it."""

# One character for one, so that places in the answer stay what they are.
_NARROW: Final = str.maketrans("［］【】，、：；（）－＋．０１２３４５６７８９\u3000", "[][],,:;()-+.0123456789 ")
_REF = re.compile(r"<ref>(.*?)</ref>", re.DOTALL)
_REF_BEHIND = re.compile(r"<ref>((?:(?!<ref>).)*?)</ref>[\s:]*$", re.DOTALL)
# A box in its tags, up to its end tag, the next tag, or the end of the answer; or a run of brackets and numbers.
_GROUP = re.compile(r"<box>(?P<tagged>[^<]*)(?P<end></box>)?|(?P<bare>\[[\[\]\d\s,;.+-]*)")
_PIECE = re.compile(r"[^\[\]]+")
_NUMBERS = re.compile(r"[\s,;]*" + r"\s*,\s*".join([r"([+-]?\d{1,6})"] * 4) + r"[\s,;]*")
_SEPARATORS: Final = " \t\r\n,;"
_TAGS = re.compile(r"</?(?:ref|box|quad|img)>|<IMG_CONTEXT>")
# Where the name before a tagless box begins.
_NAME_BEHIND = re.compile(r"[^\n,.:;。\[\]<>]*$")
_NOTHING: Final = frozenset(
    ("no finding", "no findings", "none", "nothing", "未见异常", "未见明显异常", "无异常", "未发现异常")
)


@dataclass(frozen=True, slots=True)
class Grounded:
    """One box of an answer.

    Parameters
    ----------
    label : str
        What the answer calls it; empty when it does not say.
    box : tuple of int
        Corners in order; may lie beyond 0 to 999, see `in_range`.
    spans : tuple of (int, int)
        The characters of the answer that say so: those of the label, and those of this box.
    """

    label: str
    box: ModelBox
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def in_range(self) -> bool:
        """Whether the box lies within the image."""
        return all(0 <= value <= SCALE for value in self.box)


@dataclass(frozen=True, slots=True)
class Parsed:
    """An answer, taken apart.

    Parameters
    ----------
    regions : tuple of Grounded
        In the order of the answer.
    text : str
        The words: without boxes and tags, and without the groundings that an answer begins with.
    unreadable : tuple of str
        Parts that were meant as boxes and could not be read as such.
    """

    regions: tuple[Grounded, ...]
    text: str
    unreadable: tuple[str, ...]

    @property
    def by_label(self) -> Mapping[str, tuple[Grounded, ...]]:
        """The regions by what they are called, in the order of the answer."""
        labels = dict.fromkeys(region.label for region in self.regions)
        return {label: tuple(r for r in self.regions if r.label == label) for label in labels}


def parse(answer: str) -> Parsed:
    """Take an answer apart; any string goes in, and nothing is raised."""
    narrow = answer.translate(_NARROW)
    regions: list[Grounded] = []
    unreadable: list[str] = []
    spans: list[tuple[int, int, str]] = []  # where a grounding stands, and the words to leave in its place
    done = 0
    for group in _GROUP.finditer(narrow):
        bare = group["bare"]
        if bare is None:
            content, at, end, closed = group["tagged"], group.start("tagged"), group.end(), bool(group["end"])
        else:
            content, at = bare.rstrip(_SEPARATORS + ".+-"), group.start()
            end = at + len(content)
            closed = end < len(narrow) or content.endswith("]")
        boxes, bad = _boxes(content, closed=closed)
        if bare is not None and not boxes and not _meant(content):
            continue  # "[1]" in a text is no box
        label, start = _label(answer, narrow, done, group.start(), tagless=bare is not None)
        regions += [
            Grounded(label, box, ((start, group.start()), (at + first, at + last))) for box, first, last in boxes
        ]
        unreadable += [f"{label}{piece}" for piece in bad]
        if not boxes and not bad:
            unreadable.append(answer[start:end])
        spans.append((start, end, label))
        done = end
    for ref in _REF.finditer(answer):
        if not any(start <= ref.start() < end for start, end, _ in spans):
            unreadable.append(ref[0])
    return Parsed(tuple(regions), _words(answer, spans), tuple(unreadable))


def format_boxes(label: str, boxes: Iterable[ModelBox]) -> str:
    """Spell a label and its boxes as the model does; `parse` reads it back."""
    inner = ", ".join(f"[{', '.join(map(str, box))}]" for box in boxes)
    return f"<ref>{label}</ref><box>[{inner}]</box>"


def box_grammar(labels: Sequence[str]) -> str:
    """The answers of a detection as a grammar, in llguidance's Lark syntax: boxes of these labels, or "No finding".

    Any such answer is read by `parse` without a rest, if it is whole and no box of it is flat. A space may stand where
    the model's tokenizer puts one of its own.
    """
    names = " | ".join(json.dumps(label, ensure_ascii=False) for label in labels)
    return "\n".join(
        (
            "start: NOTHING | group (NEXT group)*",
            "group: <ref> NAME </ref> <box> OPEN box (NEXT box)* CLOSE </box>",
            "box: BEGIN NUMBER NEXT NUMBER NEXT NUMBER NEXT NUMBER CLOSE",
            f'NAME: " "? ({names})',
            'NOTHING: " "? "No finding"',
            'OPEN: " "? "["',
            'BEGIN: "["',
            'CLOSE: "]"',
            'NEXT: " "? "," " "?',
            "NUMBER: /0|[1-9][0-9]{0,2}/",
        )
    )


def plain(answer: str) -> str:
    """Return an answer's words without tags and surrounding blanks and full stops, for a name or a phrase."""
    return _TAGS.sub("", answer).strip().strip(".。 \n\t")


def is_nothing(answer: str, more: Sequence[str] = ()) -> bool:
    """Whether an answer says that there is nothing to be found."""
    return plain(answer).casefold() in _NOTHING.union(word.casefold() for word in more)


def _boxes(content: str, *, closed: bool) -> tuple[list[tuple[ModelBox, int, int]], list[str]]:
    """The boxes within one group, with their places in it, and the pieces that are none."""
    boxes: list[tuple[ModelBox, int, int]] = []
    bad: list[str] = []
    pieces = [piece for piece in _PIECE.finditer(content) if piece[0].strip(_SEPARATORS)]
    for piece in pieces:
        numbers = _NUMBERS.fullmatch(piece[0])
        # Where the answer breaks off behind a number, its last digits may be missing.
        cut = not closed and piece.end() == len(content)
        if numbers is None or cut:
            bad.append(f"[{piece[0].strip(_SEPARATORS)}" + ("" if cut else "]"))
            continue
        x1, y1, x2, y2 = map(int, numbers.groups())
        box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        if box[0] == box[2] or box[1] == box[3]:
            bad.append(f"[{x1}, {y1}, {x2}, {y2}]")
        else:
            boxes.append((box, piece.start(), piece.end()))
    return boxes, bad


def _meant(content: str) -> bool:
    """Whether a bare run of brackets and numbers was meant as a box."""
    return content.startswith("[[") or content.count(",") >= 2


def _label(answer: str, narrow: str, done: int, place: int, *, tagless: bool) -> tuple[str, int]:
    """The name that stands before a box, and where it begins."""
    before = narrow[done:place]
    if ref := _REF_BEHIND.search(before):
        return answer[done + ref.start(1) : done + ref.end(1)].strip(), done + ref.start()
    if not tagless:
        return "", place
    name = _NAME_BEHIND.search(before.rstrip(" :"))
    start = done + (name.start() if name else 0)
    return plain(answer[start:place].rstrip(" :：")), start


def _words(answer: str, spans: list[tuple[int, int, str]]) -> str:
    """The answer without what the spans hold; a grounding within a sentence leaves its name."""
    out, done, leading = "", 0, True
    for start, end, label in spans:
        between = answer[done:start]
        if leading and plain(between).strip(" ,，、;；:：和及and"):
            leading = False
        out += ("" if leading else between) + ("" if leading else label)
        done = end
    rest = answer[done:]
    text = _TAGS.sub("", out + (rest.lstrip(" ,，、;；:：") if leading and spans else rest))
    return re.sub(r"[ \t]+", " ", text).strip()
