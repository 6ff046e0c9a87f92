"""What a model's folder holds, and whether it is whole: a checkpoint, or the output of a compile."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from engine.compile.compiler import check_vocabulary
from engine.compile.manifest import NAME, Manifest, Report
from engine.errors import ModelError
from engine.model.config import MedregaConfig
from engine.model.stored import shards, stored_tensors
from engine.model.tokenizer import Tokenizer
from engine.resources import readable
from engine.runtime.generation import identity


def describe(folder: Path) -> dict[str, Any]:
    """What a model is, by name.

    Raises
    ------
    ModelError
        If the folder is no model's.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no model at {folder}", advice="Give a shipped name, or a folder.")
    config = MedregaConfig.from_folder(folder)
    vision, decoder = config.vision, config.decoder
    found: dict[str, Any] = {
        "kind": "compile" if (folder / NAME).exists() else "checkpoint",
        "image": f"{vision.image_size} x {vision.image_size}, {config.image_tokens} tokens",
        "pixel_shuffle": config.ps_version,
        "vision": f"{vision.num_hidden_layers} layers of {vision.hidden_size}, {vision.norm_type}",
        "decoder": f"{decoder.num_hidden_layers} layers of {decoder.hidden_size}, {decoder.num_attention_heads} heads, "
        f"{decoder.num_key_value_heads} for keys and values",
        "vocabulary": decoder.vocab_size,
        "longest": decoder.max_position_embeddings,
    }
    return found | (_compiled(folder) if found["kind"] == "compile" else _checkpoint(folder))


def _checkpoint(folder: Path) -> dict[str, Any]:
    who = identity(folder, "", "")
    stored = stored_tensors(folder)
    values = sum(math.prod(place.shape) for place in stored.values())
    return {
        "name": f"{who.name} {who.version}",
        "weights_digest": who.weights_digest,
        "parameters": values,
        "tensors": len(stored),
        "files": len(shards(folder)),
        "stored_as": ", ".join(sorted({place.dtype for place in stored.values()})),
        "memory_bfloat16": readable(2 * values),
        "memory_float32": readable(4 * values),
        "onnx": all((folder / f"{part}.onnx").exists() for part in ("vision", "embed", "decoder")),
        "commissioning": who.commissioning,
    }


def _compiled(folder: Path) -> dict[str, Any]:
    manifest = Manifest(folder)
    record = manifest.record
    return {
        "digest": manifest.digest,
        "steps": ", ".join(step for step, done in record["steps"].items() if done.get("done")),
        "files": len(manifest.outputs()),
        **record["settings"],
        "versions": ", ".join(f"{name} {value}" for name, value in record["versions"].items() if value),
    }


def check_model(folder: Path, report: Report) -> list[str]:
    """What is wrong with a model's folder, in words; nothing where it is whole.

    Raises
    ------
    ModelError
        If it cannot be looked at: no configuration, a missing shard, a tensor that does not fit.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no model at {folder}", advice="Give a shipped name, or a folder.")
    config = MedregaConfig.from_folder(folder)
    check_vocabulary(config, Tokenizer(folder))
    if (folder / NAME).exists():
        manifest = Manifest(folder)
        unfinished = [step for step, record in manifest.record["steps"].items() if not record.get("done")]
        faults = [f"step {step} was not finished" for step in unfinished]
        return faults + [f"{name} is missing or was changed" for name in manifest.damaged(report)]
    try:
        from engine.model.weights import check_tensors
    except ModuleNotFoundError as error:
        raise ModelError(f"checking needs {error.name!r}", advice="Install medrega-pacs[torch].") from error
    check_tensors(config, stored_tensors(folder), str(folder))
    return []
