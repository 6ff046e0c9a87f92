"""The steps of a compile, one after the other: see `compile_model`."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

from engine.compile import engines, vision
from engine.compile.checkpoint import check_parallel, checkpoint_outputs
from engine.compile.manifest import STEPS, Manifest, Output, Report, Step
from engine.compile.split import split_outputs
from engine.compile.streams import file_digest
from engine.errors import ModelError
from engine.model.config import MedregaConfig
from engine.model.stored import LANGUAGE, Stored, shards, stored_tensors
from engine.model.tokenizer import TOKENIZER_FILES, Tokenizer
from engine.resources import require_disk

DTYPES: Final = ("bf16", "fp8", "int4-awq")
_BRANCHES: Final = ("llava", "vila", "exaone")
"""TensorRT-LLM takes a path with one of these in it for another model."""
_PACKAGES: Final = ("medrega-pacs", "torch", "onnx", "onnxscript", "onnxruntime", "numpy", "tensorrt_llm")


@dataclass(frozen=True, slots=True)
class CompileSettings:
    """How to compile.

    Parameters
    ----------
    dtype : {"bf16", "fp8", "int4-awq"}
        Of the decoder's weights. The last two are calibrated by NVIDIA ModelOpt, on a GPU host.
    tensor_parallel : {1, 2, 4, 8}
        GPUs that share the decoder.
    max_batch : int
        Questions that the engine answers at the same time.
    """

    dtype: Literal["bf16", "fp8", "int4-awq"] = "bf16"
    tensor_parallel: int = 1
    max_batch: int = 8

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ModelError(f"dtype {self.dtype!r} is none of {', '.join(DTYPES)}")
        if self.max_batch < 1:
            raise ModelError(f"a batch of {self.max_batch} holds nothing")


def compile_model(source: Path, out: Path, settings: CompileSettings, until: Step, report: Report) -> Manifest:
    """Compile a MedRegA folder, or go on with a compile that was stopped.

    Parameters
    ----------
    source : Path
        Hugging Face style ``internvl_chat`` folder.
    out : Path
        Gets ``language/``, ``vision/``, ``checkpoint/``, ``engine/`` and ``manifest.json``.
    settings : CompileSettings
    until : {"split", "onnx", "checkpoint", "engine"}
        The last step to do.
    report : callable
        Told the step, and how many of how many bytes are done.

    Raises
    ------
    ModelError
        If the folder cannot be used, the sizes do not fit the settings, memory or disk do not suffice, or a tool of a
        step is not installed. What is done is kept: the same command goes on from there.
    """
    config, stored = _check(source, out, settings)
    out.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(out)
    with manifest.locked():
        _require_room(manifest, stored, until)
        manifest.begin(_digests(source, report), asdict(settings), _versions())
        for step in STEPS[: STEPS.index(until) + 1]:
            _run(step, source, manifest, settings, config, stored, report)
    return manifest


def _check(source: Path, out: Path, settings: CompileSettings) -> tuple[MedregaConfig, dict[str, Stored]]:
    config = MedregaConfig.from_folder(source)
    check_parallel(config.decoder, settings.tensor_parallel)
    wrong = [word for word in _BRANCHES if word in str(out.resolve()).lower()]
    if wrong:
        raise ModelError(
            f"the output folder's path holds {wrong[0]!r}, which TensorRT-LLM takes for another model's",
            advice="Choose another folder.",
        )
    if out.resolve() == source.resolve():
        raise ModelError("the output folder is the checkpoint's own", advice="Choose another folder.")
    stored = stored_tensors(source)
    try:
        from engine.model.weights import check_tensors
    except ModuleNotFoundError as error:
        raise ModelError(
            f"compiling needs the package {error.name!r}", advice="Install medrega-pacs[compile]."
        ) from error
    check_tensors(config, stored, str(source))
    check_vocabulary(config, Tokenizer(source))
    return config, stored


def check_vocabulary(config: MedregaConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for.

    Raises
    ------
    ModelError
    """
    if tokenizer.size > config.decoder.vocab_size:
        raise ModelError(f"the tokenizer has {tokenizer.size} ids, the model {config.decoder.vocab_size}")


def _require_room(manifest: Manifest, stored: dict[str, Stored], until: Step) -> None:
    """Ask for the disk of all steps before the first: the parts, the checkpoint and the engines are copies."""
    whole = sum(place.length for place in stored.values())
    decoder = sum(math.prod(place.shape) * 2 for name, place in stored.items() if name.startswith(LANGUAGE))
    copies = {"split": whole, "onnx": 0, "checkpoint": decoder, "engine": whole}
    there = sum(record["bytes"] for record in manifest.outputs().values())
    needed = sum(copies[step] for step in STEPS[: STEPS.index(until) + 1]) - there
    require_disk(manifest.folder, needed, f"compiling until step {until}")


def _run(
    step: Step,
    source: Path,
    manifest: Manifest,
    settings: CompileSettings,
    config: MedregaConfig,
    stored: dict[str, Stored],
    report: Report,
) -> None:
    out = manifest.folder
    if step == "split":
        manifest.produce(step, split_outputs(source, config, stored), {}, report)
        manifest.finish(step)
    elif step == "onnx":
        chosen: dict[str, Any] = {"opset": vision.OPSET}
        if manifest.is_done(step, chosen):
            return report(step, 1, 1)
        report(step, 0, 1)
        graph = vision.vision_graph(out / "vision", config)
        manifest.produce(step, [Output.text(vision.GRAPH, graph)], chosen, report)
        manifest.finish(step, largest_difference=vision.check_graph(out / vision.GRAPH, config))
    elif step == "checkpoint":
        chosen = {"dtype": settings.dtype, "tensor_parallel": settings.tensor_parallel}
        if settings.dtype == "bf16":
            outputs = checkpoint_outputs(out / "language", config.decoder, settings.tensor_parallel)
            manifest.produce(step, outputs, chosen, report)
        else:
            engines.quantize(manifest, settings.dtype, settings.tensor_parallel, chosen)
        manifest.finish(step)
    else:
        engines.build(source, manifest, config, settings.tensor_parallel, settings.max_batch, report)
    return None


def _digests(source: Path, report: Report) -> dict[str, str]:
    """SHA-256 of every file of the source that counts."""
    names = ["config.json", "model.safetensors.index.json", *TOKENIZER_FILES]
    files = [source / name for name in names if (source / name).exists()] + shards(source)
    total, done = sum(file.stat().st_size for file in files), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report("digests", done, total)

    return {file.name: file_digest(file, advance) for file in files}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version(), "gpu": engines.gpu_name()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
