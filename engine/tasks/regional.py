"""Regional chain of thought: what was located is told in the questions that come after."""

from __future__ import annotations

from collections.abc import Sequence

from engine.findings import Language
from engine.gate import Candidate
from engine.grammar import ModelBox
from engine.interview import ImageInterview


def located(image: ImageInterview, candidates: Sequence[Candidate], language: Language) -> dict[str, list[ModelBox]]:
    """The regions to tell in a question, by label; none where the plan does not ask so."""
    regions: dict[str, list[ModelBox]] = {}
    for candidate in candidates if image.wants("regional") else ():
        name = candidate.object.label if language == "en" else candidate.object.zh
        regions.setdefault(name, []).append(image.rendered.transform.to_grammar(candidate.box))
    return regions
