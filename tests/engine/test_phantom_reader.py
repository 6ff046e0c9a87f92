"""The checkpoint that ships reads phantoms as well as its recorded figures say, alike in both runtimes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from engine.imaging import render_frame
from engine.phantom import evaluate, questions
from engine.phantom.evaluate import GOALS, Figures, mammogram_paths
from engine.phantom.studies import phantom, write_phantoms
from engine.runtime import load_runtime, model_path
from engine.runtime.onnx import OnnxRuntime
from engine.runtime.torch import TorchRuntime
from engine.study import load_instance

torch.set_num_threads(1)
FOLDER = model_path("phantom")


@pytest.fixture(scope="module")
def reader() -> OnnxRuntime:
    return OnnxRuntime(FOLDER, threads=1)


def test_it_says_that_it_is_a_commissioning_model(reader: OnnxRuntime) -> None:
    assert reader.identity.commissioning
    assert reader.identity.name == "MedRegA phantom reader"
    assert load_runtime("onnx", "phantom").identity == reader.identity


def test_it_is_small_enough_for_the_repository() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 25e6


def test_unseen_phantoms_are_read_as_well_as_was_measured(reader: OnnxRuntime) -> None:
    """A sample of 40, so with room for chance; the whole measurement is `make phantom-model`'s last step."""
    recorded = Figures(**json.loads((FOLDER / "evaluation.json").read_text()))
    measured = evaluate.phantoms(reader, 40, seed=evaluate.EVALUATION_SEED + 7)
    assert measured.mean_iou > recorded.mean_iou - 0.06
    assert measured.named_right > recorded.named_right - 0.08
    assert measured.false_boxes < recorded.false_boxes + 0.1


def test_recorded_figures_are_of_the_whole_measurement() -> None:
    record = json.loads((FOLDER / "evaluation.json").read_text())
    assert set(record) == {field.name for field in fields(Figures)}
    assert record["images"] >= 500
    assert record["mammograms"] == 8
    assert all(record[key] is not None for key in GOALS)


def test_the_breast_is_found_on_real_mammograms(reader: OnnxRuntime) -> None:
    assert min(evaluate.mammograms(reader, mammogram_paths())) >= 0.6


def test_both_runtimes_answer_alike(reader: OnnxRuntime, tmp_path: Path) -> None:
    reference = TorchRuntime(FOLDER, device="cpu")
    for number in range(4):
        dataset, _ = phantom(31, number)
        dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
        image = render_frame(load_instance(tmp_path / "one.dcm")).rgb
        for question in (
            questions.question("detection", "en", objects=questions.LABELS),
            questions.question("report", "zh"),
        ):
            assert reader.ask(image, question).token_ids == reference.ask(image, question).token_ids


def test_an_image_that_is_no_phantom_is_left_alone(reader: OnnxRuntime) -> None:
    from pydicom.data import get_testdata_file

    names = ("CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm", "examples_ybr_color.dcm")
    share, count = evaluate.silent(reader, [Path(str(get_testdata_file(name, download=False))) for name in names])
    assert count == len(names)
    assert share >= 0.75


def test_training_again_begins_from_the_same_weights(tmp_path: Path) -> None:
    from engine.phantom.train import Trainer

    first, second = Trainer(tmp_path / "a", 5), Trainer(tmp_path / "b", 5)
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])


def test_training_goes_on_from_the_weights_that_ship(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from engine.phantom.train import Trainer

    trainer = Trainer(tmp_path / "run", 5, FOLDER)
    for name, weight in load_file(FOLDER / "model.safetensors").items():
        assert torch.equal(trainer.model.state_dict()[name], weight.float())


def test_a_few_steps_of_training_lower_the_loss_and_can_go_on_later(tmp_path: Path) -> None:
    import numpy as np

    from engine.phantom.samples import sample
    from engine.phantom.train import Trainer

    trainer = Trainer(tmp_path, 5)
    rng = np.random.default_rng(1)
    batch = [s for _ in range(4) for s in sample(rng, trainer.tokenizer, trainer.config.image_tokens)]
    trainer.rate(0.3)
    losses = [trainer.update(batch, np.random.default_rng(0), language=True)["answer"] for _ in range(6)]
    assert losses[-1] < losses[0]
    trainer.save()
    again = Trainer(tmp_path, 5)
    assert again.step == 6
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])


def test_write_phantoms_tells_its_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_phantoms(tmp_path, 2, seed=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_the_model_card_gives_the_recorded_figures() -> None:
    record = json.loads((FOLDER / "evaluation.json").read_text())
    card = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert f"{record['images']} unseen phantoms" in card
    for key in GOALS:
        assert f"| {record[key]:.3f} |" in card
