"""Phantoms are drawn where their truth says, and are the same every time."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.findings import LANGUAGES
from engine.gate import iou
from engine.grammar import parse
from engine.imaging import render_frame
from engine.phantom import questions, scenes
from engine.phantom.drawing import LABELS, Scene, draw
from engine.phantom.evaluate import breast_outline, match
from engine.phantom.studies import dataset_of, truth_boxes, write_phantoms
from engine.plan import load_plans
from engine.study import load_instance

SEEDS = st.integers(0, 2**31 - 1)


def _bare(scene: Scene) -> Scene:
    return replace(scene, noise=0.0, texture=0.0, gradient=(0.0, 0.0), background=0.5, decoys=())


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=st.integers(300, 700), columns=st.integers(300, 700))
def test_an_inserts_box_is_where_its_pixels_are(seed: int, rows: int, columns: int) -> None:
    scene = _bare(scenes.plate(np.random.default_rng(seed), columns / rows))
    for insert in scene.inserts:
        alone = replace(scene, inserts=(insert,))
        changed = np.abs(draw(alone, rows, columns) - 0.5) > abs(insert.contrast) / 2
        down, across = np.nonzero(changed)
        drawn = (across.min(), down.min(), across.max() + 1, down.max() + 1)
        ((_, said),) = truth_boxes(alone, rows, columns)
        # The sharp tip of a wedge covers less than half of its last pixels.
        slack = 3.5 if insert.label == "wedge" else 1.5
        np.testing.assert_allclose(said, drawn, atol=slack)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_details_lie_within_the_breast(seed: int) -> None:
    scene = scenes.breast(np.random.default_rng(seed), 0.8)
    assert scene.inserts[0].label == "breast"
    x0, y0, x1, y1 = scene.inserts[0].box
    for insert in scene.inserts[1:]:
        a, b, c, d = insert.box
        assert x0 - 1e-6 <= a < c <= x1 + 1e-6
        assert y0 - 1e-6 <= b < d <= y1 + 1e-6


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_the_right_answer_parses_to_the_truth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = scenes.random_scene(rng)
    parsed = parse(questions.detection(scene).answer)
    assert not parsed.unreadable
    said = [(region.label, region.box) for region in parsed.regions]
    truth = [(label, questions.box_999(i.box)) for label, found in questions.in_order(scene) for i in found]
    assert said == truth


def test_the_plan_asks_what_the_reader_was_trained_on() -> None:
    plan = load_plans()["phantom"]
    assert tuple(item.label for item in plan.objects) == LABELS
    assert {item.label: item.zh for item in plan.objects} == questions.CHINESE
    assert plan.image.noun == "X-ray image"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_place_has_a_sentence(language: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        for insert in scenes.random_scene(rng).inserts:
            assert questions.sentence(insert, language).endswith("." if language == "en" else "。")


def test_the_mirror_image_is_drawn_from_the_mirrored_scene() -> None:
    scene = _bare(scenes.plate(np.random.default_rng(4), 1.0))
    np.testing.assert_allclose(draw(scenes.mirrored(scene), 200, 200), draw(scene, 200, 200)[:, ::-1], atol=0.15)


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_phantoms(tmp_path / name, 4, seed=11)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_truth_is_in_pixels_of_each_instance(tmp_path: Path) -> None:
    truth = json.loads(write_phantoms(tmp_path, 6, seed=12).read_text())
    files = sorted(tmp_path.glob("*.dcm"))
    assert len(files) == len(truth) == 6
    for file in files:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        for item in truth[header.SOPInstanceUID]:
            x0, y0, x1, y1 = item["box"]
            assert item["label"] in LABELS
            assert 0 <= x0 < x1 <= header.Columns
            assert 0 <= y0 < y1 <= header.Rows


def test_phantoms_are_valid_dicom(tmp_path: Path) -> None:
    write_phantoms(tmp_path, 4, seed=13)
    for file in sorted(tmp_path.glob("*.dcm")):
        said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr


def test_every_encoding_of_a_scene_looks_like_the_scene(tmp_path: Path) -> None:
    scene = scenes.breast(np.random.default_rng(3), 0.8)
    wanted = draw(scene, 400, 320).ravel()
    seen = set()
    for seed in range(12):
        dataset = dataset_of(scene, 400, 320, np.random.default_rng(seed), seed, 1)
        dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
        shown = render_frame(load_instance(tmp_path / "one.dcm")).rgb[..., 0]
        assert np.corrcoef(wanted, shown.ravel())[0, 1] > 0.99
        seen.add((dataset.PhotometricInterpretation, dataset.BitsStored, "WindowWidth" in dataset))
    assert {kind for kind, _, _ in seen} == {"MONOCHROME1", "MONOCHROME2"}
    assert len({bits for _, bits, _ in seen}) >= 3


def test_iou_and_matching_use_each_box_once() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    assert iou(box, box) == 1.0
    assert iou(box, (10.0, 0.0, 20.0, 10.0)) == 0.0
    assert iou(box, (5.0, 0.0, 15.0, 10.0)) == pytest.approx(1 / 3)
    pairs = match([("disc", box), ("ring", box)], [("ring", box)])
    assert len(pairs) == 1


def test_a_threshold_outlines_the_largest_bright_area_and_no_film_edge() -> None:
    grey = np.zeros((200, 160), np.uint8)
    grey[40:160, :100] = 180
    grey[8:20, 120:150] = 255
    grey[:, :4] = 255
    assert breast_outline(grey) == (0.0, 40.0, 100.0, 160.0)
