"""The folder that a person opens: what its picture says where nothing is marked."""

from pathlib import Path
from typing import Any

import pytest
from node_bench import image, written

from dicom_node.reading import folder as results_folder
from dicom_node.reading.picture import draw_overlay
from engine import choose_plan, load_studies, read_study
from engine.runtime.scripted import ScriptedRuntime
from sr_writer import OutputProfile, write_results


@pytest.mark.parametrize(
    ("answers", "commissioning", "said"),
    [
        ("No finding", True, "No finding. "),
        ("nonsense [[1, 2", True, "No usable answer"),
        ("Findings: all is clear. Impression: a mass.", False, "What was found has no place"),
    ],
)
def test_a_picture_without_marks_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: str, commissioning: bool, said: str
) -> None:
    written(tmp_path / "in", image())
    (study,), _ = load_studies([tmp_path / "in"])
    runtime = ScriptedRuntime(default=answers, commissioning=commissioning)
    reading = read_study(study, choose_plan(study, runtime.identity), runtime)
    notes = []

    def drawn(*arguments: Any, note: str) -> Any:
        notes.append(note)
        return draw_overlay(*arguments, note=note)

    monkeypatch.setattr(results_folder, "draw_overlay", drawn)
    results_folder.write_pages(tmp_path, study, reading, [], ("en",))
    assert notes[0].startswith(said)


def test_a_folder_holds_the_results_of_its_last_reading_and_nothing_else_is_removed(tmp_path: Path) -> None:
    written(tmp_path / "in", image())
    (study,), _ = load_studies([tmp_path / "in"])
    runtime = ScriptedRuntime(default="No finding")
    reading = read_study(study, choose_plan(study, runtime.identity), runtime)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("seg-2.dcm", "gsps.dcm", "image.dcm", "segment.dcm"):
        (out / name).write_bytes(b"")
    results = write_results(reading, study.headers, OutputProfile())
    results_folder.write_results_folder(out, study, reading, results, ("en",))
    assert sorted(path.name for path in out.glob("*.dcm")) == ["image.dcm", "narrative-zh.dcm", "segment.dcm", "sr.dcm"]
