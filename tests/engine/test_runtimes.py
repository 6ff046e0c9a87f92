"""ONNX Runtime and PyTorch give the same tokens from the same folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import ModelError, ReadingCancelledError
from engine.model.export import export
from engine.model.static import StaticDecoder
from engine.model.tokenizer import Tokenizer, chat
from engine.runtime import CancelToken, Runtime
from engine.runtime.generation import GreedyRuntime
from engine.runtime.onnx import OnnxRuntime
from engine.runtime.torch import StaticArithmetic, TorchRuntime
from tests.engine.toy import write_toy

torch.set_num_threads(1)
QUESTION = "You are a helpful medical assistant. <image>\nPlease locate <ref>disc</ref> 圆盘 in this X-ray image."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_toy(tmp_path_factory.mktemp("toy"), seed=5)
    export(path)
    return path


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (80, 50, 3)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_onnx_and_torch_give_the_same_tokens(folder: Path, seed: int) -> None:
    answers = [
        runtime.ask(_image(seed), QUESTION, max_new_tokens=25)
        for runtime in (OnnxRuntime(folder, threads=1), TorchRuntime(folder, device="cpu"))
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].prompt_token_ids == answers[1].prompt_token_ids
    np.testing.assert_allclose(answers[0].logprobs, answers[1].logprobs, atol=1e-4)


def test_a_fixed_cache_gives_the_tokens_of_one_that_grows(folder: Path) -> None:
    plain, static = (TorchRuntime(folder, device="cpu") for _ in range(2))
    static._arithmetic = arithmetic = StaticArithmetic(folder, "cpu", torch.float32)
    for seed in range(3):  # the cache is used again for the next question
        answers = [runtime.ask(_image(seed), QUESTION, max_new_tokens=25) for runtime in (plain, static)]
        assert answers[0].token_ids == answers[1].token_ids
        np.testing.assert_allclose(answers[0].logprobs, answers[1].logprobs, atol=1e-4)
    assert arithmetic._idle.qsize() == 1
    embedded = torch.randn((3, 9, 32), generator=torch.Generator().manual_seed(1))
    decoder = arithmetic.model.language_model
    batch = StaticDecoder(decoder, 3, 16)
    chosen = batch.begin(embedded).argmax(-1)
    with torch.inference_mode():
        whole, _ = decoder(torch.cat([embedded, decoder.model.embed_tokens(chosen[:, None])], 1))
    torch.testing.assert_close(batch.step(chosen), whole[:, -1], rtol=1e-4, atol=1e-4)


def test_the_export_of_pixel_shuffle_v2_is_another_model(folder: Path, tmp_path: Path) -> None:
    write_toy(tmp_path, seed=5, ps_version="v2")
    export(tmp_path)
    answers = [OnnxRuntime(path, threads=1).ask(_image(0), QUESTION, max_new_tokens=25) for path in (folder, tmp_path)]
    torch_answer = TorchRuntime(tmp_path, device="cpu").ask(_image(0), QUESTION, max_new_tokens=25)
    assert answers[1].token_ids == torch_answer.token_ids
    assert answers[0].logprobs != answers[1].logprobs


def test_the_export_holds_no_second_copy_of_the_weights_and_no_path(folder: Path) -> None:
    graphs = [(folder / f"{part}.onnx").read_bytes() for part in ("vision", "embed", "decoder")]
    assert sum(map(len, graphs)) < 400_000
    assert not any(b"/engine/" in graph for graph in graphs)


def test_another_image_gives_another_answer_in_the_same_runtime(folder: Path) -> None:
    runtime = OnnxRuntime(folder, threads=1)
    first = runtime.ask(_image(0), QUESTION, max_new_tokens=5)
    other = runtime.ask(_image(1), QUESTION, max_new_tokens=5)
    assert first.logprobs != other.logprobs
    assert runtime.ask(_image(0), QUESTION, max_new_tokens=5) == first


def test_logprobs_are_of_the_tokens_answered(folder: Path) -> None:
    answer = OnnxRuntime(folder, threads=1).ask(_image(2), QUESTION, max_new_tokens=8)
    assert len(answer.logprobs) == len(answer.token_ids) <= 8
    assert all(value <= 0 for value in answer.logprobs)


def test_an_answer_has_at_least_one_token(folder: Path) -> None:
    class Ending:
        """Wants to end at once, and would rather say token 70 than another."""

        def __init__(self, size: int) -> None:
            self.logits = np.zeros(size, np.float32)
            self.logits[[Tokenizer(folder).end_id, 70]] = 9, 5

        def image_tokens(self, pixels: np.ndarray) -> np.ndarray:
            return pixels

        def begin(self, *_: object) -> tuple[np.ndarray, None]:
            return self.logits, None

        step = begin

        def end(self, _: None) -> None: ...

    arithmetic = Ending(Tokenizer(folder).size)
    runtime = GreedyRuntime(folder, arithmetic, runtime="torch", build="", dtype="float32")
    answer = runtime.ask(_image(0), QUESTION)
    assert answer.token_ids == (70,)
    assert answer.finish == "stop"


def test_a_cancelled_reading_stops_between_tokens(folder: Path) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(ReadingCancelledError):
        OnnxRuntime(folder, threads=1).ask(_image(0), QUESTION, cancel=cancel)


def test_both_are_runtimes(folder: Path) -> None:
    for runtime in (OnnxRuntime(folder, threads=1), TorchRuntime(folder, device="cpu")):
        assert isinstance(runtime, Runtime)
        assert len(runtime.identity.weights_digest) == 64
        runtime.close()


def test_a_folder_without_an_export_says_so(tmp_path: Path) -> None:
    write_toy(tmp_path)
    with pytest.raises(ModelError, match="ONNX export"):
        OnnxRuntime(tmp_path)


@pytest.mark.parametrize("text", [chat(QUESTION, 4), "<ref>线对</ref><box>[[1, 22, 333, 999]]</box>：左上部 ½ é\n"])
def test_tokens_decode_to_the_text_they_came_from(folder: Path, text: str) -> None:
    tokenizer = Tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_question_holds_its_image_once() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        chat("no image", 4)
