"""Loading a checkpoint's weights by name, shard by shard."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import ModelError
from engine.model.config import MedregaConfig
from engine.model.medrega import Medrega


def shards(folder: Path) -> list[Path]:
    """The weight files of a folder: those its index names, or the one there is.

    Raises
    ------
    ModelError
        If one is missing; it is named.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        if not (folder / name).exists():
            raise ModelError(f"{folder} lacks the shard {name}", advice="Copy the missing file and try again.")
    return [folder / name for name in names]


def load_model(folder: Path, *, device: str, dtype: torch.dtype) -> Medrega:
    """Build the model that ``config.json`` describes and fill it, one tensor at a time.

    Raises
    ------
    ModelError
        If a shard is missing or broken, a tensor has the wrong shape, is unknown, or is not there; it is named.
    """
    config = MedregaConfig.from_folder(folder)
    with torch.device("meta"):
        model = Medrega(config)
    model = model.to(dtype).to_empty(device=device).requires_grad_(False)
    missing = dict(model.state_dict())
    for shard in shards(folder):
        try:
            with safe_open(shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dictionary
                    if name not in missing:
                        raise ModelError(f"{shard.name}: tensor {name} is not part of this architecture")
                    _fill(missing.pop(name), file.get_tensor(name), f"{shard.name}: tensor {name}")
        except SafetensorError as error:
            raise ModelError(f"{shard} is broken: {error}") from error
    if missing:
        raise ModelError(f"{folder} lacks {len(missing)} tensors, the first is {sorted(missing)[0]}")
    return model.eval()


def _fill(target: torch.Tensor, source: torch.Tensor, what: str) -> None:
    if target.shape != source.shape:
        raise ModelError(f"{what} has shape {tuple(source.shape)}, expected {tuple(target.shape)}")
    with torch.no_grad():
        target.copy_(source)
