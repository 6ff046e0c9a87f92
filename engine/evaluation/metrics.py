"""The paper's metrics as pure functions.

Each is a function of sums over samples: what a sample adds is a vector of counts, and a figure is made of the summed
vectors. So figures are of the corpus, not means of ratios, and a resample of the corpus costs one multiplication.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Floats = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]
Values = Callable[[Floats], Mapping[str, Floats]]
"""Sums [..., counts] to each figure [...]."""

THRESHOLDS: Final = (0.25, 0.5, 0.75)
MATCHED: Final = 0.5
"""A region is found when a box covers it this well (intersection over union)."""
_WORDS: Final = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")


def words(text: str) -> list[str]:
    """Lower-case words and numbers; a Chinese character is a word of its own."""
    return _WORDS.findall(text.casefold())


def _ratio(above: Floats, below: Floats) -> Floats:
    """A quotient, not a number where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Floats = np.where(below > 0, above / below, np.nan)
    return quotient


def _f1(hits: Floats, said: Floats, wanted: Floats) -> Floats:
    return _ratio(2 * hits, said + wanted)


def text_counts(answer: str, reference: str) -> Floats:
    """Of a text: shared words, words said, words wanted, their F1, whether the two are the same, and one."""
    said, wanted = words(answer), words(reference)
    shared = sum((Counter(said) & Counter(wanted)).values())
    same = said == wanted
    f1 = 1.0 if same else 2 * shared / (len(said) + len(wanted))
    return np.array([shared, len(said), len(wanted), f1, same, 1.0])


def text_values(sums: Floats) -> dict[str, Floats]:
    """BLEU-1 with its brevity penalty (Papineni et al. 2002), mean F1 of words, and exact accuracy."""
    shared, said, wanted, f1, same, count = np.moveaxis(sums, -1, 0)
    brevity = np.exp(np.minimum(0.0, 1.0 - _ratio(wanted, said)))
    bleu = np.where(said > 0, np.nan_to_num(brevity * _ratio(shared, said)), 0.0)
    return {"BLEU-1": bleu, "F1": _ratio(f1, count), "accuracy": _ratio(same, count)}


def label_counts(answer: frozenset[str], reference: frozenset[str], labels: Sequence[str]) -> Floats:
    """Of a classification: whether it is wholly right, one, and for each label hits, times said, times wanted."""
    said, wanted = (np.array([label in these for label in labels], float) for these in (answer, reference))
    return np.concatenate([[answer == reference, 1.0], said * wanted, said, wanted])


def label_values(sums: Floats) -> dict[str, Floats]:
    """Accuracy, and F1 averaged over the labels that occur in an answer or a reference."""
    hits, said, wanted = np.split(sums[..., 2:], 3, -1)
    each = _f1(hits, said, wanted)
    occurs = ~np.isnan(each)
    macro = _ratio(np.where(occurs, each, 0.0).sum(-1), occurs.sum(-1).astype(float))
    return {"accuracy": _ratio(sums[..., 0], sums[..., 1]), "macro-F1": macro}


def iou(first: Box, second: Box) -> float:
    """Intersection over union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (both - shared) if both > shared else 0.0


def pair(first: Sequence[Box], second: Sequence[Box]) -> list[tuple[int, int, float]]:
    """Each box of one side with at most one of the other, so that their intersections over unions add up to most."""
    if not first or not second:
        return []
    table = np.array([[iou(one, other) for other in second] for one in first])
    rows, columns = linear_sum_assignment(-table)
    return [(int(row), int(column), float(table[row, column])) for row, column in zip(rows, columns, strict=True)]


def region_counts(answer: Sequence[tuple[str, Box]], reference: Sequence[tuple[str, Box]]) -> Floats:
    """Of located objects: how well the reference's boxes are covered, and hits, answers, references of each level.

    Parameters
    ----------
    answer, reference : sequence of (str, Box)
        What it is called, and where.
    """
    pairs = pair([box for _, box in answer], [box for _, box in reference])
    covered = [overlap for _, _, overlap in pairs]
    named = [" ".join(words(name)) for name, _ in answer]
    wanted = [" ".join(words(name)) for name, _ in reference]
    found = [(row, column) for row, column, overlap in pairs if overlap >= MATCHED]
    objects = set(named) & set(wanted)
    return np.array(
        [
            sum(covered),
            *(sum(overlap >= threshold for overlap in covered) for threshold in THRESHOLDS),
            len(reference),
            *(len(found), len(answer), len(reference)),
            *(len(objects), len(set(named)), len(set(wanted))),
            *(sum(named[row] == wanted[column] for row, column in found), len(answer), len(reference)),
        ],
        float,
    )


def region_values(sums: Floats) -> dict[str, Floats]:
    """Mean IoU and Acc@ over reference boxes; precision, recall and F1 of regions, of objects, and of both at once."""
    covered, *at, count = np.moveaxis(sums[..., :5], -1, 0)
    values = {"IoU": _ratio(covered, count)}
    values |= {f"Acc@{threshold:.2f}": _ratio(hits, count) for threshold, hits in zip(THRESHOLDS, at, strict=True)}
    for place, level in enumerate(("region", "object", "object and region")):
        hits, said, wanted = np.moveaxis(sums[..., 5 + 3 * place : 8 + 3 * place], -1, 0)
        values |= {
            f"{level} precision": _ratio(hits, said),
            f"{level} recall": _ratio(hits, wanted),
            f"{level} F1": _f1(hits, said, wanted),
        }
    return values


def with_intervals(
    counts: Floats, values: Values, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> dict[str, tuple[float, float, float]]:
    """Each figure with its confidence interval, by bootstrap over samples (percentiles; Efron 1979).

    Parameters
    ----------
    counts : ndarray, [samples, counts]
    values : callable
    resamples, seed : int
    confidence : float

    Returns
    -------
    dict of str to (value, low, high)
        A figure that no sample tells anything about is left out.
    """
    size = len(counts)
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), resamples)
    spread = values(drawn @ counts)
    tail = 50 * (1 - confidence)
    figures = {}
    for name, value in values(counts.sum(0)).items():
        told = spread[name][~np.isnan(spread[name])]
        if not np.isnan(value):
            low, high = np.percentile(told, [tail, 100 - tail])
            figures[name] = (float(value), float(low), float(high))
    return figures
