"""Step 1: MedRegA's folder becomes a plain Llama folder (``language/``) and the vision part (``vision/``).

Weights are copied as they are, shard by shard; only names change. The vision part keeps its published names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from engine.compile.manifest import Output
from engine.compile.streams import Cut, Entry
from engine.model.config import MedregaConfig
from engine.model.stored import LANGUAGE, Stored
from engine.model.tokenizer import TOKENIZER_FILES

INDEX: Final = "model.safetensors.index.json"


def split_outputs(source: Path, config: MedregaConfig, stored: dict[str, Stored]) -> list[Output]:
    """Files of this step."""
    raw = json.loads((source / "config.json").read_text(encoding="utf-8"))
    language = {name.removeprefix(LANGUAGE): place for name, place in stored.items() if name.startswith(LANGUAGE)}
    vision = {name: place for name, place in stored.items() if not name.startswith(LANGUAGE)}
    tokenizer = {name: (source / name).read_bytes() for name in TOKENIZER_FILES if (source / name).exists()}
    return [
        Output.text("config.json", (source / "config.json").read_bytes()),
        *(Output.text(folder + name, data) for folder in ("", "language/") for name, data in tokenizer.items()),
        Output.text("language/config.json", llama_config(raw)),
        *_weights("language", language),
        Output.text("vision/config.json", _vision_config(config)),
        *_weights("vision", vision),
    ]


def llama_config(raw: dict[str, Any]) -> dict[str, Any]:
    """``config.json`` of the decoder alone, as transformers and ModelOpt read a Llama."""
    decoder = dict(raw["llm_config"])
    decoder.pop("auto_map", None)
    dtype = raw.get("torch_dtype") or decoder.get("torch_dtype") or "bfloat16"
    usual = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
    own = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": dtype}
    return {**usual, **decoder, **own, "tie_word_embeddings": False}


def _vision_config(config: MedregaConfig) -> dict[str, Any]:
    return {
        "image_size": config.vision.image_size,
        "image_tokens": config.image_tokens,
        "hidden_size": config.decoder.hidden_size,
        "ps_version": config.ps_version,
        "input": "input",
        "output": "encoder_output",
    }


def _weights(part: str, stored: dict[str, Stored]) -> list[Output]:
    """One file for each source shard that holds something of this part, and an index where there are several."""
    files = sorted({place.file for place in stored.values()})
    names = ["model.safetensors"]
    if len(files) > 1:
        names = [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    outputs: list[Output] = []
    where: dict[str, str] = {}
    for file, name in zip(files, names, strict=True):
        mine = sorted(((new, place) for new, place in stored.items() if place.file == file), key=lambda p: p[1].offset)
        where |= {new: name for new, _ in mine}
        outputs.append(Output.tensors(f"{part}/{name}", [Entry(new, [Cut(place)]) for new, place in mine]))
    if len(files) > 1:
        total = sum(place.length for place in stored.values())
        outputs.append(Output.text(f"{part}/{INDEX}", {"metadata": {"total_size": total}, "weight_map": where}))
    return outputs
