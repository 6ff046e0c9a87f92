"""How well a model answers: data in MedRegA's own format, any runtime, the paper's metrics computed over the corpus."""

from __future__ import annotations

from engine.evaluation.answers import Answers, ask_all
from engine.evaluation.samples import Sample, read_samples
from engine.evaluation.scores import Score, score

__all__ = ["Answers", "Sample", "Score", "ask_all", "read_samples", "score"]
