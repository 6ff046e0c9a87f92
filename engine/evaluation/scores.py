"""From answers to a table: samples of one kind and language are one row of figures, each with its interval."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.evaluation.metrics import (
    Box,
    Floats,
    Values,
    label_counts,
    label_values,
    region_counts,
    region_values,
    text_counts,
    text_values,
    with_intervals,
)
from engine.evaluation.samples import Sample
from engine.grammar import Parsed, parse, plain

_BETWEEN: Final = re.compile(r"[,，、;；\n]+")
_REF: Final = re.compile(r"<ref>(.*?)</ref>", re.S)


@dataclass(frozen=True, slots=True)
class Score:
    """Figures of the samples that were asked alike.

    Parameters
    ----------
    group : str
        Kind and language.
    samples : int
    figures : mapping of str to (float, float, float)
        Value, lower and upper end of its 95 % interval.
    unreadable : int
        Answers with a part that was meant as a box or label and is none.
    """

    group: str
    samples: int
    figures: Mapping[str, tuple[float, float, float]]
    unreadable: int


def score(samples: Sequence[Sample], answers: Mapping[str, str]) -> list[Score]:
    """Score what was answered.

    Parameters
    ----------
    samples : sequence of Sample
    answers : mapping of str to str
        By the digest of the sample; samples without one are left out.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[Sample]] = {}
    for sample in samples:
        if sample.digest in answers:
            groups.setdefault((f"{sample.kind}, {sample.language}", sample.choices), []).append(sample)
    scores = []
    for (group, choices), members in groups.items():
        pairs = [(sample, answers[sample.digest]) for sample in members]
        name = f"{group}, {len(choices)} labels" if choices else group
        figures, unreadable = _figures(pairs, choices)
        scores.append(Score(name, len(members), figures, unreadable))
    return scores


def _figures(
    pairs: Sequence[tuple[Sample, str]], choices: Sequence[str]
) -> tuple[dict[str, tuple[float, float, float]], int]:
    kind = pairs[0][0].kind
    if kind == "classification":
        said = [_labels(answer, choices) for _, answer in pairs]
        wanted = [_labels(sample.reference, choices)[0] for sample, _ in pairs]
        counts = [label_counts(ours, theirs, choices) for (ours, _), theirs in zip(said, wanted, strict=True)]
        return _with_intervals(counts, label_values), sum(bool(rest) for _, rest in said)
    if kind not in ("detection", "grounded"):
        return _with_intervals([text_counts(answer, sample.reference) for sample, answer in pairs], text_values), 0
    parsed = [(sample, parse(answer), parse(sample.reference)) for sample, answer in pairs]
    regions = [region_counts(_regions(sample, answer), _regions(sample, wanted)) for sample, answer, wanted in parsed]
    figures = _with_intervals(regions, region_values)
    if kind == "grounded":
        texts = [text_counts(answer.text, wanted.text) for _, answer, wanted in parsed]
        figures |= {name: value for name, value in _with_intervals(texts, text_values).items() if name != "accuracy"}
    return figures, sum(bool(answer.unreadable) for _, answer, _ in parsed)


def _with_intervals(counts: Sequence[Floats], values: Values) -> dict[str, tuple[float, float, float]]:
    return with_intervals(np.stack(counts), values)


def _labels(text: str, choices: Sequence[str]) -> tuple[frozenset[str], list[str]]:
    """The labels that a text names, and what is none. A label may hold a comma, so longer ones are looked for first."""
    found, rest = set(), plain(text).casefold()
    for label in sorted(choices, key=len, reverse=True):
        rest, count = re.subn(rf"(?<!\w){re.escape(label.casefold())}(?!\w)", "\n", rest)
        if count:
            found.add(label)
    return frozenset(found), [part for part in _BETWEEN.split(rest) if re.search(r"\w", part)]


def _regions(sample: Sample, parsed: Parsed) -> list[tuple[str, Box]]:
    """What an answer located; a box without a name is of the one object that was asked about."""
    asked = _REF.findall(sample.question)
    only = asked[-1] if len(set(asked) - {"object", "病种"}) == 1 else ""
    return [(region.label or only, region.box) for region in parsed.regions]
