"""Grounded report and grounded finding: what is to be said about a region?"""

from __future__ import annotations

from collections.abc import Sequence

from engine.findings import Language
from engine.grammar import parse
from engine.grounding import Candidate, sentence_for
from engine.interview import ImageInterview, clean


def describe(image: ImageInterview, candidates: Sequence[Candidate]) -> dict[Candidate, dict[Language, str]]:
    """What the model says about each box: asked once a label and language, kept where the places agree."""
    texts: dict[Candidate, dict[Language, str]] = {candidate: {} for candidate in candidates}
    for item in dict.fromkeys(candidate.object for candidate in candidates):
        for language in image.languages:
            name = item.label if language == "en" else item.zh
            answer = image.ask("grounded", language, objects=[name])
            parsed = parse(answer.text)
            alike = [candidate for candidate in candidates if candidate.object == item]
            for candidate in alike:
                if sentence := sentence_for(candidate, parsed, image.rendered.transform):
                    texts[candidate][language] = clean(sentence)
            if not any(language in texts[candidate] for candidate in alike):
                image.hold("the description is of another place than the box, or of none", answer.text)
    return texts
