"""Loading a checkpoint's weights by name, shard by shard, after asking whether they fit."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import ModelError
from engine.model.config import MedregaConfig
from engine.model.medrega import Medrega, VisionPart
from engine.model.stored import LANGUAGE, Stored, stored_tensors
from engine.resources import require_memory

M = TypeVar("M", bound=VisionPart)


def check_tensors(config: MedregaConfig, stored: dict[str, Stored], where: str) -> None:
    """Hold names and shapes of stored tensors against the whole architecture, without reading any.

    Raises
    ------
    ModelError
        If a tensor has the wrong shape, is unknown, or is not there; it is named.
    """
    with torch.device("meta"):
        _check(Medrega(config), stored, where)


def _check(model: VisionPart, stored: dict[str, Stored], where: str) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, place in stored.items():
        what = f"{place.file.name}: tensor {name}"
        if name not in expected:
            raise ModelError(f"{what} is not part of this architecture")
        if place.shape != expected[name]:
            raise ModelError(f"{what} has shape {place.shape}, expected {expected[name]}")
    missing = sorted(expected.keys() - stored.keys())
    if missing:
        raise ModelError(f"{where} lacks {len(missing)} tensors, the first is {missing[0]}")


def memory_needed(stored: dict[str, Stored], dtype: torch.dtype) -> int:
    """Bytes that a loaded model takes: all its weights, and one more tensor on its way in."""
    sizes = [torch.Size(place.shape).numel() * dtype.itemsize for place in stored.values()]
    return sum(sizes) + max((place.length for place in stored.values()), default=0)


def load_model(folder: Path, *, device: str, dtype: torch.dtype) -> Medrega:
    """Build the model that ``config.json`` describes and fill it, one tensor at a time.

    Raises
    ------
    ModelError
        If a shard is missing or broken, a tensor has the wrong shape, is unknown, or is not there; it is named.
        If the model does not fit into memory; it says how much is needed.
    """
    config = MedregaConfig.from_folder(folder)
    with torch.device("meta"):
        model = Medrega(config)
    return _filled(model, folder, device, dtype)


def load_vision(folder: Path, config: MedregaConfig) -> VisionPart:
    """Load the vision part alone, in float32 on the CPU; see `load_model`."""
    with torch.device("meta"):
        model = VisionPart(config)
    return _filled(model, folder, "cpu", torch.float32)


def _filled(model: M, folder: Path, device: str, dtype: torch.dtype) -> M:
    stored = stored_tensors(folder)
    _check(model, stored, str(folder))
    free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else None
    require_memory(memory_needed(stored, dtype), f"loading {folder} as {dtype} on {device}", free)
    model = model.to(dtype).to_empty(device=device).requires_grad_(False)
    targets = model.state_dict()
    for shard in sorted({place.file for place in stored.values()}):
        try:
            with safe_open(shard, framework="pt") as file, torch.no_grad():
                there = set(file.keys())
                for name in [name for name, place in stored.items() if place.file == shard]:
                    own = name if name in there else name.removeprefix(LANGUAGE)
                    targets[name].copy_(file.get_tensor(own))
        except SafetensorError as error:
            raise ModelError(f"{shard} is broken: {error}") from error
    return model.eval()
