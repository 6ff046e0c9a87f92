"""What makes a model's answers fit to be shown: its boxes, its words, and how sure they are.

Pure functions of answers, boxes and headers: what passes goes on, what does not comes back with the reason, for the
record. Nothing is asked here, and nothing is guessed: where a header does not tell a side, no side is compared.
"""

from engine.gate.boxes import Candidate, iou, screen
from engine.gate.certainty import DISAGREEMENT, Calibration, certainty
from engine.gate.claims import Given, given_of, unsupported
from engine.gate.sides import Sides, sides_of, stated_sides
from engine.gate.words import Passed, pass_report, pass_words, sentence_for, sentences

__all__ = [
    "DISAGREEMENT",
    "Calibration",
    "Candidate",
    "Given",
    "Passed",
    "Sides",
    "certainty",
    "given_of",
    "iou",
    "pass_report",
    "pass_words",
    "screen",
    "sentence_for",
    "sentences",
    "sides_of",
    "stated_sides",
    "unsupported",
]
