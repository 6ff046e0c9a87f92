"""Text to region: where are the plan's objects?"""

from __future__ import annotations

from engine.dialects import one_object
from engine.gate import Candidate, screen
from engine.grammar import box_grammar, is_nothing
from engine.interview import ImageInterview
from engine.runtime.protocol import Answer


def detect(image: ImageInterview) -> list[Candidate]:
    """Ask for all objects at once, or for one after the other where the model's dialect wants it so."""
    labels = [item.label for item in image.plan.objects]
    grammar = box_grammar(labels) if image.plan.constrained else None
    if one_object(image.plan.dialect):
        candidates = [
            found for label in labels for found in screened(image, image.ask("detection", "en", objects=[label]), label)
        ]
    else:
        candidates = screened(image, image.ask("detection", "en", grammar=grammar, objects=labels))
    told = image.wants("grounded") * len(image.languages)
    image.expect(told * len({candidate.object.label for candidate in candidates}))
    return candidates


def screened(image: ImageInterview, answer: Answer, asked: str = "") -> list[Candidate]:
    """The boxes of an answer that pass the checks; what does not is held back."""
    record = image.record
    if is_nothing(answer.text):
        record.nothing += 1
        image.absent.extend(item for item in image.plan.objects if asked in ("", item.label))
        return []
    parsed = image.parse(answer.text, asked)
    candidates, held = screen(parsed, answer, image.plan, image.rendered.transform, image.sides)
    for reason, words in held:
        image.hold(reason, words)
    if not parsed.regions and not parsed.unreadable:
        image.hold("the answer names no region", answer.text)
    if answer.finish == "length":
        image.hold("the answer broke off at its greatest length; there may have been more", "")
    record.partial |= not candidates or answer.finish == "length"
    image.expect(image.wants("identification") * (1 + ("zh" in image.languages)) * len(candidates))
    return candidates
