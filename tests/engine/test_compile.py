"""Compiling: what the TensorRT-LLM checkpoint holds is the source model, and a compile survives being killed."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from engine.compile import STEPS, CompileSettings, Manifest, compile_model, engines
from engine.compile.calibration import calibration_lines
from engine.compile.checkpoint import checkpoint_outputs
from engine.compile.inspection import check_model, describe
from engine.compile.streams import Cut, Entry, Sink, to_bfloat16
from engine.errors import ModelError
from engine.model.config import MedregaConfig
from engine.model.export import export
from engine.model.preprocess import preprocess
from engine.model.stored import stored_tensors
from engine.model.tokenizer import Tokenizer, chat
from engine.runtime.generation import GreedyRuntime
from engine.runtime.onnx import OnnxRuntime
from engine.runtime.torch import TorchRuntime
from tests.engine.toy import write_toy

torch.set_num_threads(1)
PARALLEL_CHECKPOINT = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2}
PROMPTS = [
    "You are a helpful medical assistant. <image>\nPlease locate <ref>disc</ref> in this X-ray image.",
    "<image>\nWhat is <ref>this</ref><box>[[1, 22, 333, 999]]</box> in this X-ray image?",
    "你是一个医疗助手，你需要根据医学图像回答问题。<image>\n图中<ref>这个区域</ref>是什么？",
    "<image>",
]


def _quiet(step: str, done: int, total: int) -> None:
    assert 0 <= done <= total, step


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (60 + seed, 50, 3)).astype(np.uint8)


class RankedForward:
    """A Llama from a TensorRT-LLM checkpoint, written out rank by rank: what each holds, summed as the ranks would."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        ranks = range(self.config["mapping"]["tp_size"])
        self.ranks = [{k: v.float() for k, v in load_file(folder / f"rank{r}.safetensors").items()} for r in ranks]

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["norm_epsilon"]) * weight

    def _attend(self, x: torch.Tensor, w: dict[str, torch.Tensor], prefix: str) -> torch.Tensor:
        head, length = self.config["head_size"], len(x)
        queries = self.config["num_attention_heads"] // len(self.ranks)
        shared = max(1, self.config["num_key_value_heads"] // len(self.ranks))
        qkv = (x @ w[f"{prefix}attention.qkv.weight"].T).view(length, queries + 2 * shared, head).transpose(0, 1)
        frequencies = self.config["rotary_base"] ** (-torch.arange(0, head, 2) / head)
        angles = torch.arange(length)[:, None] * frequencies
        cos, sin = angles.cos(), angles.sin()

        def rotate(y: torch.Tensor) -> torch.Tensor:
            a, b = y[..., : head // 2], y[..., head // 2 :]
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        outputs = []
        for index in range(queries):
            mine = queries + index // (queries // shared)
            scores = rotate(qkv[index]) @ rotate(qkv[mine]).T / head**0.5
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            outputs.append(scores.softmax(-1) @ qkv[mine + shared])
        return torch.cat(outputs, -1) @ w[f"{prefix}attention.dense.weight"].T

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[length, hidden] to the last position's logits."""
        first = self.ranks[0]
        for layer in range(self.config["num_hidden_layers"]):
            p = f"transformer.layers.{layer}."
            normed = self._norm(x, first[f"{p}input_layernorm.weight"])
            x = x + sum(self._attend(normed, w, p) for w in self.ranks)
            normed = self._norm(x, first[f"{p}post_layernorm.weight"])
            for w in self.ranks:
                gated = functional.silu(normed @ w[f"{p}mlp.fc.weight"].T) * (normed @ w[f"{p}mlp.gate.weight"].T)
                x = x + gated @ w[f"{p}mlp.proj.weight"].T
        last = self._norm(x[-1], first["transformer.ln_f.weight"])
        return torch.cat([w["lm_head.weight"] @ last for w in self.ranks])[: self.config["vocab_size"]]

    def answer(self, prompt: list[int], image: torch.Tensor, context: int, stop: frozenset[int], count: int) -> Any:
        """Greedy tokens, and the logits that each came from."""
        table = self.ranks[0]["transformer.vocab_embedding.weight"]
        ids, seen = list(prompt), []
        while len(ids) < len(prompt) + count:
            x = table[ids].clone()
            x[[place for place, token in enumerate(ids) if token == context]] = image
            seen.append(self.logits(x))
            if (token := int(seen[-1].argmax())) in stop:
                break
            ids.append(token)
        return tuple(ids[len(prompt) :]), seen


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("source") / "toy", seed=7, decoder=PARALLEL_CHECKPOINT, shards=3)


@pytest.fixture(scope="module")
def compiled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compiled") / "out"
    compile_model(source, out, CompileSettings(tensor_parallel=2), "checkpoint", _quiet)
    return out


def _checkpoint(source: Path, out: Path, ranks: int) -> Path:
    """The checkpoint alone, without the vision part's export."""
    compile_model(source, out, CompileSettings(tensor_parallel=ranks), "split", _quiet)
    config = MedregaConfig.from_folder(source).decoder
    Manifest(out).produce("checkpoint", checkpoint_outputs(out / "language", config, ranks), {"ranks": ranks}, _quiet)
    return out / "checkpoint"


class Recorder:
    """A runtime's arithmetic that notes the logits of each step."""

    def __init__(self, arithmetic: Any) -> None:
        self.arithmetic, self.logits = arithmetic, list[np.ndarray]()
        self.image_tokens, self.end = arithmetic.image_tokens, arithmetic.end

    def begin(self, ids: list[int], image: np.ndarray, context: int) -> Any:
        return self._note(self.arithmetic.begin(ids, image, context))

    def step(self, token: int, state: Any) -> Any:
        return self._note(self.arithmetic.step(token, state))

    def _note(self, answered: Any) -> Any:
        self.logits.append(answered[0])
        return answered


def _compare(
    source: Path,
    checkpoint: Path,
    vision: Callable[[np.ndarray], np.ndarray],
    pairs: int,
    others: Sequence[GreedyRuntime] = (),
) -> float:
    """Same tokens by PyTorch from the source, from the checkpoint, and by others; the largest difference of a logit."""
    runtime, tokenizer, config = (
        TorchRuntime(source, device="cpu"),
        Tokenizer(source),
        MedregaConfig.from_folder(source),
    )
    forward, largest = RankedForward(checkpoint), 0.0
    for number in range(pairs):
        image, question = _image(number // len(PROMPTS)), PROMPTS[number % len(PROMPTS)]
        answers, logits = [], []
        for one in (runtime, *others):
            one._arithmetic = recorder = Recorder(getattr(one._arithmetic, "arithmetic", one._arithmetic))
            answers.append(one.ask(image, question, max_new_tokens=6))
            logits.append(np.stack(recorder.logits))
        expected = answers[0]
        said = {(answer.token_ids, answer.prompt_token_ids) for answer in answers}
        assert said == {(expected.token_ids, expected.prompt_token_ids)}
        tokens = torch.from_numpy(vision(preprocess(image, config.vision.image_size)[None]))[0]
        prompt = tokenizer.encode(chat(question, config.image_tokens))
        ids, seen = forward.answer(prompt, tokens, tokenizer.image_context_id, tokenizer.stop_ids, 6)
        assert ids == expected.token_ids
        logits.append(torch.stack(seen).numpy())
        largest = max(largest, *(float(np.abs(one - logits[0]).max()) for one in logits[1:]))
    return largest


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_checkpoint_of_any_number_of_ranks_is_the_source_model(source: Path, tmp_path: Path, ranks: int) -> None:
    checkpoint = _checkpoint(source, tmp_path / "out", ranks)
    arithmetic = TorchRuntime(source, device="cpu")._arithmetic
    difference = _compare(source, checkpoint, arithmetic.image_tokens, pairs=4)
    print(f"{ranks} ranks: largest difference of a logit {difference:.1e}")
    assert difference < 1e-4


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_torch_onnx_and_the_checkpoint_give_the_same_tokens_on_20_pairs(
    tmp_path: Path, version: str, normalized: bool
) -> None:
    source = write_toy(tmp_path / "toy", seed=3, vision={"qk_normalization": normalized}, ps_version=version)
    config = MedregaConfig.from_folder(source)
    assert config.decoder.num_key_value_heads < config.decoder.num_attention_heads  # grouped queries
    out = tmp_path / "out"
    manifest = compile_model(source, out, CompileSettings(tensor_parallel=2), "checkpoint", _quiet)
    graph = onnxruntime.InferenceSession(out / "vision" / "vision.onnx", providers=["CPUExecutionProvider"])
    assert [graph.get_inputs()[0].name, graph.get_outputs()[0].name] == ["input", "encoder_output"]
    assert manifest.record["steps"]["onnx"]["largest_difference"] < 1e-4
    export(source)
    onnx = OnnxRuntime(source, threads=1)
    checkpoint = out / "checkpoint"
    difference = _compare(source, checkpoint, lambda pixels: graph.run(None, {"input": pixels})[0], 20, [onnx])
    print(f"{version}, q and k normalised {normalized}: largest difference of a logit {difference:.1e} over 20 pairs")
    assert difference < 1e-3


def test_names_shapes_and_configuration_are_those_of_tensorrt_llm(source: Path, compiled: Path) -> None:
    config = MedregaConfig.from_folder(source).decoder
    written = json.loads((compiled / "checkpoint" / "config.json").read_text())
    assert written.keys() == {
        "architecture", "dtype", "logits_dtype", "vocab_size", "max_position_embeddings", "hidden_size",
        "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_size", "hidden_act",
        "intermediate_size", "norm_epsilon", "position_embedding_type", "rotary_base", "rotary_scaling", "attn_bias",
        "mlp_bias", "mapping", "quantization",
    }  # fmt: skip
    assert written["mapping"] == {"world_size": 2, "tp_size": 2, "pp_size": 1}
    assert (written["architecture"], written["position_embedding_type"]) == ("LlamaForCausalLM", "rope_gpt_neox")
    for rank in range(2):
        tensors = load_file(compiled / "checkpoint" / f"rank{rank}.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
        head = -(-config.vocab_size // 2)
        expected = {
            "transformer.vocab_embedding.weight": (config.vocab_size, 64),
            "transformer.ln_f.weight": (64,),
            "lm_head.weight": (head, 64),
        }
        for layer in range(2):
            expected |= {
                f"transformer.layers.{layer}.{name}.weight": shape
                for name, shape in {
                    "input_layernorm": (64,),
                    "attention.qkv": (32 + 8 + 8, 64),
                    "attention.dense": (64, 32),
                    "post_layernorm": (64,),
                    "mlp.fc": (32, 64),
                    "mlp.gate": (32, 64),
                    "mlp.proj": (64, 32),
                }.items()
            }
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected


def test_q_k_and_v_are_fused_by_heads(compiled: Path) -> None:
    language = {}
    for shard in sorted((compiled / "language").glob("*.safetensors")):
        language |= load_file(shard)
    q, k, v = (language[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv")
    second = load_file(compiled / "checkpoint" / "rank1.safetensors")
    assert torch.equal(second["transformer.layers.1.attention.qkv.weight"], torch.cat([q[32:], k[8:], v[8:]]))
    assert torch.equal(
        second["transformer.layers.1.mlp.fc.weight"], language["model.layers.1.mlp.gate_proj.weight"][32:]
    )


def test_the_language_part_is_a_plain_llama_folder(source: Path, compiled: Path) -> None:
    from transformers import LlamaForCausalLM

    llama = LlamaForCausalLM.from_pretrained(compiled / "language", dtype=torch.float32).eval()
    from engine.model.weights import load_model

    model = load_model(source, device="cpu", dtype=torch.float32).language_model
    ids = torch.arange(3, 19)[None]
    with torch.inference_mode():
        ours, _ = model(model.model.embed_tokens(ids))
        torch.testing.assert_close(ours, llama(ids).logits, rtol=1e-4, atol=1e-4)
    assert Tokenizer(compiled / "language").encode(PROMPTS[0]) == Tokenizer(source).encode(PROMPTS[0])


def test_every_tensor_of_the_source_is_in_one_part(source: Path, compiled: Path) -> None:
    whole, parts = stored_tensors(source), stored_tensors(compiled / "language")
    named = {f"language_model.{name}": place for name, place in parts.items()} | stored_tensors(compiled / "vision")
    assert named.keys() == whole.keys()
    for name, place in named.items():
        read = [one.file.read_bytes()[one.offset : one.offset + one.length] for one in (place, whole[name])]
        assert read[0] == read[1]


def _digests(out: Path) -> dict[str, str]:
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in ("manifest.json", ".lock")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


DIE = """
import os, signal, sys
from pathlib import Path
from engine.compile import CompileSettings, compile_model
step, count = sys.argv[3], int(sys.argv[4])
def report(now, done, total):
    global count
    count -= now == step
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
compile_model(Path(sys.argv[1]), Path(sys.argv[2]), CompileSettings(tensor_parallel=2), "checkpoint", report)
"""


def test_a_killed_compile_run_again_ends_with_the_same_digests(source: Path, compiled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for step, reports in (("split", 12), ("onnx", 2), ("checkpoint", 9)):
        command = [sys.executable, "-W", "ignore", "-c", DIE, str(source), str(out), step, str(reports)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert Manifest(out).record["steps"]["checkpoint"]["done"] is False
    assert list(out.rglob("*.part"))  # it died while it wrote
    manifest = compile_model(source, out, CompileSettings(tensor_parallel=2), "checkpoint", _quiet)
    assert _digests(out) == _digests(compiled)
    assert manifest.digest == Manifest(compiled).digest
    assert check_model(out, _quiet) == []


def test_what_is_there_is_kept_and_what_was_damaged_is_made_again(source: Path, compiled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(compiled, out)
    expected = _digests(out)
    damaged = out / "checkpoint" / "rank1.safetensors"
    with damaged.open("r+b") as stream:
        stream.seek(-3, 2)
        stream.write(b"\xff")
    (out / "language" / "config.json").unlink()
    assert check_model(out, _quiet) == [
        "checkpoint/rank1.safetensors is missing or was changed",
        "language/config.json is missing or was changed",
    ]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    compile_model(source, out, CompileSettings(tensor_parallel=2), "checkpoint", _quiet)
    assert _digests(out) == expected
    assert [path for path in before if path.stat().st_mtime_ns != before[path]] == [damaged]


def test_other_settings_replace_the_ranks(source: Path, compiled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(compiled, out)
    compile_model(source, out, CompileSettings(tensor_parallel=1), "checkpoint", _quiet)
    assert [path.name for path in sorted((out / "checkpoint").iterdir())] == ["config.json", "rank0.safetensors"]
    assert Manifest(out).digest != Manifest(compiled).digest


def test_the_manifest_names_every_input_and_output(source: Path, compiled: Path) -> None:
    record = Manifest(compiled).record
    for name, digest in record["source"].items():
        assert hashlib.sha256((source / name).read_bytes()).hexdigest() == digest
    assert {"config.json", "tokenizer.model", "model-00003-of-00003.safetensors"} <= record["source"].keys()
    assert _digests(compiled) == {name: output["sha256"] for name, output in Manifest(compiled).outputs().items()}
    assert record["settings"] == {"dtype": "bf16", "tensor_parallel": 2, "max_batch": 8}
    assert record["versions"]["medrega-pacs"]
    assert set(record["steps"]) == set(STEPS) - {"engine"}


def test_a_disk_that_fills_up_stops_the_compile_which_then_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = 0, Sink.write

    def full(self: Sink, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > 30_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Sink, "write", full)
        with pytest.raises(ModelError, match="became full in step split"):
            compile_model(source, tmp_path / "out", CompileSettings(), "split", _quiet)
    assert not list((tmp_path / "out").rglob("*.part"))
    compile_model(source, tmp_path / "out", CompileSettings(), "split", _quiet)
    assert check_model(tmp_path / "out", _quiet) == []


def test_a_disk_without_room_is_refused_at_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelError, match=r"until step split needs [0-9.]+ KB on the disk .* 50\.0 KB are free"):
        compile_model(source, tmp_path / "out", CompileSettings(), "split", _quiet)


STREAM = """
import resource, sys
from pathlib import Path
from engine.compile.checkpoint import checkpoint_outputs
from engine.compile.manifest import Manifest
from engine.compile.split import split_outputs
from engine.model.config import MedregaConfig
from engine.model.stored import stored_tensors
source, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir()
config, manifest = MedregaConfig.from_folder(source), Manifest(out)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
manifest.produce("split", split_outputs(source, config, stored_tensors(source)), {}, lambda *_: None)
manifest.produce("checkpoint", checkpoint_outputs(out / "language", config.decoder, 2), {}, lambda *_: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_weights_are_streamed_and_never_whole_in_memory(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "toy")
    config = json.loads((source / "config.json").read_text())
    hidden, wide = 1024, 40960
    config["llm_config"] |= {"hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": 1}
    (source / "config.json").write_text(json.dumps(config))
    vocabulary = config["llm_config"]["vocab_size"]
    layer = "language_model.model.layers.0."
    shapes = {
        "mlp1.3.bias": (hidden,),
        "language_model.model.embed_tokens.weight": (vocabulary, hidden),
        "language_model.lm_head.weight": (vocabulary, hidden),
        "language_model.model.norm.weight": (hidden,),
        f"{layer}input_layernorm.weight": (hidden,),
        f"{layer}post_attention_layernorm.weight": (hidden,),
        f"{layer}self_attn.q_proj.weight": (hidden, hidden),
        f"{layer}self_attn.k_proj.weight": (hidden // 2, hidden),
        f"{layer}self_attn.v_proj.weight": (hidden // 2, hidden),
        f"{layer}self_attn.o_proj.weight": (hidden, hidden),
        f"{layer}mlp.gate_proj.weight": (wide, hidden),
        f"{layer}mlp.up_proj.weight": (wide, hidden),
        f"{layer}mlp.down_proj.weight": (hidden, wide),
    }
    save_file(
        {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, source / "model.safetensors"
    )
    command = [sys.executable, "-c", STREAM, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown = int(done.stdout) * 1024
    assert (source / "model.safetensors").stat().st_size > 250e6
    assert grown < 120e6
    assert (tmp_path / "out" / "checkpoint" / "rank1.safetensors").stat().st_size > 125e6
    shutil.rmtree(tmp_path / "out")


def test_rounding_to_bfloat16_is_pytorch_s() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    values = np.concatenate([bits.view(np.float32), np.float32([0.0, -0.0, np.inf, -np.inf, 1.0, 3.3895e38, 1e-45])])
    expected = torch.from_numpy(values).to(torch.bfloat16)
    ours = torch.from_numpy(to_bfloat16(values[:, None])[:, 0].view(np.int16)).view(torch.bfloat16)
    assert torch.equal(ours.isnan(), expected.isnan())
    assert torch.equal(ours.nan_to_num(7.0).view(torch.int16), expected.nan_to_num(7.0).view(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_of_other_types_are_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    matrix = torch.randn(7, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    save_file({"a": matrix}, tmp_path / "model.safetensors")
    entry = Entry("a", [Cut(stored_tensors(tmp_path)["a"], (2, 6), (1, 4))], "BF16", padding=1)
    data = b"".join(entry.blocks())
    ours = torch.frombuffer(bytearray(data), dtype=torch.bfloat16).view(entry.shape)
    assert torch.equal(ours[:4], matrix[2:6, 1:4].to(torch.bfloat16))
    assert not ours[4].any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tensor_parallel": 3}, "none of 1, 2, 4, 8"),
        ({"tensor_parallel": 0}, "none of 1, 2, 4, 8"),
        ({"dtype": "int8"}, "none of bf16, fp8, int4-awq"),
        ({"max_batch": 0}, "holds nothing"),
    ],
)
def test_wrong_settings_are_refused(source: Path, tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        compile_model(source, tmp_path / "out", CompileSettings(**settings), "split", _quiet)
    assert not (tmp_path / "out").exists()


def test_ranks_that_the_heads_do_not_divide_into_are_refused(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "toy")
    with pytest.raises(ModelError, match="4 attention heads cannot be shared by 8 ranks"):
        compile_model(source, tmp_path / "out", CompileSettings(tensor_parallel=8), "split", _quiet)


@pytest.mark.parametrize("name", ["Vila", "llava-1", "exaone"])
def test_a_path_that_tensorrt_llm_takes_for_another_model_is_refused(source: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="another model's"):
        compile_model(source, tmp_path / name / "out", CompileSettings(), "split", _quiet)


def test_a_source_that_does_not_fit_is_refused_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    (broken / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00002-of-00003"):
        compile_model(broken, tmp_path / "out", CompileSettings(), "split", _quiet)
    config = json.loads((source / "config.json").read_text())
    config["llm_config"]["vocab_size"] -= 1
    (broken / "config.json").write_text(json.dumps(config))
    shutil.copy(source / "model-00002-of-00003.safetensors", broken)
    with pytest.raises(ModelError, match=r"has shape \(\d+, 64\), expected"):
        compile_model(broken, tmp_path / "out", CompileSettings(), "split", _quiet)
    assert not (tmp_path / "out").exists()


def test_two_compiles_do_not_share_a_folder(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with Manifest(tmp_path / "out").locked(), pytest.raises(ModelError, match="another compile"):
        compile_model(source, tmp_path / "out", CompileSettings(), "split", _quiet)


def test_steps_of_a_gpu_host_say_what_is_missing(
    source: Path, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(compiled, out)
    monkeypatch.setattr(engines, "gpu_name", lambda: None)
    with pytest.raises(ModelError, match="step engine needs an NVIDIA GPU") as caught:
        compile_model(source, out, CompileSettings(tensor_parallel=2), "engine", _quiet)
    assert "1.2.1" in caught.value.advice
    assert _digests(out) == _digests(compiled)
    for dtype in ("fp8", "int4-awq"):
        with pytest.raises(ModelError, match=f"step checkpoint in {dtype} needs an NVIDIA GPU"):
            compile_model(source, out, CompileSettings(dtype=dtype, tensor_parallel=2), "checkpoint", _quiet)  # type: ignore[arg-type]


def test_the_tools_of_a_gpu_host_are_called_with_what_the_model_needs(source: Path) -> None:
    config = MedregaConfig.from_folder(source)
    command = engines.decoder_command(Path("out"), config, 8)
    assert command[0] == "trtllm-build"
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--max_multimodal_len"] == str(8 * config.image_tokens)
    assert options["--max_beam_width"] == "1"
    assert options["--use_paged_context_fmha"] == "enable"
    assert options["--max_seq_len"] == "512"
    assert "--maxShapes=input:8x3x56x56" in engines.vision_command(Path("out"), config, 8)


def test_the_self_test_says_where_answers_part(source: Path, tmp_path: Path) -> None:
    other = TorchRuntime(write_toy(tmp_path, seed=8, decoder=PARALLEL_CHECKPOINT), device="cpu")
    reference = TorchRuntime(source, device="cpu")
    assert engines.self_test(reference, reference, images=1, max_new_tokens=4) == []
    parted = engines.self_test(reference, other, images=2, max_new_tokens=4)
    assert parted
    assert all(0 <= part.step <= 4 and part.image in (0, 1) for part in parted)


def test_calibration_texts_are_the_model_s_own_prompts() -> None:
    lines = [json.loads(line)["text"] for line in calibration_lines(64).decode().splitlines()]
    assert len(lines) == len(set(lines)) == 64
    assert all(re.match(r"<\|im_start\|>system\n.*<\|im_end\|>$", line, re.DOTALL) for line in lines)
    assert any("图" in line for line in lines)


def test_a_model_is_described(source: Path, compiled: Path) -> None:
    checkpoint, compile_ = describe(source), describe(compiled)
    assert checkpoint["kind"] == "checkpoint"
    assert checkpoint["files"] == 3
    assert checkpoint["stored_as"] == "BF16"
    assert compile_["kind"] == "compile"
    assert compile_["digest"] == Manifest(compiled).digest
    with pytest.raises(ModelError, match="no model"):
        describe(source / "nothing")
