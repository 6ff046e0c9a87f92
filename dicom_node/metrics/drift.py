"""What a reading adds to the tallies: states, labels, scanners and what the gate held back, to see a model drift."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from dicom_node.ledger.headers import Indexed
from dicom_node.ledger.tallies import Counted
from dicom_node.routing.header import Header
from engine.findings import StudyReading

READINGS: Final = "readings"
LABELS: Final = "readings_with_label"
SCANNERS: Final = "readings_by_scanner"
SCANNERS_WITH: Final = "readings_with_findings_by_scanner"
HELD_BACK: Final = "held_back"
_LONGEST: Final = 80


def tallies_of(reading: StudyReading, headers: Iterable[Indexed]) -> Mapping[Counted, int]:
    """What a reading counts for: a study once for each label that it has, however often.

    Parameters
    ----------
    reading : StudyReading
    headers : iterable of Indexed
        Of its study's objects: whose model name says which scanner made the first image that was read.
    """
    scanner = _scanner(reading, headers)
    counts = Counter([Counted(READINGS, reading.state, reading.plan), Counted(SCANNERS, scanner)])
    counts.update({Counted(LABELS, _word(finding.label)) for finding in reading.findings})
    counts.update([Counted(SCANNERS_WITH, scanner)] if reading.findings else [])
    counts.update(Counted(HELD_BACK, _reason(held.reason)) for held in reading.held_back)
    return counts


def _scanner(reading: StudyReading, headers: Iterable[Indexed]) -> str:
    series = reading.images[0].series_instance_uid if reading.images else None
    for indexed in headers:
        if indexed.series_instance_uid == series:
            return _word(Header.from_json(indexed.header).model) or "unknown"
    return "unknown"


def _reason(reason: str) -> str:
    """A reason without what is of this one case: numbers, and what stands behind a colon."""
    return _word(re.sub(r"\d+(\.\d+)?", "#", reason.partition(":")[0]))


def _word(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:_LONGEST]
