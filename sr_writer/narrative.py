"""Text as Enhanced SR: Basic Diagnostic Imaging Report (PS3.16 TID 2000), one a language.

The report of a reading, and the whole result of a reading that has nothing to point at: it says whether nothing was
found, nothing usable was answered, or nothing was run.
"""

from __future__ import annotations

from typing import Final

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentSequence,
    EnhancedSR,
    LanguageOfContentItemAndDescendants,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from engine.errors import WriteError
from engine.findings import Language, RunState, StudyReading
from sr_writer.context import Context
from sr_writer.measurements import count_words, extent, size_words
from sr_writer.region_sr import LANGUAGE_CODES, predecessors
from sr_writer.text import clean_text
from sr_writer.wording import comment, limits, preamble, state_words

_TITLE: Final = codes.LN.DiagnosticImagingReport
_CONTAINS: Final = RelationshipTypeValues.CONTAINS
_NONE_SUCCEEDED: Final[Code] = codes.DCM.NoAlgorithmsSucceededWithoutFindings
_SUMMARY: Final[dict[tuple[bool, bool], Code]] = {
    # by whether the run was partial, and whether it found anything
    (False, False): codes.DCM.AllAlgorithmsSucceededWithoutFindings,
    (False, True): codes.DCM.AllAlgorithmsSucceededWithFindings,
    (True, False): codes.DCM.NotAllAlgorithmsSucceededWithoutFindings,
    (True, True): codes.DCM.NotAllAlgorithmsSucceededWithFindings,
}


def has_narrative(context: Context, language: Language) -> bool:
    """Whether a reading that has regions has something to say beside them."""
    reading = context.reading
    return bool(
        reading.narrative.get(language, "").strip()
        or reading.partial
        or reading.review is not None  # says how much of the reading it left
        or any(not finding.regions or extent(context, finding) for finding in reading.findings)
    )


def write_narrative(context: Context, language: Language, kind: str) -> Dataset:
    """Write a reading as text.

    Parameters
    ----------
    context : Context
    language : Language
    kind : str
        ``sr`` if it is the main result, else ``narrative-`` and the language.

    Returns
    -------
    Dataset
        An Enhanced SR.

    Raises
    ------
    WriteError
        If a finding says nothing at all.
    """
    reading = context.reading
    root = ContainerContentItem(name=_TITLE, template_id="2000")
    content = ContentSequence()
    content.extend(LanguageOfContentItemAndDescendants(CodedConcept.from_code(LANGUAGE_CODES[language])))
    content.extend(context.observation_context())
    content.append(_findings(context, language))
    content.append(_procedure(context, language))
    root.ContentSequence = content
    result = EnhancedSR(
        evidence=context.sources.evidence(),
        content=root,
        is_complete=not reading.partial,
        is_final=False,
        is_verified=False,
        previous_versions=predecessors(context),
        **context.common(kind, 0, (language,), "text SR"),
    )
    context.verify(result)
    return context.finish(result)


def summary_code(reading: StudyReading) -> Code:
    """Say how the run ended as CAD Processing and Findings Summary does (PS3.16 CID 6047)."""
    if reading.state in (RunState.NOT_RUN, RunState.UNUSABLE):
        return _NONE_SUCCEEDED
    return _SUMMARY[reading.partial, reading.state is RunState.FINDINGS]


def _findings(context: Context, language: Language) -> ContainerContentItem:
    """Write the section Findings: first what kind of statement this is and how the run ended, then the words."""
    reading = context.reading
    section = ContainerContentItem(name=codes.LN.Findings, relationship_type=_CONTAINS)
    content = ContentSequence()
    opening = _text(codes.DCM.Finding, f"{preamble(reading, language)}\n{state_words(reading, language)}")
    opening.ContentSequence = ContentSequence(context.identity.algorithm())
    content.append(opening)
    content.append(
        CodeContentItem(
            name=codes.DCM.CADProcessingAndFindingsSummary,
            value=summary_code(reading),
            relationship_type=_CONTAINS,
        )
    )
    for finding in reading.findings:
        words = [comment(reading, finding, (language,)), size_words(context, finding, language)]
        said = clean_text(" | ".join(filter(None, words)))
        if not said:
            raise WriteError("a finding has neither label nor concept")
        content.append(_text(codes.DCM.Finding, said))
    counts = count_words(context, language)
    if counts:
        content.append(_text(codes.DCM.Finding, counts))
    narrative = clean_text(reading.narrative.get(language, ""))
    if narrative:
        content.append(_text(codes.DCM.Finding, narrative))
    section.ContentSequence = content
    return section


def _procedure(context: Context, language: Language) -> ContainerContentItem:
    """Write the section on the procedure: which model read how much, what it did not read and why."""
    section = ContainerContentItem(name=codes.LN.CurrentProcedureDescriptions, relationship_type=_CONTAINS)
    identity = context.identity
    lines = [f"{identity.manufacturer} {identity.name} {identity.version}", *limits(context.reading, language)]
    section.ContentSequence = ContentSequence([_text(codes.DCM.ProcedureDescription, "\n".join(lines))])
    return section


def _text(name: Code, words: str) -> TextContentItem:
    return TextContentItem(name=name, value=clean_text(words), relationship_type=_CONTAINS)
