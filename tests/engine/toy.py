"""A toy checkpoint in MedRegA's own layout: published names, random weights, a few thousand parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.model.config import MedregaConfig
from engine.model.medrega import Medrega
from engine.model.tokenizer import Tokenizer
from engine.phantom import folder as checkpoint


def write_toy(
    folder: Path,
    *,
    seed: int = 0,
    vision: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
    shards: int = 1,
    **top: Any,
) -> Path:
    """Write a checkpoint folder; `vision`, `decoder` and `top` override its configuration."""
    checkpoint.write_tokenizer(folder, texts=300)
    config = {
        "model_type": "internvl_chat",
        "ps_version": "v1",
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "vision_config": {
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "layer_norm_eps": 1e-6,
            "norm_type": "rms_norm",
            "qk_normalization": True,
            "qkv_bias": False,
            **(vision or {}),
        },
        "llm_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": Tokenizer(folder).size,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": 512,
            **(decoder or {}),
        },
        **top,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(seed)
    model = Medrega(MedregaConfig.from_folder(folder))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.1 if parameter.ndim == 1 else 0.0, std=0.3)
    checkpoint.write_weights(folder, model)
    if shards > 1:
        reshard(folder, shards)
    return folder


def reshard(folder: Path, count: int) -> None:
    """Spread the one weights file over several with an index, as large checkpoints are."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {}
    for number in range(count):
        name = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = {key: weights[key] for key in sorted(weights)[number::count]}
        save_file(part, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
