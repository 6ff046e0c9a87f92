"""The code table: only exact meanings have public codes, and every label has a stable one."""

from __future__ import annotations

import csv
import re
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts
from sr_cases import DX, finding, header

from engine.findings import LANGUAGES, Laterality
from engine.labels import label_sets
from sr_writer.codes import CATEGORIES, NO_FINDING, concept_of, normalised, private_code, site_of, table

with files("sr_writer").joinpath("codes.csv").open(encoding="utf-8") as lines:
    ROWS = list(csv.DictReader(lines))


def meanings(scheme: str, code: str) -> set[str]:
    """Give every meaning that pydicom's dictionaries of PS3.16 know for a code."""
    return {entry[code][0] for entry in concepts[scheme].values() if code in entry}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['vocabulary']}-{row['concept']}")
def test_row_is_complete_and_its_codes_exist_with_their_meaning(row):
    assert row["source"]
    assert row["category"] in CATEGORIES
    assert Laterality(row["laterality"] or "unknown")
    assert re.fullmatch(r"[A-Z0-9-]{1,16}|[0-9]{4,16}", row["code"])
    assert len(row["meaning"]) <= 64
    if row["scheme"] == "99MEDREGA":
        assert not row["code"].startswith("L-"), "kept for labels that the table lacks"
    else:
        assert row["meaning"] in meanings(row["scheme"], row["code"])
    if row["site_code"]:
        assert row["site_meaning"] in meanings("SCT", row["site_code"])
    else:
        assert not row["site_meaning"]


@pytest.mark.parametrize("row", [row for row in ROWS if row["scheme"] != "99MEDREGA"], ids=lambda row: row["concept"])
def test_public_code_means_the_label_and_nothing_else(row):
    words = {normalised(name) for name in (row["concept"], *row["aliases_en"].split("|")) if name}
    known = {normalised(re.sub(r" \(.*\)$", "", meaning)) for meaning in meanings(row["scheme"], row["code"])}
    assert words & known, "the label is not one of the code's own names"


def test_private_codes_are_one_a_concept():
    private = [(row["vocabulary"], row["code"]) for row in ROWS if row["scheme"] == "99MEDREGA"]
    assert len({code for _, code in private}) == len(private)


def test_no_finding_has_no_row_and_bad_codes_are_absent():
    assert not {name for _, name in table()} & NO_FINDING
    assert not {row["code"] for row in ROWS} & {"287272002", "118538004", "17621005", "290084006"}


@pytest.mark.parametrize("label_set", label_sets().values(), ids=lambda label_set: label_set.name)
def test_every_label_of_the_models_vocabularies_has_a_row_or_means_that_there_is_nothing(label_set):
    for label in label_set.labels:
        if label.concept:
            row = table()["clinical", normalised(label.concept)]
            assert table()["clinical", normalised(label.zh)] is row
            assert concept_of(finding(label.concept, label=label.word), "clinical") is row
        else:
            assert {normalised(label.word), normalised(label.zh)} <= NO_FINDING


def test_candidates_that_are_only_approximate_are_not_used():
    candidates = Path(__file__).resolve().parents[3] / "shared" / "data" / "labels.tsv"
    text = candidates.read_text(encoding="utf-8").splitlines() if candidates.is_file() else []
    rows = csv.DictReader(text, delimiter="\t")
    approximate = {row["proposed code"].split()[1] for row in rows if "approximate" in row["proposed code"]}
    approximate |= {"67362008", "93880001", "52988006", "129790003", "309587003", "127189005", "400210000", "44241007"}
    assert not {row["code"] for row in ROWS} & approximate


@pytest.mark.parametrize(
    "label", ["disc", "ring", "bar pattern", "cross", "wedge", "breast", "mass", "specks", "fibre"]
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_insert_of_the_phantoms_is_known_by_its_name_in_each_language(label, language):
    zh = ["圆盘", "圆环", "线对", "十字", "楔形", "乳房", "肿块", "钙化点", "纤维"]
    english = ["disc", "ring", "bar pattern", "cross", "wedge", "breast", "mass", "specks", "fibre"]
    name = label if language == "en" else zh[english.index(label)]
    concept = concept_of(finding(name, concept="", label=name), "phantom")
    assert concept is table()["phantom", label]
    assert concept.code.scheme_designator == ("SCT" if label == "breast" else "99MEDREGA")


def test_an_insert_is_no_lesion():
    assert concept_of(finding("mass"), "phantom").code.value == "PHANTOM-MASS"
    assert concept_of(finding("mass"), "clinical").code.value == "4147007"


@pytest.mark.parametrize(
    "label", ["Edema", "Calcification", "Skin Thickening", "Nodule or Mass", "Lung tumor", "Other lesion"]
)
def test_narrower_and_broader_meanings_are_private(label):
    assert concept_of(finding(label), "clinical").code.scheme_designator == "99MEDREGA"


@given(label=st.text(min_size=1, max_size=300).filter(lambda text: normalised(text) and text.strip().isprintable()))
def test_any_other_label_gets_the_same_private_code_each_time(label):
    if normalised(label) in NO_FINDING or ("clinical", normalised(label)) in table():
        return
    first = concept_of(finding(label), "clinical").code
    second = concept_of(finding(f"  {label} ", label=label.swapcase()), "clinical").code
    assert first.value == second.value
    assert first.scheme_designator == "99MEDREGA"
    assert len(first.value) <= 16
    assert 0 < len(first.meaning.encode()) <= 64


def test_private_codes_of_labels_do_not_change_between_releases():
    assert private_code("bowing of the fissure", "").value == "L-44EWUU57GYF4HA"
    assert private_code("Bowing  of the FISSURE", "").value == "L-44EWUU57GYF4HA"


def test_finding_site_is_the_concepts_then_the_images_then_not_specified():
    mass = concept_of(finding("mass"), "clinical")
    effusion = concept_of(finding("pleural effusion"), "clinical")
    chest = header(DX, "DX", BodyPartExamined="CHEST")
    assert site_of(effusion, chest, "clinical").meaning == "Pleura"
    assert site_of(mass, chest, "clinical").meaning == "Chest"
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "10200004", "SCT", "Liver"
    chest.AnatomicRegionSequence = [region]
    assert site_of(mass, chest, "clinical").meaning == "Liver"
    assert site_of(mass, header(DX, "DX", BodyPartExamined="GRAPEFRUIT"), "clinical").value == "SITE-UNSPECIFIED"
    assert site_of(concept_of(finding("unheard of"), "phantom"), chest, "phantom").meaning == "Phantom"
