"""Region to text: what does a box show? Asked back about each box before it becomes a finding."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import ModelError
from engine.findings import Finding, Language, Region
from engine.gate import DISAGREEMENT, Candidate, laterality_of, unsupported
from engine.grammar import plain
from engine.interview import ImageInterview, clean


def finding_of(image: ImageInterview, candidate: Candidate, told: Mapping[Language, str]) -> Finding:
    """Make a finding of a box and what is said about it; where the plan asks so, its name is asked back first."""
    notes = list(candidate.notes)
    sure = candidate.certainty
    if image.wants("identification") and not _confirmed(image, candidate, notes) and sure is not None:
        sure *= DISAGREEMENT
    names = {language: candidate.object.names[language] for language in image.languages}
    text = {language: told.get(language) or names[language][:1].upper() + names[language][1:] for language in names}
    notes += [f"the text ({language}) is the name from the label table" for language in names if language not in told]
    region = _region(image, candidate, notes)
    return Finding(
        label=clean(candidate.label),
        concept=candidate.object.concept,
        names=names,
        text=text,
        certainty=sure,
        regions=(region,),
        laterality=laterality_of(image.instance.header),
        notes=tuple(notes),
    )


def _region(image: ImageInterview, candidate: Candidate, notes: list[str]) -> Region:
    """The box, with the outline that the refiner draws in it; a refiner that fails loses no finding."""
    rendered, mask = image.rendered, None
    try:
        mask = image.interview.refiner.refine(rendered.rgb, candidate.box)
    except ModelError as error:
        notes.append(f"no outline was drawn: {error}")
    return Region(rendered.sop_instance_uid, rendered.frame, candidate.box, mask)


def _confirmed(image: ImageInterview, candidate: Candidate, notes: list[str]) -> bool:
    """Ask back what a box shows, in each language."""
    confirmed = True
    for language in dict.fromkeys(("en", *image.languages)):
        answer = image.ask("identification", language, box=image.rendered.transform.to_grammar(candidate.box))
        word = plain(answer.text)
        if image.plan.find(word) == candidate.object:
            continue
        confirmed = False
        said = "nothing" if not word else "something else" if unsupported(word, image.given) else repr(clean(word)[:40])
        notes.append(f"asked back ({language}), the model did not confirm the name but said {said}")
        if language != "en":
            notes.append(f"the name ({language}) is from the label table")
    return confirmed
