"""How sure a model is of its own words, and what that is worth at a site."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.errors import ModelError
from engine.findings import Finding, ModelIdentity
from engine.runtime.protocol import Answer

DISAGREEMENT: Final = 0.5
"""What a certainty is multiplied by when the model, asked back, says something else."""

Part = Annotated[float, Field(ge=0, le=1)]


def certainty(answer: Answer, spans: Sequence[tuple[int, int]] = ()) -> float | None:
    """How probable a model found its own words: the geometric mean of its tokens' probabilities.

    Parameters
    ----------
    answer : Answer
    spans : sequence of (int, int)
        The characters of the answer that count; all of them without, or where the runtime does not tell places.

    Returns
    -------
    float or None
        0 to 1, uncalibrated; None where no token counts.
    """
    logprobs = list(answer.logprobs)
    if spans and len(answer.offsets) == len(logprobs):
        ends = [*answer.offsets[1:], len(answer.text)]
        logprobs = [
            logprob
            for logprob, first, last in zip(logprobs, answer.offsets, ends, strict=True)
            if any(first < end and start < last for start, end in spans)
        ]
    if not logprobs:
        return None
    mean = sum(logprobs) / len(logprobs)
    return min(1.0, math.exp(mean)) if math.isfinite(mean) else 0.0


def load_calibration(path: Path | None) -> Calibration | None:
    """Read the file that the settings name, if they name one; see `Calibration.load`."""
    return Calibration.load(path) if path else None


def weigh(
    finding: Finding, threshold: float | None = None, calibration: Calibration | None = None
) -> tuple[Finding, str | None]:
    """Say what a finding's certainty is worth.

    Parameters
    ----------
    finding : Finding
    threshold : float, optional
        Least certainty, calibrated where there is a calibration, of a finding that is shown.
    calibration : Calibration, optional

    Returns
    -------
    finding : Finding
        With its calibrated certainty, where its label was measured.
    reason : str or None
        Why it may not be shown.
    """
    measured = calibration.apply(finding.concept, finding.certainty) if calibration else None
    if measured is not None:
        finding = replace(finding, certainty=measured, calibrated=True)
    if threshold is None or (finding.certainty is not None and finding.certainty >= threshold):
        return finding, None
    told = "not known" if finding.certainty is None else f"{finding.certainty:.2f}"
    return finding, f"its certainty is {told}, and the plan wants {threshold:g}"


class Curve(BaseModel):
    """How often findings of a label were right at a site, by the certainty that the model gave them.

    Parameters
    ----------
    certainty : tuple of float
        Rising, 0 to 1.
    observed : tuple of float
        The part that was right, of the same length, nowhere falling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    certainty: tuple[Part, ...] = Field(min_length=2)
    observed: tuple[Part, ...]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if len(self.certainty) != len(self.observed):
            raise ValueError("certainty and observed are not equally long")
        if any(one >= two for one, two in pairwise(self.certainty)):
            raise ValueError("certainty does not rise")
        if any(one > two for one, two in pairwise(self.observed)):
            raise ValueError("observed falls")
        return self


class Calibration(BaseModel):
    """A site's measurement of what the model's certainties are worth.

    Parameters
    ----------
    weights_digest : str
        SHA-256 of the weights that it was measured with; it holds for no others.
    labels : dict of str to Curve
        By concept; ``*`` is for any other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    labels: dict[str, Curve] = Field(min_length=1)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a calibration file, TOML or JSON.

        Raises
        ------
        ModelError
            If it cannot be read or is none; the message names the key.
        """
        try:
            text = path.read_text(encoding="utf-8")
            return cls.model_validate(json.loads(text) if path.suffix == ".json" else tomllib.loads(text))
        except OSError as error:
            raise ModelError(f"the calibration file {path.name} cannot be read ({error.strerror})") from error
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" for fault in error.errors()]
            raise ModelError(f"the calibration file {path.name} is wrong: {'; '.join(faults)}") from error
        except ValueError as error:  # of either notation, or of its characters
            raise ModelError(f"the calibration file {path.name} is neither TOML nor JSON: {error}") from error

    @property
    def digest(self) -> str:
        """SHA-256 of what it says, hexadecimal."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    def check(self, model: ModelIdentity) -> None:
        """Make sure that it was measured with this model.

        Raises
        ------
        ModelError
            If it was not.
        """
        if self.weights_digest != model.weights_digest:
            raise ModelError(
                f"the calibration was measured with other weights than those of {model.name!r}",
                advice="Measure anew with this model, or take the setting out.",
            )

    def apply(self, concept: str, sure: float | None) -> float | None:
        """Return the part of such findings that were right at the site; None for a label that was not measured.

        Between measured points it is interpolated; beyond them the nearest one counts.
        """
        curve = self.labels.get(concept) or self.labels.get("*")
        if curve is None or sure is None:
            return None
        return float(np.interp(sure, curve.certainty, curve.observed))
