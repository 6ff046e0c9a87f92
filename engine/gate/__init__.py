"""What makes a model's answers fit to be shown: its boxes, its words, and how sure they are.

Pure functions of answers, boxes and headers: what passes goes on, what does not comes back with the reason, for the
record. Nothing is asked here, and nothing is guessed: where a header does not tell a side, no side is compared.
"""

from engine.gate.boxes import Candidate, iou, screen
from engine.gate.certainty import DISAGREEMENT, Calibration, certainty, load_calibration, weigh
from engine.gate.claims import Given, given_of, unsupported
from engine.gate.sides import Sides, laterality_of, sides_of, stated_sides
from engine.gate.words import NOT_THERE, Passed, denied, pass_report, pass_words, sentence_for, sentences

__all__ = [
    "DISAGREEMENT",
    "NOT_THERE",
    "Calibration",
    "Candidate",
    "Given",
    "Passed",
    "Sides",
    "certainty",
    "denied",
    "given_of",
    "iou",
    "laterality_of",
    "load_calibration",
    "pass_report",
    "pass_words",
    "screen",
    "sentence_for",
    "sentences",
    "sides_of",
    "stated_sides",
    "unsupported",
    "weigh",
]
