"""Whether an image is of the kind that a plan is for, from what its header says and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engine.plan.parts import Match
from engine.study import Instance

if TYPE_CHECKING:
    from pydicom.sr.coding import Code  # comes with all of PS3.16: 16 MB that only headers with codes need

__all__ = ["age_of", "body_part_of", "laterality_of", "mismatch", "view_of"]

_DESCRIPTIONS: Final = (
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
    "RequestedProcedureDescription",
)
_AGE: Final = re.compile(r"(\d{1,3})([DWMY])")
_A_YEAR: Final = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_DATE: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")


def mismatch(match: Match, instance: Instance) -> str | None:
    """Say why an image is not of the kind that a plan is for, without a value of the header; None if it is."""
    header = instance.header
    if match.modality and instance.modality not in match.modality:
        return f"its modality is not {_any(match.modality)}"
    if match.sop_class and instance.sop_class_uid not in match.sop_class:
        return "its SOP class is not one that the plan is for"
    if (match.body_part or match.region or match.words) and not _shows(match, header):
        return "its header does not say that it shows what the plan is for"
    if match.view and view_of(header) not in match.view:
        return f"its header does not say that its view is {_any(match.view)}"
    if match.laterality and laterality_of(header) not in match.laterality:
        return f"its header does not say that its side is {_any(match.laterality)}"
    if match.age_from is not None or match.age_below is not None:
        age = age_of(header)
        if age is None:
            return "its header does not tell the patient's age"
        if not (match.age_from or 0) <= age < (match.age_below or float("inf")):
            return "the patient is not of the age that the plan is for"
    return None


def view_of(header: Dataset) -> str | None:
    """View Position (0018,5101), or its defined term for the code of View Code Sequence; None where neither is told."""
    if told := _text(header, "ViewPosition").upper():
        return told
    return next((term for code in _codes(header, "ViewCodeSequence") if (term := _view(code))), None)


def laterality_of(header: Dataset) -> str | None:
    """Side of the image, its frames or its series (PS3.3 C.7.3.1.1.1, C.7.6.16.2.8); None where it is not told."""
    for item in (header, *_anatomies(header)):
        for keyword in ("ImageLaterality", "FrameLaterality", "Laterality"):
            if (side := _text(item, keyword).upper()) in ("L", "R", "B", "U"):
                return side
    return None


def body_part_of(header: Dataset) -> str:
    """Body Part Examined (0018,0015) in capital letters and digits alone; empty where it is not told."""
    return _squeezed(_text(header, "BodyPartExamined"))


def age_of(header: Dataset) -> float | None:
    """Age in years at the study, from Patient's Age or the date of birth; None where neither tells."""
    if told := _AGE.fullmatch(_text(header, "PatientAge")):
        return int(told[1]) / _A_YEAR[told[2]]
    born, seen = (_DATE.fullmatch(_text(header, keyword)) for keyword in ("PatientBirthDate", "StudyDate"))
    if born is None or seen is None:
        return None
    years, months, days = (int(seen[n]) - int(born[n]) for n in (1, 2, 3))
    age = years + months / 12 + days / 365.25
    return age if 0 <= age < 130 else None


def _shows(match: Match, header: Dataset) -> bool:
    """Whether an image shows the part of the body: what is coded decides, words only where nothing is."""
    part = body_part_of(header)
    regions = [code for item in (header, *_anatomies(header)) for code in _codes(item, "AnatomicRegionSequence")]
    if part or regions:
        # The older SNOMED RT codes equal those of SNOMED CT that succeeded them.
        coded = any(
            code == code._replace(value=value, scheme_designator="SCT") for code in regions for value in match.region
        )
        return coded or part in map(_squeezed, match.body_part)
    said = " / ".join(_text(header, key) for key in _DESCRIPTIONS)
    return any(re.search(_pattern(word), said, re.IGNORECASE) for word in match.words)


def _pattern(word: str) -> str:
    """A word with no letter beside it; Chinese is written without spaces and stands anywhere."""
    escaped = re.escape(word)
    return rf"(?<![A-Za-z]){escaped}(?![A-Za-z])" if word.isascii() else escaped


def _view(code: Code) -> str | None:
    return next((term for known, term in _views().items() if known == code), None)


@cache
def _views() -> Mapping[Code, str]:
    """View codes (PS3.16 CID 4010 and 4014) by the defined terms of View Position (PS3.3 C.8.7.3, C.8.11.7)."""
    from pydicom.sr.codedict import codes

    return {
        codes.SCT.AnteroPosterior: "AP",
        codes.SCT.CaudoCranial: "FB",
        codes.SCT.CranioCaudal: "CC",
        codes.SCT.CranioCaudalExaggeratedLaterally: "XCCL",
        codes.SCT.CranioCaudalExaggeratedMedially: "XCCM",
        codes.SCT.LateralProjection: "LAT",
        codes.SCT.LateroMedial: "LM",
        codes.SCT.LateroMedialOblique: "LMO",
        codes.SCT.LeftLateral: "LL",
        codes.SCT.MedioLateralObliqueProjection: "MLO",
        codes.SCT.MedioLateralProjection: "ML",
        codes.SCT.PosteroAnterior: "PA",
        codes.SCT.RightLateral: "RL",
        codes.SCT.SuperolateralToInferomedialOblique: "SIO",
    }


def _anatomies(header: Dataset) -> Iterator[Dataset]:
    """The items of Frame Anatomy Sequence in the functional groups (PS3.3 C.7.6.16.2.8)."""
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in _items(header, keyword):
            yield from _items(group, "FrameAnatomySequence")


def _codes(dataset: Dataset, keyword: str) -> Iterator[Code]:
    for item in _items(dataset, keyword):
        value, scheme = _text(item, "CodeValue"), _text(item, "CodingSchemeDesignator")
        if value and scheme:
            from pydicom.sr.coding import Code

            yield Code(value, scheme.replace("SNM3", "SRT").replace("99SDM", "SRT"), "")


def _items(dataset: Dataset, keyword: str) -> Sequence:
    value = dataset.get(keyword)
    return value if isinstance(value, Sequence) else Sequence()


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()


def _squeezed(words: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", words.upper())


def _any(values: Iterable[str]) -> str:
    return " or ".join(values)
