"""Plans say what is asked; a wrong one is refused by file and key, and a study without an image has none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import BasicTextSRStorage

from engine.errors import PlanError
from engine.plan import Match, Plan, choose_plan, fitting_plans, load_plan, load_plans, mismatch, parse_plan
from engine.runtime.scripted import ScriptedRuntime
from engine.study import Series, Study

CLINICAL = ScriptedRuntime(commissioning=False).identity
PIXELS = np.zeros((8, 8), np.uint8)
GOOD = """
name = "mine"
tasks = ["detection"]
[image]
noun = "CT scan"
with_article = "a CT scan"
[[objects]]
label = "liver"
concept = "liver"
en = "liver"
zh = "肝"
"""


def study_of(*instances) -> Study:
    series = tuple(Series(i.series_instance_uid, i.modality, (i,)) for i in instances)
    return Study(instances[0].study_instance_uid, series)


def test_plans_that_ship_load():
    plans = load_plans()
    assert set(plans) == {
        *["phantom", "general", "chest-xray", "chest-xray-paediatric", "mammography", "spine-xray"],
        *["musculoskeletal-xray", "ct-head", "ct-chest", "ct-abdomen", "mr-head", "mr-chest", "mr-abdomen"],
        *["ultrasound", "dermoscopy", "fundus", "oct", "histopathology", "endoscopy"],
    }
    assert all(plan.title and plan.limits.seconds_per_study for plan in plans.values() if not plan.commissioning)
    phantom = plans["phantom"]
    assert [item.label for item in phantom.objects] == [
        *["disc", "ring", "bar pattern", "cross", "wedge"],
        *["breast", "mass", "specks", "fibre"],
    ]
    assert phantom.commissioning
    assert not plans["general"].commissioning


def test_object_is_found_by_its_name_in_either_language():
    phantom = load_plans()["phantom"]
    assert phantom.find("Bar Pattern") is phantom.find(" 线对 ")
    assert phantom.find("liver") is None
    assert phantom.find("") is None


def test_plan_of_a_users_own_loads(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD, "utf-8")
    plan = load_plans(tmp_path)["mine"]
    assert plan.languages == ("en", "zh")
    assert plan.find("肝") is plan.objects[0]


@pytest.mark.parametrize(
    ("old", "new", "line", "column"),
    [
        ('"detection"', '"report", "paint"', 3, 20),
        ('tasks = ["detection"]', 'tasks = [\n  "report",\n  "paint",\n]', 5, 3),
        ('label = "liver"', 'labl = "liver"', 8, 1),
        ('zh = "肝"', 'zh = "肝"\n[[objects]]\nlabel = "spleen"\nconcept = ""\nen = "s"\nzh = "脾"', 14, 11),
        ('noun = "CT scan"\n', "", 4, 1),
        ("[image]", "[frames]\nslices_per_series = 0\n[image]", 5, 1),
        ('name = "mine"', 'name = "mine', 2, 13),
        ("[[objects]]", "[[windows]]\nname = 'w'\ncenter = 1\nwidth = 0\n[[objects]]", 10, 1),
        ("[image]", "[limits]\nseconds_per_study = -1\n[image]", 5, 1),
        ("[image]", "match.sop_class = ['1.2', 'CT']\n[image]", 4, 27),
        ("[image]", "label_sets = ['vindr']\n[image]", 4, 15),
        ('["detection"]', '["detection", "vqa"]', 3, 23),
    ],
)
def test_fault_has_a_line_and_a_column(old, new, line, column):
    faults = parse_plan(GOOD.replace(old, new))
    assert (line, column) in [(fault.line, fault.column) for fault in faults]


def test_a_wrong_item_is_the_only_fault_of_its_list():
    (fault,) = parse_plan(GOOD.replace('"detection"', '"paint"'))
    assert fault.why.startswith("tasks.0: Input should be 'detection'")
    (fault,) = parse_plan(GOOD.replace('"detection"', ""))
    assert fault.why.startswith("tasks: ")


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")), st.integers(0, len(GOOD)))
def test_any_text_is_a_plan_or_has_faults(text, place):
    for whole in (text, GOOD[:place] + text + GOOD[place:]):
        parsed = parse_plan(whole)
        assert isinstance(parsed, Plan) or (parsed and all(fault.line >= 1 and fault.column >= 1 for fault in parsed))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"detection"', '"paint"', r"tasks\.0"),
        ('label = "liver"', 'labl = "liver"', r"objects\.0\.labl: there is no such key; known are label, concept"),
        ("[image]", "color = 'red'\n[image]", r"color: there is no such key; known are name, title"),
        ('label = "liver"', 'label = ""', r"objects\.0\.label"),
        ('noun = "CT scan"\n', "", r"image\.noun"),
        ('name = "mine"', 'name = "mine', "line 2"),
        ('tasks = ["detection"]', "tasks = []", "tasks"),
        ('tasks = ["detection"]', 'tasks = ["identification"]', "needs the task 'detection'"),
        ("[image]", "[frames]\nslices_per_series = 0\n[image]", r"frames\.slices_per_series"),
        ("[image]", 'languages = ["de"]\n[image]', r"languages\.0"),
        ("[image]", 'refiner = "otsu"\n[image]', "refiner"),
    ],
)
def test_wrong_plan_is_refused_by_file_and_key(tmp_path, old, new, complaint):
    path = tmp_path / "mine.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new), "utf-8")
    with pytest.raises(PlanError, match=complaint) as caught:
        load_plan(path)
    assert "mine.toml" in str(caught.value)


def test_plan_nested_too_deeply_has_a_fault():
    (fault,) = parse_plan("a = " + "[" * 100_000)
    assert "nested too deeply" in fault.why


def test_detection_of_nothing_and_a_label_twice_are_refused(tmp_path):
    path = tmp_path / "mine.toml"
    head, objects = GOOD.split("[[objects]]")
    path.write_text(head, "utf-8")
    with pytest.raises(PlanError, match="needs objects"):
        load_plan(path)
    path.write_text(f"{head}[[objects]]{objects}[[objects]]{objects}", "utf-8")
    with pytest.raises(PlanError, match="same label"):
        load_plan(path)


def test_missing_plan_and_a_name_twice_are_refused(tmp_path):
    with pytest.raises(PlanError, match="cannot be read"):
        load_plan(tmp_path / "none.toml")
    (tmp_path / "a.toml").write_text(GOOD, "utf-8")
    (tmp_path / "b.toml").write_text(GOOD, "utf-8")
    with pytest.raises(PlanError, match="another one has"):
        load_plans(tmp_path)


def test_commissioning_model_gets_the_phantom_plan_and_every_other_the_general_one(make_instance):
    study = study_of(make_instance(PIXELS))
    assert choose_plan(study, ScriptedRuntime().identity).name == "phantom"
    assert choose_plan(study, ScriptedRuntime(commissioning=False).identity).name == "general"


CHEST = {"Modality": "DX", "BodyPartExamined": "CHEST"}


def coded(value: str, scheme: str = "SCT") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "some"
    return Sequence([item])


@pytest.mark.parametrize(
    ("elements", "name"),
    [
        (CHEST, "chest-xray"),
        ({**CHEST, "PatientAge": "045Y"}, "chest-xray"),
        ({**CHEST, "PatientAge": "018M"}, "chest-xray-paediatric"),
        ({**CHEST, "PatientBirthDate": "20200301", "StudyDate": "20260201"}, "chest-xray-paediatric"),
        ({**CHEST, "PatientAge": "***"}, "chest-xray"),
        ({**CHEST, "Modality": "CR", "BodyPartExamined": "chest "}, "chest-xray"),
        ({"Modality": "DX", "AnatomicRegionSequence": coded("51185008")}, "chest-xray"),
        ({"Modality": "DX", "AnatomicRegionSequence": coded("T-D3000", "SRT")}, "chest-xray"),
        ({"Modality": "DX", "StudyDescription": "Thorax p.a."}, "chest-xray"),
        ({"Modality": "DX", "BodyPartExamined": "FOOT", "StudyDescription": "chest"}, "musculoskeletal-xray"),
        ({"Modality": "DX"}, "general"),
        ({"Modality": "DX", "StudyDescription": "Chester"}, "general"),
        ({"Modality": "DX", "BodyPartExamined": "L-SPINE"}, "spine-xray"),
        ({"Modality": "DX", "BodyPartExamined": "HAND"}, "musculoskeletal-xray"),
        ({"Modality": "MG"}, "mammography"),
        ({"Modality": "MG", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "mammography"),
        ({"Modality": "CT", "BodyPartExamined": "HEAD"}, "ct-head"),
        ({"Modality": "CT", "BodyPartExamined": "CHEST"}, "ct-chest"),
        ({"Modality": "CT", "SeriesDescription": "ABD_pv"}, "general"),
        ({"Modality": "CT", "ProtocolName": "Abdomen routine"}, "ct-abdomen"),
        ({"Modality": "MR", "BodyPartExamined": "BRAIN"}, "mr-head"),
        ({"Modality": "MR", "BodyPartExamined": "CHEST"}, "mr-chest"),
        ({"Modality": "MR", "BodyPartExamined": "LIVER"}, "mr-abdomen"),
        ({"Modality": "US"}, "ultrasound"),
        ({"Modality": "DMS"}, "dermoscopy"),
        ({"Modality": "OP"}, "fundus"),
        ({"Modality": "OPT"}, "oct"),
        ({"Modality": "SM"}, "histopathology"),
        ({"Modality": "ES"}, "endoscopy"),
        ({"Modality": "XA"}, "general"),
    ],
)
def test_plan_is_chosen_by_what_the_header_says(make_instance, elements, name):
    study = study_of(make_instance(PIXELS, **elements))
    assert choose_plan(study, CLINICAL).name == name
    assert choose_plan(study, ScriptedRuntime().identity).name == "phantom"


def test_sites_own_plan_wins_and_replaces_one_of_the_same_name(tmp_path, make_instance):
    chest = study_of(make_instance(PIXELS, **CHEST))
    (tmp_path / "mine.toml").write_text(GOOD.replace("[image]", 'match.modality = ["CT", "DX"]\n[image]'), "utf-8")
    assert choose_plan(chest, CLINICAL, load_plans(tmp_path).values()).name == "mine"
    assert choose_plan(
        study_of(make_instance(PIXELS, Modality="US")), CLINICAL, load_plans(tmp_path).values()
    ).name == ("ultrasound")
    (tmp_path / "mine.toml").write_text(GOOD.replace('"mine"', '"chest-xray"'), "utf-8")
    plans = load_plans(tmp_path)
    assert plans["chest-xray"].tasks == ("detection",)
    assert len(plans) == len(load_plans())


def test_of_two_plans_the_one_that_says_more_is_chosen_then_that_of_more_images(make_instance):
    plans = load_plans()
    two = study_of(
        *(make_instance(PIXELS, Modality="CT", BodyPartExamined=part) for part in ("HEAD", "CHEST", "CHEST"))
    )
    fitting = [plan.name for plan in fitting_plans(two, plans.values())]
    assert fitting[:2] == ["ct-chest", "ct-head"]
    assert fitting[2:] == ["general", "phantom"]


@pytest.mark.parametrize(
    ("match", "elements", "why"),
    [
        ({"view": ["PA"]}, {"ViewPosition": "PA"}, None),
        ({"view": ["PA"]}, {}, "does not say that its view is PA"),
        ({"view": ["CC"]}, {"ViewCodeSequence": coded("R-10242", "SNM3")}, None),
        ({"view": ["CC"]}, {"ViewCodeSequence": coded("399368009")}, "its view is CC"),
        ({"laterality": ["L"]}, {"Laterality": "L"}, None),
        ({"laterality": ["L"]}, {"ImageLaterality": "R", "Laterality": "L"}, "its side is L"),
        ({"laterality": ["L"]}, {}, "does not say that its side is L"),
        ({"age_from": 18}, {"PatientAge": "018Y"}, None),
        ({"age_from": 18}, {"PatientAge": "200M"}, "not of the age"),
        ({"age_from": 18}, {}, "does not tell the patient's age"),
        ({"sop_class": ["DigitalXRayImageStorageForPresentation"]}, {}, None),
        ({"sop_class": ["CTImageStorage"]}, {}, "SOP class"),
        ({"words": ["胸部"]}, {"StudyDescription": "数字胸部正位", "SpecificCharacterSet": "ISO_IR 192"}, None),
        ({"region": ["51185008"]}, {"AnatomicRegionSequence": coded("12738006")}, "what the plan is for"),
    ],
)
def test_what_a_header_does_not_tell_matches_nothing(make_instance, match, elements, why):
    said = mismatch(Match(**match), make_instance(PIXELS, **elements))
    assert said is None if why is None else why in said


def test_label_alone_is_enough_where_a_label_set_knows_it():
    items = {item.label: item for item in load_plans()["chest-xray"].objects}
    assert items["ILD"].names == {"en": "interstitial lung disease", "zh": "间质性肺病"}
    (fault,) = parse_plan(GOOD.replace('concept = "liver"\n', ""))
    assert fault.why == "objects.0.concept: Field required"


def test_the_page_names_every_plan_that_ships_and_every_key():
    page = (Path(__file__).parents[2] / "deploy" / "PLANS.md").read_text("utf-8")
    named = set(re.findall(r"`\[*([a-z_-]+)\]*`", page))
    assert set(load_plans()) <= named
    assert keys_of(Plan) <= named


def keys_of(table: type[BaseModel]) -> set[str]:
    found = set(table.model_fields)
    waiting = [field.annotation for field in table.model_fields.values()]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= keys_of(kind)
        waiting += get_args(kind)
    return found


def test_window_of_a_task_is_its_own_or_the_one_for_all_others():
    chest = load_plans()["ct-chest"]
    assert chest.window("detection").center == -600
    assert chest.window("report").center == 40
    assert load_plans()["chest-xray"].window("report") is None


def test_study_without_an_image_has_no_plan(make_instance):
    report = make_instance(PIXELS, SOPClassUID=BasicTextSRStorage)
    with pytest.raises(PlanError, match=r"none of its 1 objects is an image .*structured report") as caught:
        choose_plan(study_of(report), ScriptedRuntime().identity)
    assert caught.value.advice
    choose_plan(study_of(report, make_instance(PIXELS)), ScriptedRuntime().identity)


def test_image_that_cannot_be_decoded_has_a_plan_so_that_its_reading_says_so(make_instance):
    study = study_of(make_instance(PIXELS, Rows=65535, Columns=65535))
    assert choose_plan(study, ScriptedRuntime().identity).name == "phantom"


def test_model_that_no_plan_is_for_is_refused(make_instance):
    with pytest.raises(PlanError, match="Scripted answers"):
        choose_plan(study_of(make_instance(PIXELS)), ScriptedRuntime().identity, [load_plans()["general"]])
