"""A constrained answer always parses, whatever the model would say; an answer that fits already stays what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import load_plans, load_studies, read_study
from engine.errors import ModelError
from engine.grammar import Parsed, box_grammar, is_nothing, parse
from engine.imaging import render_frame
from engine.model.tokenizer import Tokenizer
from engine.phantom import questions
from engine.phantom.studies import phantom
from engine.runtime import model_path
from engine.runtime.guidance import Guidance
from engine.runtime.onnx import OnnxRuntime
from engine.runtime.torch import TorchRuntime
from engine.study import load_instance
from tests.engine.toy import write_toy

torch.set_num_threads(1)
FOLDER = model_path("phantom")
LABELS = ["disc", "bar pattern", "圆盘", 'a "quoted" word']
DETECTION = questions.question("detection", "en", objects=questions.LABELS)


@pytest.fixture(scope="module")
def reader() -> OnnxRuntime:
    return OnnxRuntime(FOLDER, threads=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    folder, found = tmp_path_factory.mktemp("phantoms"), []
    for number in range(6):
        phantom(31, number)[0].save_as(folder / "one.dcm", enforce_file_format=True)
        found.append(render_frame(load_instance(folder / "one.dcm")).rgb)
    return found


def whole(answer: str, labels: list[str]) -> Parsed:
    """What an answer says, if it is nothing but boxes of these labels, or that there are none."""
    parsed = parse(answer)
    assert parsed.unreadable == ()
    assert parsed.text == "" or is_nothing(answer)
    assert all(region.label in labels and region.in_range for region in parsed.regions)
    assert bool(parsed.regions) != is_nothing(answer)
    return parsed


@pytest.mark.parametrize("seed", range(20))
def test_random_logits_give_an_answer_that_parses_and_ends_in_time(seed):
    tokenizer = Tokenizer(FOLDER)
    rng = np.random.default_rng(seed)
    guide = Guidance(tokenizer, tokenizer.size).follow(box_grammar(LABELS), 200)
    liking = rng.normal(0, 2, tokenizer.size)  # the same tokens again and again, as such models do
    liking[list(tokenizer.stop_ids)] -= 5.0
    ids: list[int] = []
    while (
        token := guide.choose((liking + rng.normal(size=tokenizer.size)).astype(np.float32))
    ) not in tokenizer.stop_ids:
        ids.append(token)
    assert len(ids) < 200
    whole(tokenizer.decode(ids), LABELS)


def follow(wish: str, limit: int) -> tuple[str, bool]:
    """The answer of a model that wants to say this, then only to end."""
    tokenizer = Tokenizer(FOLDER)
    guide = Guidance(tokenizer, tokenizer.size).follow(box_grammar(["disc"]), limit)
    wanted, ids = tokenizer.encode(wish), list[int]()
    while True:
        logits = np.zeros(tokenizer.size, np.float32)
        logits[[tokenizer.token_id("</box>"), *tokenizer.encode("]]]")]] = 1.0
        logits[min(tokenizer.stop_ids)] = 2.0
        if len(ids) < len(wanted):
            logits[wanted[len(ids)]] = 9.0
        if (token := guide.choose(logits)) in tokenizer.stop_ids:
            return tokenizer.decode(ids), guide.ended_early
        ids.append(token)
        assert len(ids) < limit


@pytest.mark.parametrize(
    "flat", ["0, 5, 0, 7", "57, 5, 57, 8", "572, 5, 572, 8", "1, 0, 2, 0", "1, 44, 2, 44", "1, 999, 2, 999"]
)
def test_box_without_an_area_is_never_finished(flat):
    answer, ended_early = follow(f"<ref>disc</ref><box>[[{flat}]]</box>", 200)
    assert len(whole(answer, ["disc"]).regions) >= 1
    assert not ended_early


def test_answer_that_has_no_room_for_more_ends_and_says_so():
    answer, ended_early = follow("<ref>disc</ref><box>[[" + "1, 2, 3, 4], [" * 20, 150)
    assert ended_early
    assert len(whole(answer, ["disc"]).regions) > 1


def test_constrained_answers_of_the_phantom_reader_parse_and_are_the_same_where_they_fit(reader, images):
    labels = list(questions.LABELS)
    same = 0
    for image in images:
        free = reader.ask(image, DETECTION)
        held = reader.ask(image, DETECTION, grammar=box_grammar(labels))
        whole(held.text, labels)
        assert held.finish == "stop"
        if not parse(free.text).unreadable:
            assert held.token_ids == free.token_ids
            assert held.logprobs == free.logprobs
            assert held.offsets == free.offsets
            same += 1
    assert same >= 4


def test_model_is_held_to_labels_it_would_not_say(reader, images):
    answer = reader.ask(images[0], DETECTION, grammar=box_grammar(["liver"]))
    assert reader.ask(images[0], DETECTION).text.startswith("<ref>")
    whole(answer.text, ["liver"])


def test_random_weights_give_an_answer_that_parses(tmp_path: Path):
    reader = TorchRuntime(write_toy(tmp_path, seed=3), device="cpu")
    rng = np.random.default_rng(0)
    question = "<image>\nPlease locate <ref>disc</ref>."
    for _ in range(2):
        image = rng.integers(0, 256, (60, 40, 3)).astype(np.uint8)
        free = reader.ask(image, question, max_new_tokens=150)
        assert parse(free.text).regions == ()
        held = reader.ask(image, question, max_new_tokens=150, grammar=box_grammar(LABELS))
        whole(held.text, LABELS)


def test_grammar_that_is_none_is_refused(reader, images):
    with pytest.raises(ModelError, match="grammar"):
        reader.ask(images[0], DETECTION, grammar="start: nowhere")


def test_reading_says_whether_its_detection_was_constrained(reader, tmp_path):
    phantom(31, 0)[0].save_as(tmp_path / "one.dcm", enforce_file_format=True)
    (study,), _ = load_studies([tmp_path])
    for constrained in (True, False):
        plan = load_plans()["phantom"].model_copy(update={"tasks": ("detection",), "constrained": constrained})
        assert read_study(study, plan, reader).decoding["constrained"] is constrained
