"""Step 2: the vision part to ``vision/vision.onnx``, whose weights stay in the safetensors files beside it.

The graph is exported from a model without weights, so this takes no memory for them; each initializer points into the
files that step 1 wrote (ONNX external data), so the graph may stand for more than 2 GB. Opset 18 is the first that
PyTorch's exporter writes by itself; TensorRT 10 parses it.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.errors import ModelError
from engine.model.config import MedregaConfig
from engine.model.stored import Stored, stored_tensors
from engine.resources import available_memory

GRAPH: Final = "vision/vision.onnx"
OPSET: Final = 18


def vision_graph(vision: Path, config: MedregaConfig) -> bytes:
    """The graph: ``input`` [B, 3, S, S] to ``encoder_output`` [B, image tokens, hidden].

    Parameters
    ----------
    vision : Path
        Folder of the vision part's weights; they are pointed at, not read.
    config : MedregaConfig

    Raises
    ------
    ModelError
        If PyTorch or ONNX is not installed, or the exporter gives no graph.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ModuleNotFoundError as error:
        raise ModelError(
            f"step onnx needs the package {error.name!r}", advice="Install medrega-pacs[compile]."
        ) from error
    from engine.model.medrega import VisionPart

    size = config.vision.image_size
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    try:
        exporter.setLevel(logging.ERROR)
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                VisionPart(config).eval(),
                (torch.zeros(2, 3, size, size),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["encoder_output"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
                optimize=False,
            )
    finally:
        exporter.setLevel(level)
    if program is None:
        raise ModelError("the exporter gave no graph for the vision part")
    return _point_at_weights(program, stored_tensors(vision))


def _point_at_weights(program: Any, stored: dict[str, Stored]) -> bytes:
    """Take the weightless initializers out, and put references to the files, widened to float32, in their place."""
    from onnx import TensorProto, helper

    from engine.model.export import ONNX_TYPES, strip

    graph = program.model.graph
    pointed = sorted(name for name in graph.initializers if name in stored)
    if len(pointed) != len(stored):
        raise ModelError(f"the exported graph lacks {sorted(stored.keys() - set(pointed))[0]}")
    for name in pointed:
        del graph.initializers[name]
    proto = program.model_proto
    nodes = list(proto.graph.node)
    casts = []
    for name in pointed:
        place = stored[name]
        outside = TensorProto(name=f"{name}.stored", data_type=ONNX_TYPES[place.dtype], dims=place.shape)
        outside.data_location = TensorProto.EXTERNAL
        for key, value in (("location", place.file.name), ("offset", place.offset), ("length", place.length)):
            outside.external_data.add(key=key, value=str(value))
        proto.graph.initializer.append(outside)
        casts.append(helper.make_node("Cast", [outside.name], [name], to=TensorProto.FLOAT))
    del proto.graph.node[:]
    proto.graph.node.extend([*casts, *nodes])
    strip(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def check_graph(graph: Path, config: MedregaConfig) -> float | None:
    """Run the graph in ONNX Runtime against the PyTorch module, both from the same weights.

    Returns
    -------
    float or None
        Largest difference, relative to the largest value; None where memory does not suffice for both.

    Raises
    ------
    ModelError
        If they differ by more than rounding.
    """
    import onnxruntime
    import torch

    from engine.model.weights import load_vision

    stored = stored_tensors(graph.parent)
    weights = sum(int(np.prod(place.shape)) * 4 for place in stored.values())
    free = available_memory()
    if free is not None and 3 * weights > free:
        return None
    size = config.vision.image_size
    pixels = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    ran = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"]).run(None, {"input": pixels})[0]
    with torch.inference_mode():
        expected = load_vision(graph.parent, config)(torch.from_numpy(pixels)).numpy()
    difference = float(np.abs(ran - expected).max() / np.abs(expected).max())
    if ran.shape != expected.shape or not difference < 1e-3:
        raise ModelError(f"the exported vision graph differs from the model by {difference:.2g} of its largest value")
    return difference
