"""The code table: from the model's labels to coded concepts and finding sites (``codes.csv``).

A code of a public scheme stands only where its meaning equals the label; every other label has a code in the project's
private scheme, the same one each time, with the model's words as its meaning.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import StringIO
from typing import Final, Literal

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from engine.errors import WriteError
from engine.findings import Finding, Language, Laterality
from sr_writer.identity import PRIVATE_SCHEME
from sr_writer.text import clean_line

Vocabulary = Literal["phantom", "clinical"]
Kind = Literal["finding", "anatomy", "object"]

CATEGORIES: Final[dict[Kind, Code]] = {
    "finding": codes.SCT.MorphologicallyAbnormalStructure,
    "anatomy": codes.SCT.AnatomicalStructure,
    "object": codes.SCT.PhysicalObject,
}
"""Segmented property categories (PS3.16 CID 7150)."""
LATERALITY: Final[dict[Laterality, Code]] = {
    Laterality.LEFT: codes.SCT.Left,
    Laterality.RIGHT: codes.SCT.Right,
    Laterality.BILATERAL: codes.SCT.Bilateral,
}
"""PS3.16 CID 244."""
SITE_NOT_SPECIFIED: Final = Code("SITE-UNSPECIFIED", PRIVATE_SCHEME, "Site not specified")
"""Readers expect a finding site in every group: this says that there is none to tell."""
PHANTOM_SITE: Final[Code] = codes.SCT.Phantom
NO_FINDING: Final = frozenset(
    {
        *("no finding", "no findings", "no abnormality", "no abnormalities", "normal", "unremarkable", "none"),
        *("未见异常", "未见明显异常", "无异常", "无明显异常", "正常"),
    }
)
"""Labels that are no finding, and so never a code."""

_BODY_PARTS: Final[dict[str, Code]] = {
    # Body Part Examined (PS3.16 Annex L) where the region is beyond doubt
    "ABDOMEN": codes.SCT.Abdomen,
    "BRAIN": codes.SCT.Brain,
    "BREAST": codes.SCT.Breast,
    "CHEST": codes.SCT.Chest,
    "HEAD": codes.SCT.Head,
    "HEART": codes.SCT.Heart,
    "KNEE": codes.SCT.Knee,
    "LIVER": codes.SCT.Liver,
    "LUNG": codes.SCT.Lung,
    "NECK": codes.SCT.Neck,
    "PELVIS": codes.SCT.Pelvis,
    "SPINE": codes.SCT.Spine,
}
_CODE_LENGTH: Final = 16


@dataclass(frozen=True, slots=True)
class Concept:
    """What a label means.

    Parameters
    ----------
    code : Code
    kind : {"finding", "anatomy", "object"}
    site : Code or None
        Where such a finding is by its nature; None if the image has to say.
    laterality : Laterality
        The side that the label itself names.
    source : str
        Where the row comes from.
    """

    code: Code
    kind: Kind
    site: Code | None = None
    laterality: Laterality = Laterality.UNKNOWN
    source: str = ""

    @property
    def category(self) -> Code:
        """Segmented property category."""
        return CATEGORIES[self.kind]


def normalised(label: str) -> str:
    """Make labels that differ only in case, width or spaces equal."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().replace("_", " ").split())


@cache
def table() -> dict[tuple[Vocabulary, str], Concept]:
    """Read the code table; keys are vocabulary and normalised name or alias.

    Raises
    ------
    WriteError
        If a name stands for two rows.
    """
    concepts: dict[tuple[Vocabulary, str], Concept] = {}
    text = files("sr_writer").joinpath("codes.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(StringIO(text)):
        vocabulary: Vocabulary = "phantom" if row["vocabulary"] == "phantom" else "clinical"
        concept = Concept(
            code=Code(row["code"], row["scheme"], row["meaning"]),
            kind=row["category"],  # type: ignore[arg-type]  # a test reads every row of the table
            site=Code(row["site_code"], "SCT", row["site_meaning"]) if row["site_code"] else None,
            laterality=Laterality(row["laterality"] or "unknown"),
            source=row["source"],
        )
        names = [row["concept"], *row["aliases_en"].split("|"), *row["aliases_zh"].split("|")]
        for name in filter(None, map(normalised, names)):
            if (vocabulary, name) in concepts:
                raise WriteError(f"the code table has two rows for one name in the {vocabulary} vocabulary")
            concepts[vocabulary, name] = concept
    return concepts


@cache
def names_of(vocabulary: Vocabulary) -> dict[str, dict[Language, str]]:
    """Every concept of a vocabulary and its names by language, for a person to choose from."""
    text = files("sr_writer").joinpath("codes.csv").read_text(encoding="utf-8")
    return {
        row["concept"]: {
            "en": row["concept"][:1].upper() + row["concept"][1:],
            "zh": row["aliases_zh"].partition("|")[0] or row["concept"],
        }
        for row in csv.DictReader(StringIO(text))
        if row["vocabulary"] == vocabulary
    }


def concept_of(finding: Finding, vocabulary: Vocabulary) -> Concept:
    """Find what a finding is coded as: by its concept, else by its label, else privately.

    Raises
    ------
    WriteError
        If the label says that there is no finding, or says nothing.
    """
    names = [name for name in (normalised(finding.concept), normalised(finding.label)) if name]
    if any(name in NO_FINDING for name in names):
        raise WriteError("a label that means no finding was given as a finding; it never becomes a code")
    for name in names:
        if (vocabulary, name) in table():
            return table()[vocabulary, name]
    meaning = clean_line(finding.concept) or clean_line(finding.label)
    if not meaning:
        raise WriteError("a finding has neither label nor concept")
    return Concept(code=private_code(names[0], meaning), kind="finding", source="the model's own word")


def private_code(name: str, meaning: str) -> Code:
    """Make the private code of a label that the table lacks: the same for the same label, always."""
    digest = base64.b32encode(hashlib.sha256(normalised(name).encode("utf-8", "replace")).digest()).decode("ascii")
    return Code(f"L-{digest}"[:_CODE_LENGTH], PRIVATE_SCHEME, meaning)


def site_of(concept: Concept, header: Dataset, vocabulary: Vocabulary) -> Code:
    """Find where a finding is: by its nature, else as the image's header says, else not specified."""
    if concept.site is not None:
        return concept.site
    if vocabulary == "phantom":
        return PHANTOM_SITE
    for item in header.get("AnatomicRegionSequence") or []:
        code = [str(item.get(key) or "") for key in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")]
        if all(code) and all(
            clean_line(words, limit) == words for words, limit in zip(code, (16, 16, 64), strict=True)
        ):
            return Code(*code)
    return _BODY_PARTS.get(str(header.get("BodyPartExamined") or "").strip().upper(), SITE_NOT_SPECIFIED)
