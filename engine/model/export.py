"""A checkpoint folder to ONNX: ``vision.onnx``, ``embed.onnx`` and ``decoder.onnx`` beside the weights.

The graphs hold no weights of their own: each initializer points into the folder's safetensors file (ONNX external
data), so that there is one set of weights and both runtimes read it. What the file holds in bfloat16 is widened by a
Cast in the graph, which ONNX Runtime folds once when it loads.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from engine.errors import ModelError
from engine.model.decoder import Cache
from engine.model.medrega import Medrega
from engine.model.stored import Stored, stored_tensors
from engine.model.weights import load_model

OPSET: Final = 18
ONNX_TYPES: Final = {"BF16": TensorProto.BFLOAT16, "F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}
_SMALL: Final = 64
"""Constants up to this many elements (shapes, scales) stay in the graph."""


class _Vision(nn.Module):
    def __init__(self, model: Medrega) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.image_tokens(pixels)


class _Embed(nn.Module):
    def __init__(self, model: Medrega) -> None:
        super().__init__()
        self.embed_tokens = model.language_model.model.embed_tokens

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.embed_tokens(ids)
        return out


class _Decoder(nn.Module):
    def __init__(self, model: Medrega) -> None:
        super().__init__()
        self.language_model = model.language_model

    def forward(self, embeddings: Tensor, past_keys: Tensor, past_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        past: Cache = (past_keys, past_values)
        hidden, (keys, values) = self.language_model.hidden(embeddings, past)
        return self.language_model.lm_head(hidden[:, -1]), keys, values


def export(folder: Path) -> None:
    """Write the three graphs of a checkpoint folder beside its weights.

    Raises
    ------
    ModelError
        If the weights cannot be loaded, or a graph holds a constant that is not in them.
    """
    model = load_model(folder, device="cpu", dtype=torch.float32)
    config = model.config
    size, hidden = config.vision.image_size, config.decoder.hidden_size
    heads = (config.decoder.num_hidden_layers, 1, config.decoder.num_key_value_heads, 5, config.decoder.head_dim)
    batch, length, past = torch.export.Dim("batch"), torch.export.Dim("length"), torch.export.Dim("past")
    stored = stored_tensors(folder)
    parts: list[tuple[str, nn.Module, tuple[Tensor, ...], list[str], list[str], tuple[Any, ...]]] = [
        ("vision", _Vision(model), (torch.zeros(2, 3, size, size),), ["input"], ["encoder_output"], ({0: batch},)),
        ("embed", _Embed(model), (torch.zeros(1, 3, dtype=torch.long),), ["ids"], ["embeddings"], ({1: length},)),
        (
            "decoder",
            _Decoder(model),
            (torch.zeros(1, 7, hidden), torch.zeros(heads), torch.zeros(heads)),
            ["embeddings", "past_keys", "past_values"],
            ["logits", "keys", "values"],
            ({1: length}, {3: past}, {3: past}),
        ),
    ]
    for name, module, example, inputs, outputs, dynamic in parts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=dynamic,
                verbose=False,
                optimize=False,
            )
        if program is None:
            raise ModelError(f"the exporter gave no graph for {name}")
        proto = program.model_proto
        _point_at_weights(proto, model, stored)
        strip(proto)
        onnx.save(proto, folder / f"{name}.onnx")


def strip(proto: onnx.ModelProto) -> None:
    """Take out what the exporter notes about source lines: it holds this machine's paths and most of the bytes."""
    for item in (proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]


def _point_at_weights(proto: onnx.ModelProto, model: Medrega, stored: dict[str, Stored]) -> None:
    """Replace every large initializer by a reference to the weights' file and a Cast, found by value."""
    by_bytes = {tensor.numpy().tobytes(): name for name, tensor in model.state_dict().items()}
    kept, casts = [], []
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.size <= _SMALL or array.dtype != np.float32:
            kept.append(tensor)
            continue
        name = by_bytes.get(array.tobytes())
        if name is None or stored[name].shape != array.shape:
            raise ModelError(f"the exported graph holds {tensor.name} {array.shape}, which is no tensor of the weights")
        place = stored[name]
        outside = TensorProto(name=f"{tensor.name}.stored", data_type=ONNX_TYPES[place.dtype], dims=place.shape)
        outside.data_location = TensorProto.EXTERNAL
        for key, value in (("location", place.file.name), ("offset", place.offset), ("length", place.length)):
            outside.external_data.add(key=key, value=str(value))
        kept.append(outside)
        casts.append(helper.make_node("Cast", [outside.name], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(kept)
    proto.graph.node.extend(nodes)
