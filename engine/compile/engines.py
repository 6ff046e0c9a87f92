"""Steps 3, 5 and 6, and calibrated checkpoints: NVIDIA's own tools, called on a GPU host. Kept thin: none of it runs
elsewhere."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.compile.calibration import calibration_lines
from engine.compile.manifest import Manifest, Report
from engine.compile.vision import GRAPH
from engine.errors import ModelError
from engine.model.config import MedregaConfig
from engine.runtime.protocol import Rgb, Runtime

TENSORRT_LLM: Final = "1.2.1"
VISION_ENGINE: Final = "vision/model.engine"
_LONGEST: Final = 4096
_QUESTIONS: Final = (
    "<image>\nDescribe the image.",
    "You are a helpful medical assistant. <image>\nPlease locate <ref>disc</ref> in this X-ray image.",
    "你是一个医疗助手。<image>\n请描述这张医学影像。",
)


def gpu_name() -> str | None:
    """Name of the first GPU and its driver, as ``nvidia-smi`` says; None where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def longest(config: MedregaConfig) -> int:
    """Tokens of a question and its answer that the engine is built for."""
    return min(config.decoder.max_position_embeddings, _LONGEST)


def vision_command(out: Path, config: MedregaConfig, max_batch: int) -> list[str]:
    """Command that builds the vision engine, for one image up to `max_batch`."""
    size = config.vision.image_size
    shapes = [f"--{kind}Shapes=input:{batch}x3x{size}x{size}" for kind, batch in (("min", 1), ("opt", 1))]
    return [
        "trtexec",
        f"--onnx={out / GRAPH}",
        f"--saveEngine={out / VISION_ENGINE}",
        "--bf16",
        *shapes,
        f"--maxShapes=input:{max_batch}x3x{size}x{size}",
        "--skipInference",
    ]


def decoder_command(out: Path, config: MedregaConfig, max_batch: int) -> list[str]:
    """Command that builds the decoder's engine: paged cache with reuse, one beam, room for an image a request."""
    options = {
        "checkpoint_dir": out / "checkpoint",
        "output_dir": out / "engine",
        "max_batch_size": max_batch,
        "max_input_len": longest(config) - 1,
        "max_seq_len": longest(config),
        "max_num_tokens": max(8192, longest(config)),
        "max_beam_width": 1,
        "max_multimodal_len": max_batch * config.image_tokens,
        "kv_cache_type": "paged",
        "gemm_plugin": "auto",
        "gpt_attention_plugin": "auto",
        "use_paged_context_fmha": "enable",
    }
    return ["trtllm-build", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def build(source: Path, manifest: Manifest, config: MedregaConfig, ranks: int, max_batch: int, report: Report) -> None:
    """Build both engines and hold the result against PyTorch.

    Where their answers part is noted in the manifest: rounding decides between two tokens that are as likely.

    Raises
    ------
    ModelError
        If the host lacks a tool or a GPU, or a tool fails.
    """
    settings = {"tensor_parallel": ranks, "max_batch": max_batch, "checkpoint": manifest.digest_of("checkpoint")}
    if manifest.is_done("engine", settings):
        return
    _require("engine", "trtexec", "trtllm-build")
    out = manifest.folder
    (out / "engine").mkdir(exist_ok=True)
    for place, command in enumerate((vision_command(out, config, max_batch), decoder_command(out, config, max_batch))):
        report("engine", place, 3)
        _call(command, out / "engine" / f"{command[0]}.log")
    report("engine", 2, 3)
    engines = [VISION_ENGINE, "engine/config.json", *(f"engine/rank{rank}.engine" for rank in range(ranks))]
    manifest.adopt("engine", engines, settings)
    from engine.runtime import load_runtime

    reference, engine = load_runtime("torch", str(source)), load_runtime("tensorrt_llm", str(out))
    try:
        parted = self_test(reference, engine)
    finally:
        reference.close()
        engine.close()
    manifest.finish("engine", self_test=[part.__dict__ for part in parted])
    report("engine", 3, 3)


@dataclass(frozen=True)
class Parted:
    """A question to which two runtimes gave different tokens.

    Parameters
    ----------
    image, question : int
        Which of the self test's.
    step : int
        Index of the first token that differs.
    margin : float
        By how much the reference preferred its token, as a difference of log-probabilities of the two answers there.
    """

    image: int
    question: int
    step: int
    margin: float


def self_test(reference: Runtime, engine: Runtime, images: int = 4, max_new_tokens: int = 64) -> list[Parted]:
    """Ask both runtimes the same questions about the same images; where their greedy tokens part.

    Parameters
    ----------
    reference, engine : Runtime
    images : int
        How many images, each a smooth random pattern that is the same on every machine.
    max_new_tokens : int
    """
    found = []
    for number in range(images):
        image = _pattern(number)
        for place, question in enumerate(_QUESTIONS):
            ours, theirs = (one.ask(image, question, max_new_tokens=max_new_tokens) for one in (reference, engine))
            if ours.token_ids != theirs.token_ids:
                pairs = zip(ours.token_ids, theirs.token_ids, strict=False)
                shorter = min(len(ours.token_ids), len(theirs.token_ids))
                step = next((at for at, (a, b) in enumerate(pairs) if a != b), shorter)
                inside = step < min(len(ours.logprobs), len(theirs.logprobs))
                margin = abs(ours.logprobs[step] - theirs.logprobs[step]) if inside else 0.0
                found.append(Parted(number, place, step, margin))
    return found


def _pattern(seed: int) -> Rgb:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.float64)
    return np.kron(coarse, np.ones((32, 32, 1))).astype(np.uint8)


def quantize(manifest: Manifest, dtype: str, ranks: int, settings: dict[str, Any]) -> None:
    """Calibrate and write the checkpoint by NVIDIA ModelOpt, as TensorRT-LLM wraps it.

    Raises
    ------
    ModelError
        If the host lacks it, or it fails.
    """
    if manifest.is_done("checkpoint", settings):
        return
    _require(f"checkpoint in {dtype}", modules=("tensorrt_llm", "modelopt"))
    out = manifest.folder
    code = (
        "import json, sys\n"
        "from tensorrt_llm.quantization import quantize_and_export\n"
        "quantize_and_export(**json.loads(sys.argv[1]))\n"
    )
    (out / "checkpoint").mkdir(exist_ok=True)
    (out / "calibration").mkdir(exist_ok=True)
    (out / "calibration" / "train.jsonl").write_bytes(calibration_lines())
    options = {
        "model_dir": str(out / "language"),
        "device": "cuda",
        "calib_dataset": str(out / "calibration"),
        "dtype": "bfloat16",
        "qformat": {"fp8": "fp8", "int4-awq": "int4_awq"}[dtype],
        "kv_cache_dtype": "fp8" if dtype == "fp8" else None,
        "calib_size": 512,
        "batch_size": 1,
        "calib_max_seq_length": 512,
        "awq_block_size": 128,
        "output_dir": str(out / "checkpoint"),
        "tp_size": ranks,
        "pp_size": 1,
        "cp_size": 1,
        "seed": 1234,
        "tokenizer_max_seq_length": 2048,
    }
    command = [sys.executable, "-c", code, json.dumps(options)]
    _call(command, out / "checkpoint" / "modelopt.log")
    files = ["checkpoint/config.json", *(f"checkpoint/rank{rank}.safetensors" for rank in range(ranks))]
    manifest.adopt("checkpoint", files, settings)


def _require(step: str, *tools: str, modules: Sequence[str] = ("tensorrt_llm",)) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    missing += [module for module in modules if importlib.util.find_spec(module) is None]
    if gpu_name() is None:
        missing.insert(0, "an NVIDIA GPU with its driver")
    if missing:
        raise ModelError(
            f"step {step} needs {', '.join(missing)}",
            advice=f"Run the same command on a GPU host, in NVIDIA's container of TensorRT-LLM {TENSORRT_LLM} or with "
            "medrega-pacs[tensorrt] installed; the steps that are done are kept.",
        )


def _call(command: Sequence[str], log: Path) -> None:
    with log.open("wb") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)  # noqa: S603 - our arguments
    if done.returncode:
        raise ModelError(f"{command[0]} failed with status {done.returncode}", advice=f"Its output is in {log}.")
