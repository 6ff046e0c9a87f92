"""Text to region: where are the plan's objects?"""

from __future__ import annotations

from engine.grammar import is_nothing, parse
from engine.grounding import Candidate, screen
from engine.interview import ImageInterview


def detect(image: ImageInterview) -> list[Candidate]:
    """Ask for all objects at once; the boxes that pass the checks."""
    plan, record = image.plan, image.record
    answer = image.ask("detection", "en", objects=[item.label for item in plan.objects])
    if is_nothing(answer.text):
        record.nothing += 1
        return []
    parsed = parse(answer.text)
    candidates, held = screen(parsed, answer, plan, image.rendered.transform)
    for reason, words in held:
        image.hold(reason, words)
    if not parsed.regions and not parsed.unreadable:
        image.hold("the answer names no region", answer.text)
    if answer.finish == "length":
        image.hold("the answer broke off at its greatest length; there may have been more", "")
    record.partial |= not candidates or answer.finish == "length"
    back = image.wants("identification") * (1 + ("zh" in image.languages))
    told = image.wants("grounded") * len(image.languages)
    image.expect(back * len(candidates) + told * len({c.object.label for c in candidates}))
    return candidates
