"""ONNX Runtime on the CPU: the embedded default. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from engine.errors import ModelError, RuntimeLostError
from engine.model.config import MedregaConfig
from engine.runtime.generation import GreedyRuntime, Logits

Array = npt.NDArray[np.float32]
Cache = tuple[Array, Array]


class OnnxArithmetic:
    """Three graphs: ``vision.onnx``, ``embed.onnx``, ``decoder.onnx``, as `engine.model.export` writes them.

    Parameters
    ----------
    folder : Path
    threads : int, optional
        CPU threads; ONNX Runtime's own choice without.
    """

    def __init__(self, folder: Path, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._vision, self._embed, self._decoder = (
                onnxruntime.InferenceSession(folder / f"{part}.onnx", options, ["CPUExecutionProvider"])
                for part in ("vision", "embed", "decoder")
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no base class but this one
            raise ModelError(
                f"{folder} holds no usable ONNX export: {type(error).__name__}",
                advice="Export the checkpoint first (medrega-pacs engine export), or choose another runtime.",
            ) from error
        decoder = MedregaConfig.from_folder(folder).decoder
        empty = (decoder.num_hidden_layers, 1, decoder.num_key_value_heads, 0, decoder.head_dim)
        self._empty = np.zeros(empty, np.float32)

    def image_tokens(self, pixels: Array) -> Array:
        """See `Arithmetic.image_tokens`."""
        return self._run(self._vision, {"input": pixels})[0]

    def begin(self, ids: list[int], image: Array, context: int) -> tuple[Logits, Cache]:
        """See `Arithmetic.begin`."""
        row = np.asarray([ids], np.int64)
        embedded = self._run(self._embed, {"ids": row})[0]
        embedded[row == context] = image[0]
        return self._decode(embedded, (self._empty, self._empty))

    def step(self, token: int, state: Cache) -> tuple[Logits, Cache]:
        """See `Arithmetic.step`."""
        return self._decode(self._run(self._embed, {"ids": np.asarray([[token]], np.int64)})[0], state)

    def end(self, state: Cache) -> None:
        """See `Arithmetic.end`; there is nothing to give back."""

    def _decode(self, embedded: Array, past: Cache) -> tuple[Logits, Cache]:
        inputs = {"embeddings": embedded, "past_keys": past[0], "past_values": past[1]}
        logits, keys, values = self._run(self._decoder, inputs)
        return logits[0], (keys, values)

    @staticmethod
    def _run(session: Any, inputs: dict[str, Any]) -> list[Array]:
        try:
            outputs: list[Array] = session.run(None, inputs)
        except Exception as error:  # as above
            raise RuntimeLostError(f"ONNX Runtime failed: {type(error).__name__}") from error
        return outputs


class OnnxRuntime(GreedyRuntime):
    """A checkpoint folder with its ONNX export beside the weights.

    Parameters
    ----------
    folder : Path
    threads : int, optional

    Raises
    ------
    ModelError
        If the folder lacks the export, or its configuration or tokenizer cannot be used.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        arithmetic = OnnxArithmetic(folder, threads)
        super().__init__(
            folder, arithmetic, runtime="onnx", build=f"onnxruntime {onnxruntime.__version__}", dtype="float32"
        )
