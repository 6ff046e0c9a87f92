"""How fast a model answers, against the limit that its memory's bandwidth sets, both measured in one run.

Decoding a token reads every weight of the decoder once, and the cache; a machine cannot do that faster than it reads.
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from engine.errors import ModelError
from engine.model.config import DecoderConfig, MedregaConfig
from engine.prompts import Prompts
from engine.resources import readable

if TYPE_CHECKING:
    import torch

    from engine.model.medrega import Medrega
    from engine.runtime.generation import CheckpointRuntime
    from engine.runtime.protocol import Rgb, Runtime

PUBLISHED: Final = Path(__file__).parent / "model" / "published"
"""MedRegA's sizes, as far as they are known from public sources."""
_BYTES: Final = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "bf16": 2.0, "fp8": 1.0, "int4-awq": 0.5}
_REPEATS: Final = 3
_COPIED: Final = 1 << 28
"""Bytes that a bandwidth is measured with; on a GPU eight times as many."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How fast so many questions are answered at the same time, and how fast they could be."""

    batch: int
    tokens_per_second: float
    limit: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured.

    Parameters
    ----------
    build, device, dtype : str
    vision_ms, prefill_ms : float
        For one image, and for one question of `prompt_tokens`.
    prompt_tokens : int
    decoding : tuple of Decoding
    bandwidth : float
        Bytes a second that a copy reads and writes.
    weights : float
        Bytes of the decoder that each token reads.
    peak_memory : int or None
        Bytes that the process has used at most, of the GPU's memory where one is used; None where that is not told.
    agreement : str
        Whether a toy model gives the CPU's tokens on this device; empty where that was not asked.
    """

    build: str
    device: str
    dtype: str
    vision_ms: float
    prefill_ms: float
    prompt_tokens: int
    decoding: tuple[Decoding, ...]
    bandwidth: float
    weights: float
    peak_memory: int | None
    agreement: str = ""

    def rows(self) -> list[tuple[str, str]]:
        """The figures as a table for people."""
        rows = [
            ("what ran", f"{self.build}; {self.dtype} on {self.device}"),
            ("vision, one image", f"{self.vision_ms:.1f} ms"),
            (f"prefill, {self.prompt_tokens} tokens", f"{self.prefill_ms:.1f} ms"),
            ("memory bandwidth, copied", f"{readable(round(self.bandwidth))}/s"),
            ("weights that a token reads", readable(round(self.weights))),
        ]
        for one in self.decoding:
            share = f"{one.tokens_per_second / one.limit:.0%} of the limit of {one.limit:.1f}"
            rows.append((f"decoding, batch {one.batch}", f"{one.tokens_per_second:.1f} tokens/s, {share}"))
        rows.append(("peak memory", readable(self.peak_memory) if self.peak_memory else "not told"))
        return rows + ([("toy model against the CPU", self.agreement)] if self.agreement else [])


def measure(
    model: str,
    runtime: str,
    batches: Sequence[int],
    tokens: int,
    *,
    device: str | None = None,
    sizes: Path | None = None,
) -> Figures:
    """Measure a model that is there, or one of these sizes with random weights in PyTorch.

    Parameters
    ----------
    model, runtime : str
        As `engine.runtime.load_runtime` takes them.
    batches : sequence of int
        How many questions at the same time; one measurement each.
    tokens : int
        Length of an answer.
    device : str, optional
        Where PyTorch computes; a GPU without, where there is one.
    sizes : Path, optional
        Folder of a ``config.json``: random weights take the place of `model`.

    Raises
    ------
    ModelError
        If the model cannot be loaded, or answers too shortly.
    """
    if sizes is not None:
        try:
            import torch
        except ModuleNotFoundError as error:
            raise ModelError("random weights need PyTorch", advice="Install medrega-pacs[torch].") from error
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        drawn = random_model(MedregaConfig.from_folder(sizes), device, dtype)
        return replace(measure_model(drawn, batches, tokens), agreement=agreement(device))
    from engine.runtime import load_runtime

    loaded: Any = load_runtime(runtime, model, device=device)
    try:
        return (
            measure_model(loaded.model, batches, tokens)
            if runtime == "torch"
            else measure_runtime(loaded, batches, tokens)
        )
    finally:
        loaded.close()


def bandwidth(device: str) -> float:
    """Bytes a second that a copy reads and writes: of a GPU's memory, or of main memory by all cores at once."""
    if device.startswith("cuda"):
        import torch

        source = torch.zeros(_COPIED * 2, dtype=torch.float32, device=device)
        target = torch.empty_like(source)

        def on_gpu() -> None:
            target.copy_(source)
            torch.cuda.synchronize()

        return 2 * source.nbytes / _fastest(on_gpu)
    cores = len(os.sched_getaffinity(0))
    sources = [np.ones(_COPIED // 8 // cores) for _ in range(cores)]
    targets = [np.ones_like(source) for source in sources]
    with ThreadPoolExecutor(cores) as pool:
        seconds = _fastest(lambda: list(pool.map(np.copyto, targets, sources)))
    return 2 * sum(source.nbytes for source in sources) / seconds


def weights_per_token(config: DecoderConfig, dtype: str) -> float:
    """Bytes of weights that decoding a token reads: all but the embeddings, of which it reads one row."""
    size, head = config.hidden_size, config.head_dim
    attention = size * head * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    layer = attention + 3 * size * config.intermediate_size + 2 * size
    return (config.num_hidden_layers * layer + size + config.vocab_size * size) * _BYTES[dtype]


def limit(config: DecoderConfig, dtype: str, batch: int, length: int, speed: float) -> float:
    """Tokens a second that a bandwidth allows a batch of sequences of a length."""
    wide = max(_BYTES[dtype], 2.0) if dtype != "fp8" else 1.0  # quantised weights keep their cache in 16 bits
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * length * wide
    return batch * speed / (weights_per_token(config, dtype) + batch * cache)


def measure_runtime(runtime: CheckpointRuntime[Any], batches: Sequence[int], tokens: int) -> Figures:
    """Measure any runtime from outside, by the time its answers take.

    Raises
    ------
    ModelError
        If its answers are too short to measure decoding.
    """
    asked = cast("Runtime", runtime)
    device = "cuda" if runtime.identity.runtime == "tensorrt_llm" else "cpu"
    dtype, config, speed = str(runtime.decoding["dtype"]), runtime.config.decoder, bandwidth(device)
    # A report is the longest answer.
    question = Prompts.shipped().compose("report", "en", image="X-ray image", an_image="an X-ray image").text
    images = [_image(number) for number in range(_REPEATS + 1)]
    first = asked.ask(images[-1], question, max_new_tokens=2)
    fresh = [_seconds(partial(asked.ask, image, question, max_new_tokens=1)) for image in images[:-1]]
    seen = [_seconds(lambda: asked.ask(images[0], question, max_new_tokens=1)) for _ in range(_REPEATS)]
    prefill = min(seen)
    prompt, decoding = len(first.prompt_token_ids), []
    for batch in batches:
        with ThreadPoolExecutor(batch) as pool:
            begin = time.perf_counter()
            futures = [pool.submit(asked.ask, images[0], question, max_new_tokens=tokens) for _ in range(batch)]
            said = sum(len(future.result().token_ids) - 1 for future in futures)
            spent = time.perf_counter() - begin - prefill
        if said < batch or spent <= 0:
            raise ModelError("the model's answers are too short to measure decoding")
        decoding.append(Decoding(batch, said / spent, limit(config, dtype, batch, prompt + tokens // 2, speed)))
    return Figures(
        build=f"{runtime.identity.runtime}, {runtime.identity.engine_build}",
        device=device,
        dtype=dtype,
        vision_ms=max(0.0, statistics.median(fresh) - prefill) * 1000,
        prefill_ms=prefill * 1000,
        prompt_tokens=prompt,
        decoding=tuple(decoding),
        bandwidth=speed,
        weights=weights_per_token(config, dtype),
        peak_memory=_peak(device),
    )


def measure_model(model: Medrega, batches: Sequence[int], tokens: int, *, prompt: int = 450) -> Figures:
    """Measure a model in PyTorch from within: fixed cache, one CUDA graph a step, whole batches."""
    import torch

    from engine.model.static import StaticDecoder

    weight = model.language_model.lm_head.weight
    device, dtype = str(weight.device), str(weight.dtype).removeprefix("torch.")
    config, size = model.config.decoder, model.config.vision.image_size
    prompt = min(prompt, config.max_position_embeddings - tokens)
    speed = bandwidth(device)
    pixels = torch.zeros((1, 3, size, size), dtype=weight.dtype, device=device)
    embedded = torch.randn((1, prompt, config.hidden_size), device=device).to(weight.dtype) * 0.02

    def synchronized(call: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            call()
            if weight.is_cuda:
                torch.cuda.synchronize()

        return run

    with torch.inference_mode():
        vision = _fastest(synchronized(lambda: model.image_tokens(pixels)))
        decoding, prefill = [], math.nan
        for batch in batches:
            static = StaticDecoder(model.language_model, batch, prompt + tokens)
            prompts = embedded.expand(batch, -1, -1)
            if batch == batches[0]:
                prefill = _fastest(synchronized(partial(static.begin, prompts))) / batch
            chosen = static.begin(prompts).argmax(-1)
            chosen = static.step(chosen).argmax(-1)  # records the graph

            def decode(static: StaticDecoder = static, chosen: torch.Tensor = chosen) -> None:
                for _ in range(tokens - 2):
                    chosen = static.step(chosen).argmax(-1)

            spent = _seconds(synchronized(decode))
            reached = limit(config, dtype, batch, prompt + tokens // 2, speed)
            decoding.append(Decoding(batch, batch * (tokens - 2) / spent, reached))
            del static
    name = torch.cuda.get_device_name(device) if weight.is_cuda else "cpu"
    return Figures(
        build=f"torch {torch.__version__}",
        device=name,
        dtype=dtype,
        vision_ms=vision * 1000,
        prefill_ms=prefill * 1000,
        prompt_tokens=prompt,
        decoding=tuple(decoding),
        bandwidth=speed,
        weights=weights_per_token(config, dtype),
        peak_memory=_peak(device),
    )


def random_model(config: MedregaConfig, device: str, dtype: torch.dtype, spread: float = 0.02) -> Medrega:
    """A model of these sizes with random weights of this deviation, made on the device, never twice in memory."""
    import torch

    from engine.model.medrega import Medrega
    from engine.resources import require_memory

    with torch.device("meta"):
        model = Medrega(config)
    needed = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else None
    require_memory(needed, f"a model with random weights on {device}", free)
    model = model.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(0.0, spread, generator=generator)
    return model


def agreement(device: str, *, prompts: int = 8, tokens: int = 24) -> str:
    """Whether a toy model on a device, with its fixed cache and graphs, gives the tokens of the CPU's plain decoder."""
    import torch

    from engine.model.static import StaticDecoder

    torch.backends.cudnn.allow_tf32 = False
    published = MedregaConfig.from_folder(PUBLISHED)
    vision = replace(published.vision, hidden_size=50, intermediate_size=100, num_hidden_layers=2, image_size=56)
    decoder = replace(published.decoder, hidden_size=112, intermediate_size=160, num_hidden_layers=2, vocab_size=500)
    config = replace(published, vision=vision, decoder=decoder)
    here = random_model(config, "cpu", torch.float32, spread=0.3)
    there = random_model(config, device, torch.float32)
    there.load_state_dict(here.state_dict())
    same, largest = 0, 0.0
    size = config.vision.image_size
    with torch.inference_mode():
        for number in range(prompts):
            pixels = torch.randn((1, 3, size, size), generator=torch.Generator().manual_seed(number))
            image = here.image_tokens(pixels)
            logits, past = here.language_model(image)
            static = StaticDecoder(there.language_model, 1, image.shape[1] + tokens)
            other = static.begin(there.image_tokens(pixels.to(device)))
            ours, theirs, plain = [], [], logits[:, -1]
            for _ in range(tokens):
                largest = max(largest, float((plain - other.cpu()).abs().max()))
                ours.append(int(plain.argmax()))
                theirs.append(int(other.argmax()))
                token = torch.tensor([ours[-1]])
                logits, past = here.language_model(here.language_model.model.embed_tokens(token[None]), past)
                plain, other = logits[:, -1], static.step(token.to(device))
            same += ours == theirs
    return f"same tokens on {same} of {prompts} prompts, largest difference of a logit {largest:.1e}"


def _image(seed: int) -> Rgb:
    return np.random.default_rng(seed).integers(0, 256, (512, 512, 3)).astype(np.uint8)


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs, the first not counted."""
    call()
    return min(_seconds(call) for _ in range(_REPEATS))


def _peak(device: str) -> int | None:
    if not device.startswith("cuda"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import torch

    return torch.cuda.max_memory_allocated(device) or None  # TensorRT-LLM allocates by itself
