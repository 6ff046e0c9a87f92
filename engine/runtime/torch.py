"""PyTorch: the reference, on CPU or GPU. Loads a MedRegA folder as it is."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from engine.errors import ModelError, RuntimeLostError
from engine.model.decoder import Cache
from engine.model.static import StaticDecoder
from engine.model.weights import load_model
from engine.runtime.generation import GreedyRuntime, Logits

S = TypeVar("S")


LONGEST: Final = 4096
"""Positions that a fixed cache on a GPU has room for: as many as a compiled engine is built for."""


class TorchArithmetic(Generic[S]):
    """`engine.model.medrega.Medrega` behind the seam of `GreedyRuntime`; decoding is left to the two below."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        self.model = load_model(folder, device=device, dtype=dtype)
        self._device, self._dtype = device, dtype

    def _start(self, embedded: torch.Tensor) -> tuple[torch.Tensor, S]:
        """Logits [1, vocabulary] behind these embeddings, and a cache of them."""
        raise NotImplementedError

    def _next(self, token: torch.Tensor, state: S) -> tuple[torch.Tensor, S]:
        """Logits behind one more token, [1]."""
        raise NotImplementedError

    @torch.inference_mode()
    def image_tokens(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Arithmetic.image_tokens`."""
        with _gpu_errors():
            tokens = self.model.image_tokens(torch.from_numpy(pixels).to(self._device, self._dtype))
            array: npt.NDArray[np.float32] = tokens.float().cpu().numpy()
        return array

    @torch.inference_mode()
    def begin(self, ids: list[int], image: npt.NDArray[np.float32], context: int) -> tuple[Logits, S]:
        """See `Arithmetic.begin`."""
        with _gpu_errors():
            row = torch.tensor([ids], device=self._device)
            embedded = self.model.language_model.model.embed_tokens(row)
            tokens = torch.from_numpy(image).to(self._device, embedded.dtype)
            logits, state = self._start(embedded.masked_scatter((row == context)[..., None], tokens))
            return logits[0].cpu().numpy(), state

    @torch.inference_mode()
    def step(self, token: int, state: S) -> tuple[Logits, S]:
        """See `Arithmetic.step`."""
        with _gpu_errors():
            logits, state = self._next(torch.tensor([token], device=self._device), state)
            return logits[0].cpu().numpy(), state

    def end(self, state: S) -> None:
        """See `Arithmetic.end`."""


class PlainArithmetic(TorchArithmetic[Cache]):
    """The reference: a cache that grows by a token a step."""

    def _start(self, embedded: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        return self._decode(embedded, None)

    def _next(self, token: torch.Tensor, state: Cache) -> tuple[torch.Tensor, Cache]:
        return self._decode(self.model.language_model.model.embed_tokens(token[None]), state)

    def _decode(self, embedded: torch.Tensor, past: Cache | None) -> tuple[torch.Tensor, Cache]:
        hidden, cache = self.model.language_model.hidden(embedded, past)
        return self.model.language_model.lm_head(hidden[:, -1]).float(), cache


class StaticArithmetic(TorchArithmetic[StaticDecoder]):
    """For a GPU: a cache that stays in its place and a CUDA graph a token; a cache for each question at a time."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        self._length = min(self.model.config.decoder.max_position_embeddings, LONGEST)
        self._idle: queue.SimpleQueue[StaticDecoder] = queue.SimpleQueue()

    def _start(self, embedded: torch.Tensor) -> tuple[torch.Tensor, StaticDecoder]:
        try:
            state = self._idle.get_nowait()
        except queue.Empty:
            state = StaticDecoder(self.model.language_model, 1, self._length)
        return state.begin(embedded), state

    def _next(self, token: torch.Tensor, state: StaticDecoder) -> tuple[torch.Tensor, StaticDecoder]:
        return state.step(token), state

    def end(self, state: StaticDecoder) -> None:
        """Keep the cache and its graph for the next question."""
        self._idle.put(state)


@contextmanager
def _gpu_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # a lost or full GPU
        raise RuntimeLostError(f"PyTorch failed: {type(error).__name__}") from error


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
        kind = StaticArithmetic if device.startswith("cuda") else PlainArithmetic
        arithmetic = kind(folder, device, known[dtype])
        super().__init__(folder, arithmetic, runtime="torch", build=f"torch {torch.__version__} {device}", dtype=dtype)
        self.model = arithmetic.model
        if device.startswith("cuda"):
            self._longest = min(self._longest, LONGEST)
