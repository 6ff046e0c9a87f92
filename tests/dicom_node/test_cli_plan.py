"""``plan``: what plans there are, whether one is right, and what of a study is read and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from dicom_node.cli import main

Run = Callable[..., tuple[int, str, str]]

CT = str(get_testdata_file("CT_small.dcm"))
MINE = """
name = "mine"
tasks = ["report"]
[match]
modality = ["CT"]
[image]
noun = "CT scan"
with_article = "a CT scan"
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``medrega-pacs`` in an empty folder; gives exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medrega-pacs", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the site's own plans, with one in it."""
    folder = tmp_path / "plans"
    folder.mkdir()
    (folder / "mine.toml").write_text(MINE, "utf-8")
    monkeypatch.setenv("MEDREGA_PACS__ENGINE__PLANS", str(folder))
    return folder


def test_plans_are_listed_with_what_they_are_for(run: Run, site: Path) -> None:
    status, out, _ = run("plan", "list")
    assert status == 0
    assert "chest-xray-paediatric" in out
    assert "the commissioning model" in out
    listed = {item["name"]: item for item in json.loads(run("plan", "list", "--json")[1])}
    assert listed["mine"]["from"] == str(site / "mine.toml")
    assert listed["general"]["from"] == "ships"
    assert listed["chest-xray-paediatric"]["match"]["age_below"] == 10
    assert listed["mammography"]["match"] == {"modality": ["MG"]}


@pytest.mark.usefixtures("site")
def test_a_plan_is_shown_as_its_file_and_whole(run: Run) -> None:
    assert run("plan", "show", "mine")[:2] == (0, MINE)
    assert json.loads(run("plan", "show", "mine", "--json")[1])["limits"]["questions_per_study"] == 100
    status, _, err = run("plan", "show", "nowhere")
    assert status == 2
    assert "no plan 'nowhere'" in err


def test_a_shown_plan_is_a_right_one(run: Run) -> None:
    Path("copy.toml").write_text(run("plan", "show", "chest-xray")[1], "utf-8")
    assert run("plan", "check", "copy.toml") == (0, "copy.toml: the plan 'chest-xray' is right\n", "")


def test_faults_are_told_by_file_line_and_column(run: Run) -> None:
    Path("wrong.toml").write_text(MINE.replace('"report"', '"report", "paint"').replace("noun", "nuon"), "utf-8")
    Path("right.toml").write_text(MINE, "utf-8")
    status, out, err = run("plan", "check", "wrong.toml", "right.toml")
    assert status == 1
    assert "right.toml: the plan 'mine' is right" in out
    assert "wrong.toml:3:20: tasks.1: " in err
    assert "wrong.toml:7:1: image.nuon: " in err
    faults = json.loads(run("plan", "check", "wrong.toml", "--json")[1])
    assert {(fault["line"], fault["column"]) for fault in faults} == {(3, 20), (6, 1), (7, 1)}
    Path("latin.toml").write_bytes(b'name = "\xe9"')
    assert "latin.toml:1:1: not UTF-8" in run("plan", "check", "latin.toml")[2]
    assert run("plan", "check", "none.toml")[0] == 2


def test_what_is_read_of_a_study_is_told_with_the_reason(run: Run, site: Path) -> None:
    status, out, _ = run("plan", "which", CT)
    assert status == 0
    assert "plan mine (these fit as well: general)" in out
    assert "the only one of its kind" in out
    (told,) = json.loads(run("plan", "which", CT, "--json", "--plan", "mammography")[1])
    assert told["plan"] == "mammography"
    (series,) = told["series"]
    assert (series["read"], series["images"], series["modality"]) == (0, 1, "CT")
    assert "its modality is not MG" in series["why_not"][0]
    (site / "mine.toml").unlink()
    status, out, err = run("plan", "which", CT)
    assert "plan general" in out
    assert "--commissioning" in err, "the model that the settings name is read by another plan"
    _, out, err = run("plan", "which", CT, "--commissioning")
    assert "plan phantom" in out
    assert not err


@pytest.mark.usefixtures("site")
def test_studies_are_read_by_the_sites_own_plan(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = {"answers": {}, "default": "Findings: Clear. Impression: No finding.", "commissioning": False}
    (tmp_path / "script.json").write_text(json.dumps(script), "utf-8")
    monkeypatch.setenv("MEDREGA_PACS__ENGINE__RUNTIME", "scripted")
    monkeypatch.setenv("MEDREGA_PACS__ENGINE__MODEL", str(tmp_path / "script.json"))
    assert run("read", CT, "--out", "results", "--language", "en")[0] == 0
    (reading,) = Path("results").rglob("reading.json")
    assert json.loads(reading.read_text("utf-8"))["plan"] == "mine"


def test_what_has_no_plan_is_told(run: Run) -> None:
    report = str(get_testdata_file("test-SR.dcm"))
    status, _, err = run("plan", "which", report)
    assert status == 1
    assert "none of its 1 objects is an image" in err
    Path("notes.txt").write_text("nothing")
    status, _, err = run("plan", "which", "notes.txt")
    assert status == 1
    assert "there is no study" in err
    assert run("plan", "which", CT, "--plan", "nowhere")[0] == 2


def test_a_faulty_plan_of_the_site_is_named_by_every_command_that_needs_it(run: Run, site: Path) -> None:
    (site / "bad.toml").write_text(MINE.replace("noun", "nuon"), "utf-8")
    for command in (("plan", "list"), ("plan", "which", CT), ("config", "check"), ("read", CT, "--out", "results")):
        status, _, err = run(*command)
        assert status == 1
        assert "bad.toml is wrong: line 6, column 1: image.noun: Field required" in err


def test_a_folder_of_plans_that_is_not_there_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDREGA_PACS__ENGINE__PLANS", "nowhere")
    status, _, err = run("plan", "list")
    assert status == 1
    assert "the folder of plans nowhere is not there" in err
