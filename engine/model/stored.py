"""Where each tensor of a checkpoint folder lies in its safetensors files, read from their headers alone."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.errors import ModelError

SIZES: Final = {"BF16": 2, "F16": 2, "F32": 4}
"""Bytes of an element, for the types that weights come in."""
LANGUAGE: Final = "language_model."
"""How names of the decoder's tensors begin, but for those in a compile's Llama folder."""
_LARGEST_HEADER: Final = 100_000_000
_RECOMPUTED: Final = ".rotary_emb.inv_freq"
"""Older Llama checkpoints store the rotary frequencies, which follow from the configuration."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies.

    Parameters
    ----------
    file : Path
    dtype : str
        As safetensors names it: BF16, F16, F32.
    shape : tuple of int
    offset, length : int
        Bytes from the beginning of the file, and how many.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def shards(folder: Path) -> list[Path]:
    """The weight files of a folder: those its index names, or the one there is.

    Raises
    ------
    ModelError
        If one is missing; it is named. If the index cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} cannot be read: {error}", advice="Copy the file again.") from error
    for name in names:
        if not (folder / name).exists():
            raise ModelError(f"{folder} lacks the shard {name}", advice="Copy the missing file and try again.")
    return [folder / name for name in names]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a checkpoint folder by its name; of a compile's output, those of the parts that it split off.

    Raises
    ------
    ModelError
        If a shard is missing or broken, or a tensor is in a type that weights do not come in.
    """
    if (folder / "language").is_dir() and (folder / "vision").is_dir():
        language = stored_tensors(folder / "language")
        return {LANGUAGE + name: place for name, place in language.items()} | stored_tensors(folder / "vision")
    found: dict[str, Stored] = {}
    for shard in shards(folder):
        for name, stored in _read_header(shard).items():
            if name.endswith(_RECOMPUTED):
                continue
            if stored.dtype not in SIZES:
                raise ModelError(f"{shard.name}: tensor {name} is {stored.dtype}, none of {', '.join(SIZES)}")
            found[name] = stored
    return found


def _read_header(shard: Path) -> dict[str, Stored]:
    size = shard.stat().st_size
    try:
        with shard.open("rb") as stream:
            (head,) = struct.unpack("<Q", stream.read(8))
            if head > min(size, _LARGEST_HEADER):
                raise ValueError("its header is longer than the file")
            entries: dict[str, Any] = json.loads(stream.read(head))
        tensors = {}
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            (begin, end), shape = entry["data_offsets"], tuple(entry["shape"])
            tensors[name] = Stored(shard, entry["dtype"], shape, 8 + head + begin, end - begin)
            if 8 + head + end > size:
                raise ValueError(f"it ends before tensor {name} does")
            if SIZES.get(entry["dtype"], 0) * math.prod(shape) not in (0, end - begin):
                raise ValueError(f"tensor {name} has another length than its shape")
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ModelError(f"{shard} is broken: {error}", advice="Copy the file again.") from error
    return tensors
