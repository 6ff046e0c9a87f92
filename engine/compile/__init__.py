"""MedRegA's folder to TensorRT-LLM: split, vision to ONNX, TensorRT-LLM checkpoint, engines.

Every step is restartable and recorded in the output folder's manifest. Up to the checkpoint nothing of NVIDIA's is
needed; the last step runs on a GPU host. See `engine.compile.compiler.compile_model`.
"""

from __future__ import annotations

from engine.compile.compiler import CompileSettings, compile_model
from engine.compile.manifest import STEPS, Manifest

__all__ = ["STEPS", "CompileSettings", "Manifest", "compile_model"]
