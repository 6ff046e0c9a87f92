"""TensorRT-LLM's and TensorRT's Python modules, made from the list of what their public source declares.

A name or parameter that is not in the list is refused. The executor and the vision engine compute with a toy model in
PyTorch, so what is handed to them must also mean the right thing.
"""

from __future__ import annotations

import ctypes
import enum
import inspect
import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from engine.model.medrega import Medrega

API = json.loads(Path(__file__).with_name("tensorrt_llm_api.json").read_text(encoding="utf-8"))


def _signature(names: list[str], required: int) -> inspect.Signature:
    kind, parameters = inspect.Parameter.POSITIONAL_OR_KEYWORD, []
    for name in names:
        if name == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        default = inspect.Parameter.empty if len(parameters) < required else None
        parameters.append(inspect.Parameter(name, kind, default=default))
    return inspect.Signature(parameters)


def _method(overloads: list[list[str]], name: str) -> Any:
    def method(self: Any, *args: Any, **given: Any) -> Any:
        for names in overloads:
            try:
                bound = _signature(names, 0).bind(*args, **given)
            except TypeError:
                continue
            return getattr(self, f"_{name}")(**bound.arguments)
        raise TypeError(f"{name} takes none of {sorted(given)}")

    return method


def _class(name: str, listed: dict[str, Any]) -> Any:
    if "parameters" not in listed and "values" in listed:
        return enum.Enum(name, listed["values"])
    signature = _signature(listed.get("parameters", []), listed.get("required", 0))
    fields = tuple(signature.parameters) or tuple(listed.get("attributes", ()))

    def __init__(self: Any, *args: Any, **given: Any) -> None:  # noqa: N807
        bound = signature.bind(*args, **given)
        bound.apply_defaults()
        for field, value in bound.arguments.items():
            setattr(self, field, value)

    body: dict[str, Any] = {"__slots__": (*fields, "__dict__") if "methods" in listed else fields, "__init__": __init__}
    body |= {method: _method(overloads, method) for method, overloads in listed.get("methods", {}).items()}
    made = type(name, (), body)
    for nested, values in listed.get("nested", {}).items():
        setattr(made, nested, enum.Enum(nested, values))
    for value in listed.get("values", ()):
        setattr(made, value, value)
    return made


def modules(model: Medrega, stop_ids: frozenset[int]) -> dict[str, ModuleType]:
    """``tensorrt`` and ``tensorrt_llm``, to stand in ``sys.modules``; both compute with a toy model."""
    made = {name: ModuleType(name) for name in ("tensorrt", "tensorrt_llm", "tensorrt_llm.bindings", *API)}
    for module, listed in API.items():
        if module != "read_from":
            for name, entry in listed.items():
                setattr(made[module], name, _class(name, entry))
    made.pop("read_from")
    made["tensorrt_llm"].__version__ = "1.2.1"
    made["tensorrt_llm"].__file__ = "/opt/tensorrt_llm/__init__.py"
    made["tensorrt"].__version__ = "10.14.1.48"
    made["tensorrt_llm.bindings"].executor = made["tensorrt_llm.bindings.executor"]
    _vision(made["tensorrt"], model)
    _executor(made["tensorrt_llm.bindings.executor"], model, stop_ids)
    return made


def _vision(tensorrt: Any, model: Medrega) -> None:
    size, hidden = model.config.vision.image_size, model.config.decoder.hidden_size

    def view(address: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), shape)

    def run(self: Any, stream_handle: int) -> bool:
        del stream_handle
        with torch.inference_mode():
            tokens = model.image_tokens(torch.from_numpy(view(self.places["input"], self.shape).copy()))
        view(self.places["encoder_output"], (1, model.config.image_tokens, hidden))[:] = tokens.numpy()
        return True

    def set_shape(self: Any, name: str, shape: tuple[int, ...]) -> bool:
        assert (name, shape) == ("input", (1, 3, size, size))
        self.shape = shape
        return True

    context = tensorrt.IExecutionContext
    context._set_input_shape, context._execute_async_v3 = set_shape, run
    context._set_tensor_address = lambda self, name, memory: self.__dict__.setdefault("places", {}).update(
        {name: memory}
    )
    tensorrt.ICudaEngine._create_execution_context = lambda _: context()
    tensorrt.Runtime._deserialize_cuda_engine = lambda _, serialized_engine: (
        tensorrt.ICudaEngine() if serialized_engine == b"vision" else None
    )


def _executor(trtllm: Any, model: Medrega, stop_ids: frozenset[int]) -> None:
    """The executor: a pool of threads, each of which answers a request greedily."""
    executor, reasons = trtllm.Executor, trtllm.FinishReason
    vocabulary = model.config.decoder.vocab_size

    @torch.inference_mode()
    def answer(request: Any, cancelled: threading.Event, broken: threading.Event) -> Any:
        table = request.prompt_tuning_config.embedding_table.float()
        embed = model.language_model.model.embed_tokens
        rows = [table[i - vocabulary] if i >= vocabulary else embed.weight[i] for i in request.input_token_ids]
        result, past, x = trtllm.Result(), None, torch.stack(rows)[None]
        ids, logprobs, reason = [], [], reasons.LENGTH
        stops = {request.end_id, *(word for (word,) in request.stop_words)}
        assert stops == stop_ids
        while len(ids) < request.max_tokens:
            if broken.is_set():
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if cancelled.is_set():
                reason = reasons.CANCELLED
                break
            logits, past = model.language_model(x, past)
            logits = logits[0, -1]
            if len(ids) < request.sampling_config.min_tokens:
                logits = logits.index_fill(0, torch.tensor([request.end_id]), -torch.inf)
            token = int(logits.argmax())
            ids.append(token)
            logprobs.append(float(logits.log_softmax(-1)[token]))
            if token in stops:
                reason = reasons.END_ID if token == request.end_id else reasons.STOP_WORDS
                break
            x = embed(torch.tensor([[token]]))
        result.is_final, result.output_token_ids, result.log_probs = True, [ids], [logprobs]
        result.finish_reasons = [reason]
        return result

    def enqueue(self: Any, request: Any) -> int:
        state = self.__dict__
        with state.setdefault("lock", threading.Lock()):
            pool = state.setdefault("pool", ThreadPoolExecutor(16))
            state.setdefault("requests", []).append(request)
            cancelled = threading.Event()
            future = pool.submit(answer, request, cancelled, state.setdefault("broken", threading.Event()))
            state.setdefault("running", []).append((future, cancelled))
            return len(state["running"]) - 1

    def response(future: Future[Any]) -> list[Any]:
        if not future.done():
            return []
        made = trtllm.Response()
        made.result, made.failed = (None, True) if future.exception() else (future.result(), False)
        return [made]

    def responses(self: Any, id: int, timeout: timedelta) -> list[Any]:  # noqa: A002 - its name in the bindings
        future, _ = self.running[id]
        wait([future], timeout.total_seconds())
        return response(future)

    executor._enqueue_request, executor._await_responses = enqueue, responses
    executor._cancel_request = lambda self, id: self.running[id][1].set()  # noqa: A006
    executor._can_enqueue_requests = lambda self: not self.__dict__.get("stopped", False)
    executor._shutdown = lambda self: self.__dict__.update(stopped=True)
    trtllm.Response._has_error = lambda self: self.failed
