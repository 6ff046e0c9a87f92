"""PyTorch: the reference, on CPU or GPU. Loads a MedRegA folder as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from engine.errors import ModelError, RuntimeLostError
from engine.model.decoder import Cache
from engine.model.weights import load_model
from engine.runtime.generation import GreedyRuntime, Logits


class TorchArithmetic:
    """`engine.model.medrega.Medrega` behind the seam of `GreedyRuntime`."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        self._model = load_model(folder, device=device, dtype=dtype)
        self._device, self._dtype = device, dtype

    @torch.inference_mode()
    def image_tokens(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Arithmetic.image_tokens`."""
        tokens = self._model.image_tokens(torch.from_numpy(pixels).to(self._device, self._dtype))
        array: npt.NDArray[np.float32] = tokens.float().cpu().numpy()
        return array

    @torch.inference_mode()
    def begin(self, ids: list[int], image: npt.NDArray[np.float32], context: int) -> tuple[Logits, Cache]:
        """See `Arithmetic.begin`."""
        row = torch.tensor([ids], device=self._device)
        embedded = self._model.language_model.model.embed_tokens(row)
        tokens = torch.from_numpy(image).to(self._device, embedded.dtype)
        embedded = embedded.masked_scatter((row == context)[..., None], tokens)
        return self._decode(embedded, None)

    @torch.inference_mode()
    def step(self, token: int, state: Cache) -> tuple[Logits, Cache]:
        """See `Arithmetic.step`."""
        row = torch.tensor([[token]], device=self._device)
        return self._decode(self._model.language_model.model.embed_tokens(row), state)

    def _decode(self, embedded: torch.Tensor, past: Cache | None) -> tuple[Logits, Cache]:
        try:
            hidden, cache = self._model.language_model.hidden(embedded, past)
            logits = self._model.language_model.lm_head(hidden[:, -1]).float()
        except RuntimeError as error:  # a lost or full GPU
            raise RuntimeLostError(f"PyTorch failed: {type(error).__name__}") from error
        array: Logits = logits[0].cpu().numpy()
        return array, cache


class TorchRuntime(GreedyRuntime):
    """A checkpoint folder run by PyTorch.

    Parameters
    ----------
    folder : Path
    device : str, optional
        ``cpu`` or ``cuda``; a GPU where there is one.
    dtype : str, optional
        ``float32``, ``bfloat16`` or ``float16``; bfloat16 on a GPU and float32 on a CPU.

    Raises
    ------
    ModelError
        If the folder cannot be used or the dtype is unknown.
    """

    def __init__(self, folder: Path, device: str | None = None, dtype: str | None = None) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
        known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if dtype not in known:
            raise ModelError(f"dtype {dtype!r} is none of {', '.join(known)}")
        arithmetic = TorchArithmetic(folder, device, known[dtype])
        super().__init__(folder, arithmetic, runtime="torch", build=f"torch {torch.__version__} {device}", dtype=dtype)
