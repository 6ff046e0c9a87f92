"""Runtimes: loaded models behind one Protocol. Model libraries are imported only when their runtime is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from engine.errors import ModelError
from engine.runtime.protocol import Answer, CancelToken, Rgb, Runtime

__all__ = ["RUNTIMES", "Answer", "CancelToken", "Rgb", "Runtime", "load_runtime", "model_path", "runtime_of"]

RUNTIMES: Final = ("onnx", "torch", "tensorrt_llm", "scripted")
_INSTALL: Final = {
    "onnx": "Install medrega-pacs.",
    "torch": "Install medrega-pacs[torch].",
    "tensorrt_llm": "On a GPU host install medrega-pacs[tensorrt], or use NVIDIA's container of TensorRT-LLM 1.2.1; "
    "elsewhere use runtime 'onnx' or 'torch'.",
}
_SHIPPED: Final = {"phantom": Path(__file__).parent.parent / "phantom" / "checkpoint"}


def model_path(model: str) -> Path:
    """Return where a model is: the folder of a name that ships (``phantom``), else the path itself."""
    return _SHIPPED.get(model, Path(model))


def runtime_of(model: str) -> str:
    """Return the runtime that a model's folder is made for, the fastest of those that it can serve."""
    path = model_path(model)
    if (path / "engine").is_dir():
        return "tensorrt_llm"
    exported = all((path / f"{part}.onnx").is_file() for part in ("vision", "embed", "decoder"))
    return "onnx" if exported else "torch"


def load_runtime(
    kind: str, model: str, *, threads: int | None = None, device: str | None = None, dtype: str | None = None
) -> Runtime:
    """Load a model.

    Parameters
    ----------
    kind : str
        One of `RUNTIMES`.
    model : str
        A name that ships (``phantom``) or a path: a checkpoint's folder, or the JSON script of ``scripted``.
    threads : int, optional
        CPU threads of the ``onnx`` runtime; its own choice without.
    device, dtype : str, optional
        Where and how ``torch`` computes (``cuda``, ``bfloat16``); its own choice without.

    Raises
    ------
    ModelError
        If the kind is unknown, its libraries are not installed, or the model cannot be used.
    """
    path = model_path(model)
    if kind not in RUNTIMES:
        raise ModelError(f"there is no runtime {kind!r}", advice=f"Choose one of {', '.join(RUNTIMES)}.")
    if not path.exists():
        raise ModelError(f"there is no model at {path}", advice="Check [engine] model: a shipped name or a path.")
    if kind == "scripted":
        from engine.runtime.scripted import ScriptedRuntime

        return ScriptedRuntime.from_file(path)
    try:
        if kind == "onnx":
            from engine.runtime.onnx import OnnxRuntime

            return OnnxRuntime(path, threads)
        if kind == "tensorrt_llm":
            from engine.runtime.tensorrt_llm import TensorrtLlmRuntime

            return TensorrtLlmRuntime(path)
        from engine.runtime.torch import TorchRuntime

        return TorchRuntime(path, device, dtype)
    except ImportError as error:  # not there, or not for this machine
        raise ModelError(f"the {kind} runtime needs the package {error.name!r}", advice=_INSTALL[kind]) from error
