"""Plans say what is asked; a wrong one is refused by file and key, and a study without an image has none."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import BasicTextSRStorage

from engine.errors import PlanError
from engine.plan import choose_plan, load_plan, load_plans
from engine.runtime.scripted import ScriptedRuntime
from engine.study import Series, Study

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
    ("old", "new", "complaint"),
    [
        ('"detection"', '"paint"', r"tasks\.0"),
        ('label = "liver"', 'labl = "liver"', r"objects\.0\.labl"),
        ('label = "liver"', 'label = ""', r"objects\.0\.label"),
        ('noun = "CT scan"\n', "", r"image\.noun"),
        ('name = "mine"', 'name = "mine', "line 2"),
        ('tasks = ["detection"]', "tasks = []", "tasks"),
        ('tasks = ["detection"]', 'tasks = ["identification"]', "needs the task 'detection'"),
        ("[image]", "[frames]\nslices_per_series = 0\n[image]", r"frames\.slices_per_series"),
        ("[image]", 'languages = ["de"]\n[image]', r"languages\.0"),
    ],
)
def test_wrong_plan_is_refused_by_file_and_key(tmp_path, old, new, complaint):
    path = tmp_path / "mine.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new), "utf-8")
    with pytest.raises(PlanError, match=complaint) as caught:
        load_plan(path)
    assert "mine.toml" in str(caught.value)


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
