"""Visual question answering: the plan's own questions, answered in a phrase."""

from __future__ import annotations

from collections.abc import Sequence

from engine.answers import parse_phrase
from engine.gate import Candidate, pass_words
from engine.interview import ImageInterview, clean
from engine.tasks.regional import located


def answer_questions(image: ImageInterview, candidates: Sequence[Candidate]) -> None:
    """Ask the plan's questions; the answers are recorded and, where the plan says so, stand in the report."""
    for question in image.plan.questions:
        for language in image.languages:
            words = question.zh if language == "zh" else question.en
            answer = image.ask("vqa", language, question=words, located=located(image, candidates, language))
            phrase = clean(parse_phrase(answer.text))
            if not phrase or answer.finish == "length":
                image.hold("the answer is no word or phrase", answer.text)
            elif question.in_narrative:
                shown = image.passed(pass_words(phrase, language, image.given, image.sides))
                if shown:
                    image.record.narratives.setdefault(language, []).append((image.number, f"{words} {shown}"))
