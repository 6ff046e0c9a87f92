"""The TensorRT-LLM runtime against the signatures of TensorRT-LLM 1.2.1's public source; there is no GPU here."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.compile import CompileSettings, Manifest, compile_model
from engine.errors import ModelError, ReadingCancelledError, RuntimeLostError
from engine.grammar import box_grammar
from engine.model.tokenizer import Tokenizer
from engine.runtime import CancelToken, Runtime, load_runtime
from engine.runtime.ebnf import ebnf
from engine.runtime.torch import TorchRuntime
from tests.engine import tensorrt_llm_fake
from tests.engine.toy import write_toy

torch.set_num_threads(1)
QUESTION = "You are a helpful medical assistant. <image>\nPlease locate <ref>disc</ref> 圆盘 in this X-ray image."


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("source") / "toy", seed=11)


@pytest.fixture(scope="module")
def compiled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compile's folder whose engines are files that only the fake takes."""
    out = tmp_path_factory.mktemp("compiled") / "out"
    manifest = compile_model(source, out, CompileSettings(max_batch=4), "split", lambda *_: None)
    (out / "engine").mkdir()
    (out / "vision" / "model.engine").write_bytes(b"vision")
    (out / "engine" / "config.json").write_text("{}")
    manifest.adopt("engine", ["vision/model.engine", "engine/config.json"], {})
    return out


@pytest.fixture
def reference(source: Path) -> TorchRuntime:
    """The same model in PyTorch, its image tokens rounded as the engine gets them."""
    runtime = TorchRuntime(source, device="cpu")
    exact = runtime._arithmetic.image_tokens
    runtime._arithmetic.image_tokens = lambda pixels: torch.from_numpy(exact(pixels)).bfloat16().float().numpy()
    return runtime


@pytest.fixture
def nvidia(source: Path, reference: TorchRuntime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """NVIDIA's modules as their sources declare them, and a GPU that is the CPU."""
    model = reference.model
    for name, module in tensorrt_llm_fake.modules(model, Tokenizer(source).stop_ids).items():
        monkeypatch.setitem(sys.modules, name, module)

    class Stream:
        cuda_stream = 0

        def synchronize(self) -> None: ...

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1, 1))
    module = importlib.import_module("engine.runtime.tensorrt_llm")
    monkeypatch.setattr(module, "_DEVICE", "cpu")
    yield module
    del sys.modules["engine.runtime.tensorrt_llm"]  # it is bound to these modules


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (80, 50, 3)).astype(np.uint8)


def test_it_answers_as_pytorch_does_and_says_what_it_is(nvidia: Any, compiled: Path, reference: TorchRuntime) -> None:
    runtime = load_runtime("tensorrt_llm", str(compiled))
    assert isinstance(runtime, nvidia.TensorrtLlmRuntime)
    assert isinstance(runtime, Runtime)
    for seed in range(3):
        ours, theirs = (one.ask(_image(seed), QUESTION, max_new_tokens=12) for one in (runtime, reference))
        assert (ours.token_ids, ours.text, ours.finish) == (theirs.token_ids, theirs.text, theirs.finish)
        assert (ours.prompt_token_ids, ours.offsets) == (theirs.prompt_token_ids, theirs.offsets)
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
    assert runtime.identity.weights_digest == reference.identity.weights_digest
    assert runtime.identity.engine_build == f"tensorrt_llm 1.2.1 {Manifest(compiled).digest}"
    assert runtime.decoding["dtype"] == "bf16"
    runtime.close()
    assert not runtime.healthy
    with pytest.raises(RuntimeLostError):
        runtime.ask(_image(0), QUESTION)


def test_many_threads_ask_at_once(nvidia: Any, compiled: Path, reference: TorchRuntime) -> None:
    runtime = nvidia.TensorrtLlmRuntime(compiled)
    answers: dict[int, Any] = {}
    asking = [
        threading.Thread(target=lambda n=n: answers.update({n: runtime.ask(_image(n % 3), QUESTION, max_new_tokens=5)}))
        for n in range(9)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    expected = [reference.ask(_image(n), QUESTION, max_new_tokens=5).token_ids for n in range(3)]
    assert [answers[n].token_ids for n in range(9)] == expected * 3


def test_no_two_images_share_a_cached_token(nvidia: Any, compiled: Path) -> None:
    runtime = nvidia.TensorrtLlmRuntime(compiled, reuse=True)
    other = _image(0)
    other[-1, -1, -1] ^= 1
    for image in (_image(0), _image(0), other):
        runtime.ask(image, QUESTION, max_new_tokens=1)
    first, again, changed = runtime._executor.requests
    vocabulary = runtime.config.decoder.vocab_size
    images = [place for place, token in enumerate(first.input_token_ids) if token >= vocabulary]
    assert [first.input_token_ids[place] - vocabulary for place in images] == list(range(runtime.config.image_tokens))
    extra = [request.prompt_tuning_config.input_token_extra_ids for request in (first, again, changed)]
    assert extra[0] == extra[1]
    assert {place for place, number in enumerate(extra[0]) if number} == set(images)
    assert not any(extra[0][place] == extra[2][place] for place in images)
    assert first.input_token_ids == changed.input_token_ids  # only the extra ids tell them apart
    assert runtime._executor.executor_config.kv_cache_config.enable_block_reuse
    assert not nvidia.TensorrtLlmRuntime(compiled)._executor.executor_config.kv_cache_config.enable_block_reuse


def test_a_cancelled_question_leaves_the_batch(nvidia: Any, compiled: Path) -> None:
    runtime = nvidia.TensorrtLlmRuntime(compiled)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(ReadingCancelledError):
        runtime.ask(_image(0), QUESTION, cancel=cancel)
    future, cancelled = runtime._executor.running[0]
    assert cancelled.is_set()
    assert future.done()
    assert runtime.healthy


def test_a_lost_gpu_ends_every_question_with_an_error_that_is_tried_again(nvidia: Any, compiled: Path) -> None:
    runtime = nvidia.TensorrtLlmRuntime(compiled)
    runtime.ask(_image(0), QUESTION, max_new_tokens=1)
    runtime._executor.broken.set()
    with pytest.raises(RuntimeLostError) as caught:
        runtime.ask(_image(0), QUESTION)
    assert caught.value.retry

    def fault(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error")

    runtime = nvidia.TensorrtLlmRuntime(compiled)
    runtime._executor._enqueue_request = fault
    with pytest.raises(RuntimeLostError, match="the GPU or its engine failed"):
        runtime.ask(_image(0), QUESTION)
    assert not runtime.healthy


def test_a_grammar_and_several_gpus_are_asked_for_by_names_that_are_there(nvidia: Any, compiled: Path) -> None:
    runtime = nvidia.TensorrtLlmRuntime(compiled)
    grammar = box_grammar(["disc", 'a "b"'])
    runtime.ask(_image(0), QUESTION, max_new_tokens=1, grammar=grammar)
    guided = runtime._executor.requests[0].guided_decoding_params
    assert (guided.guide_type.name, guided.guide) == ("EBNF_GRAMMAR", ebnf(grammar))
    configured = runtime._executor.executor_config.guided_decoding_config
    assert len(configured.encoded_vocab) == runtime.config.decoder.vocab_size
    assert configured.encoded_vocab[runtime.tokenizer.token_id("<ref>")] == "<ref>"
    settings = {"tensor_parallel": 2, "max_batch": 4}
    parallel = nvidia._executor_config(runtime.config, runtime.tokenizer, settings, False).parallel_config
    assert parallel.communication_mode.name == "ORCHESTRATOR"
    assert parallel.orchestrator_config.worker_executable_path == "/opt/tensorrt_llm/bin/executorWorker"


def test_a_grammar_means_the_same_in_ebnf() -> None:
    assert ebnf('start: NOTHING | <ref> NAME </ref> (N)*\nNAME: " "? ("a" | "肿块")\nN: /0|[1-9][0-9]{0,2}/') == (
        'root ::= NOTHING | "<ref>" NAME "</ref>" (N)*\nNAME ::= " "? ("a" | "肿块")\nN ::= ("0"|[1-9][0-9]{0,2})'
    )


def test_what_the_list_does_not_hold_is_refused(nvidia: Any) -> None:
    with pytest.raises(TypeError):
        nvidia.trtllm.Request(input_token_ids=[1], max_tokens=1, prompt_table=None)
    with pytest.raises(TypeError):
        nvidia.trtllm.Request([1], 1, False)  # the rest is by keyword
    with pytest.raises(AttributeError):
        _ = nvidia.trtllm.Result().token_ids


def test_a_folder_without_engines_is_refused(nvidia: Any, compiled: Path, source: Path) -> None:
    with pytest.raises(ModelError, match="no compiled engine"):
        nvidia.TensorrtLlmRuntime(source)
    vision = compiled / "vision" / "model.engine"
    vision.write_bytes(b"of another version")
    with pytest.raises(ModelError, match="does not take"):
        nvidia.TensorrtLlmRuntime(compiled)
    vision.write_bytes(b"vision")
