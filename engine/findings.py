"""The contract between the engine and everything above it.

A reading is plain, frozen data. Nothing else crosses from `engine` to `sr_writer` and `dicom_node`.

A box is four floats ``(x0, y0, x1, y1)`` in the SCOORD frame of its source frame (PS3.3 C.18.6): (0, 0) is the outer
corner of the first pixel, ``x1`` and ``y1`` are outer edges, the range is 0 to Columns and 0 to Rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
Box = tuple[float, float, float, float]


class RunState(StrEnum):
    """How a reading ended. "No finding" is never the same as "not run" (PS3.16 TID 4000, CID 6041)."""

    FINDINGS = "findings"
    NO_FINDINGS = "no_findings"
    UNUSABLE = "unusable"
    """The model ran and nothing it answered could be used."""
    NOT_RUN = "not_run"
    """No image was read; `StudyReading.not_read` and `held_back` say why."""


class Laterality(StrEnum):
    """Side of the body, as far as the image or the words say it."""

    LEFT = "left"
    RIGHT = "right"
    BILATERAL = "bilateral"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Mask:
    """An outline within a region's box, as bits.

    Parameters
    ----------
    x, y : int
        Column and row of the mask's first pixel in the source frame.
    columns, rows : int
        Size of the mask in pixels.
    bits : str
        Hexadecimal of the pixels packed row by row, most significant bit first, each row padded to a byte.
    method : str
        How it was made, in words for the segment's description.
    """

    x: int
    y: int
    columns: int
    rows: int
    bits: str
    method: str


@dataclass(frozen=True, slots=True)
class Region:
    """Where a finding is: one box on one frame.

    Parameters
    ----------
    sop_instance_uid : str
        The source image.
    frame : int
        Frame number, from 1.
    box : tuple of float
        ``(x0, y0, x1, y1)`` in the SCOORD frame, pixels; x0 < x1 and y0 < y1.
    mask : Mask, optional
        A refined outline; without one the box itself is the region.

    Raises
    ------
    ValueError
        If the box is empty, reversed or negative, or the frame number is below 1.
    """

    sop_instance_uid: str
    frame: int
    box: Box
    mask: Mask | None = None

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.box
        if not (0 <= x0 < x1 and 0 <= y0 < y1 and x1 < float("inf") and y1 < float("inf")):
            raise ValueError("a region's box needs 0 <= x0 < x1 and 0 <= y0 < y1")
        if self.frame < 1:
            raise ValueError("frame numbers begin at 1")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the model found, in every language at once.

    Parameters
    ----------
    label : str
        The model's own word, as answered.
    concept : str
        The clean name, key of the code table (``sr_writer``'s ``codes.csv``).
    names : mapping of Language to str
        The finding's name by language.
    text : mapping of Language to str
        The finding in a sentence by language; may lack a language, never invented.
    certainty : float or None
        0 to 1, from the tokens' probabilities; *uncalibrated* unless `calibrated`.
    regions : tuple of Region
        Where it is; empty for an image-level finding.
    laterality : Laterality
    calibrated : bool
    notes : tuple of str
        What the grounding checks say of it, for people ("name not confirmed when asked back").
    extent_mm : tuple of (float, float, float or None), optional
        Size in the patient across the columns, along the rows and across the slices, measured by `engine.geometry`; no
        depth where it is on one image. None where no geometry tells it, as on a radiograph, which magnifies.
    """

    label: str
    concept: str
    names: Mapping[Language, str]
    text: Mapping[Language, str]
    certainty: float | None
    regions: tuple[Region, ...]
    laterality: Laterality = Laterality.UNKNOWN
    calibrated: bool = False
    notes: tuple[str, ...] = ()
    extent_mm: tuple[float, float, float | None] | None = None

    def __post_init__(self) -> None:
        if self.certainty is not None and not 0.0 <= self.certainty <= 1.0:
            raise ValueError("certainty lies between 0 and 1")


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model answered; the same values go into every result object (TID 4019, PS3.3 C.12.1.5).

    Parameters
    ----------
    name, version, manufacturer : str
    weights_digest : str
        SHA-256 of the weights, hexadecimal.
    runtime : str
        ``onnx``, ``torch``, ``tensorrt_llm`` or ``scripted``.
    engine_build : str
        Version of the inference library or digest of the compiled engine's manifest.
    commissioning : bool
        True for the phantom reader: results must say that it is not for clinical use.
    """

    name: str
    version: str
    manufacturer: str
    weights_digest: str
    runtime: str
    engine_build: str
    commissioning: bool


@dataclass(frozen=True, slots=True)
class PromptUse:
    """One question that was asked, by template and image; the words are in the prompt table of that version."""

    task: str
    language: Language
    template: str
    sop_instance_uid: str
    frame: int
    answer: str
    """The model's answer as decoded, special tokens kept."""


@dataclass(frozen=True, slots=True)
class ImageRead:
    """A frame that was read, with the size its boxes refer to."""

    sop_instance_uid: str
    series_instance_uid: str
    frame: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class SeriesRead:
    """A series that was read, and why this one of its study."""

    series_instance_uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class NotRead:
    """A series (or one instance of it) that was not read, and why."""

    series_instance_uid: str
    sop_instance_uid: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class PriorStudy:
    """What became of the wish for an earlier study to compare with.

    Parameters
    ----------
    study_instance_uid : str or None
        None where there is none.
    read : bool
        Whether the model saw it; only then can a reading say that something has changed.
    reason : str
        Why it was not read; empty if it was.
    """

    study_instance_uid: str | None
    read: bool
    reason: str


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Something the model said that does not go into the results, and why. For the audit record only."""

    reason: str
    words: str
    sop_instance_uid: str | None = None
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """A person's review of a reading: who vouches for what is left of it.

    Parameters
    ----------
    reviewer : str
        Name as PS3.5 6.2 (PN) writes it.
    organization : str
        That the reviewer acts for.
    number : int
        Of the review, from 1, among those of its reading.
    reading_digest : str
        SHA-256 of the model's reading.
    accepted : int
        Findings that stand as the model had them.
    modified : tuple of int
        Places, among the findings that are left, of those that the reviewer changed.
    rejected : int
        Findings that are left out.
    """

    reviewer: str
    organization: str
    number: int
    reading_digest: str
    accepted: int
    modified: tuple[int, ...]
    rejected: int


@dataclass(frozen=True, slots=True)
class StudyReading:
    """Everything a model said about a study.

    Parameters
    ----------
    study_instance_uid : str
    state : RunState
    narrative : mapping of Language to str
        The report by language; empty where none was asked for.
    findings : tuple of Finding
    model : ModelIdentity
    decoding : mapping of str to (str, int, float or bool)
        Decoding settings (greedy, max_new_tokens, dtype, constrained...).
    plan : str
        Name of the plan that was followed.
    prompts_version : str
        Digest of the prompt table.
    prompts : tuple of PromptUse
    images : tuple of ImageRead
    not_read : tuple of NotRead
    held_back : tuple of HeldBack
    created : datetime
        When the reading was finished, timezone aware; the results' content date and time.
    partial : bool
        Some images that the plan wanted could not be read.
    series : tuple of SeriesRead
        The series of `images`, and why those were chosen.
    prior : PriorStudy, optional
        Where the plan asks for one. Its images are none of `images`, and no region is on them.
    review : Verification, optional
        Of a reading that a person has reviewed (`engine.review`): `findings` is what that left, `created` when.
    """

    study_instance_uid: str
    state: RunState
    narrative: Mapping[Language, str]
    findings: tuple[Finding, ...]
    model: ModelIdentity
    decoding: Mapping[str, str | int | float | bool]
    plan: str
    prompts_version: str
    prompts: tuple[PromptUse, ...]
    images: tuple[ImageRead, ...]
    not_read: tuple[NotRead, ...]
    held_back: tuple[HeldBack, ...]
    created: datetime
    partial: bool = False
    contract: int = field(default=1)
    series: tuple[SeriesRead, ...] = ()
    prior: PriorStudy | None = None
    review: Verification | None = None

    def __post_init__(self) -> None:
        if self.created.tzinfo is None:
            raise ValueError("created must carry its time zone")
        if (self.state is RunState.FINDINGS) != bool(self.findings):
            raise ValueError("a reading has findings exactly when its state says so")

    @property
    def regions(self) -> tuple[Region, ...]:
        """Every region of every finding, in order."""
        return tuple(region for finding in self.findings for region in finding.regions)

    @property
    def is_verified(self) -> bool:
        """Whether a person vouches for it; what a commissioning model says is never more than a test."""
        return self.review is not None and not self.model.commissioning

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, UTF-8. The digest is taken over it."""
        record = asdict(self)
        record["created"] = self.created.isoformat()
        # What came later is left out where there is none, so that readings stored before it keep their digest.
        if not record["series"]:
            del record["series"]
        if record["prior"] is None:
            del record["prior"]
        if record["review"] is None:
            del record["review"]
        for finding in record["findings"]:
            if finding["extent_mm"] is None:
                del finding["extent_mm"]
        return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def digest(self) -> str:
        """SHA-256 of `to_json`, hexadecimal: the reading's identity."""
        return hashlib.sha256(self.to_json().encode("utf-8")).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> StudyReading:
        """Read `to_json` back; the round trip is exact.

        Raises
        ------
        ValueError
            If the text is no reading of this contract's version.
        """
        try:
            record: dict[str, Any] = json.loads(text)
            if record["contract"] != 1:
                raise ValueError(f"reading has contract version {record['contract']}, expected 1")
            return cls(
                **{
                    **record,
                    "state": RunState(record["state"]),
                    "findings": tuple(_finding(item) for item in record["findings"]),
                    "model": ModelIdentity(**record["model"]),
                    "prompts": tuple(PromptUse(**item) for item in record["prompts"]),
                    "images": tuple(ImageRead(**item) for item in record["images"]),
                    "series": tuple(SeriesRead(**item) for item in record.get("series", ())),
                    "prior": PriorStudy(**record["prior"]) if record.get("prior") is not None else None,
                    "review": _verification(record.get("review")),
                    "not_read": tuple(NotRead(**item) for item in record["not_read"]),
                    "held_back": tuple(HeldBack(**item) for item in record["held_back"]),
                    "created": datetime.fromisoformat(record["created"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a reading: {type(error).__name__}") from error


def _verification(item: dict[str, Any] | None) -> Verification | None:
    return None if item is None else Verification(**{**item, "modified": tuple(item["modified"])})


def _finding(item: dict[str, Any]) -> Finding:
    regions = tuple(
        Region(
            sop_instance_uid=region["sop_instance_uid"],
            frame=region["frame"],
            box=tuple(region["box"]),
            mask=Mask(**region["mask"]) if region["mask"] else None,
        )
        for region in item["regions"]
    )
    return Finding(
        **{
            **item,
            "regions": regions,
            "laterality": Laterality(item["laterality"]),
            "notes": tuple(item["notes"]),
            "extent_mm": tuple(item["extent_mm"]) if item.get("extent_mm") else None,
        }
    )
