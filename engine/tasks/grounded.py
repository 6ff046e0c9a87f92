"""Grounded report and grounded finding: what is to be said about a region?"""

from __future__ import annotations

from collections.abc import Sequence

from engine.findings import Language
from engine.gate import Candidate, pass_words, sentence_for
from engine.interview import ImageInterview, clean
from engine.plan import PlanObject
from engine.runtime.protocol import Answer
from engine.tasks.detection import screened

Texts = dict[Candidate, dict[Language, str]]


def ground(image: ImageInterview) -> tuple[list[Candidate], Texts]:
    """Ask where the plan's objects are and what is to be said of them, in one question, as the published prompts do."""
    first, *others = image.languages
    answer = image.ask("grounded", first, objects=[_name(item, first) for item in image.plan.objects])
    candidates = screened(image, answer)
    image.expect(len({candidate.object.label for candidate in candidates}) * len(others))
    texts: Texts = {candidate: {} for candidate in candidates}
    _tell(image, answer, candidates, first, texts)
    return candidates, describe(image, candidates, others, texts)


def describe(
    image: ImageInterview,
    candidates: Sequence[Candidate],
    languages: Sequence[Language],
    texts: Texts | None = None,
) -> Texts:
    """What the model says about each box: asked once a label and language, kept where the places agree."""
    texts = texts or {candidate: {} for candidate in candidates}
    for item in dict.fromkeys(candidate.object for candidate in candidates):
        alike = [candidate for candidate in candidates if candidate.object == item]
        for language in languages:
            answer = image.ask("grounded", language, objects=[_name(item, language)])
            if not _tell(image, answer, alike, language, texts):
                image.hold("the description is of another place than the box, or of none", answer.text)
    return texts


def _tell(
    image: ImageInterview, answer: Answer, candidates: Sequence[Candidate], language: Language, texts: Texts
) -> bool:
    """Take what an answer says of each box; whether it says anything of one of them."""
    parsed = image.parse(answer.text)
    told = False
    for candidate in candidates:
        if sentence := sentence_for(candidate, parsed, image.rendered.transform):
            passed = pass_words(clean(sentence), language, image.given, image.sides, candidate)
            told = True
            if shown := image.passed(passed):
                texts[candidate][language] = shown
    return told


def _name(item: PlanObject, language: Language) -> str:
    return item.zh if language == "zh" else item.label
