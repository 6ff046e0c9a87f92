"""TensorRT-LLM 1.2.1: production, on a GPU host. Runs the output folder of ``engine compile``.

Kept thin, for it runs nowhere else. A question is one request to TensorRT-LLM's executor, which answers many at the
same time; each thread that asks waits for its own. The image's tokens, made by a TensorRT engine, are the request's
prompt table: the ids behind the vocabulary stand for its rows. Every name of NVIDIA's that is used here stands with its
place in the public source in ``tests/engine/tensorrt_llm_api.json``, and a test refuses any other.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import tensorrt
import tensorrt_llm
import torch
from tensorrt_llm.bindings import executor as trtllm

from engine.compile.engines import VISION_ENGINE, longest
from engine.compile.manifest import Manifest
from engine.errors import ModelError, RuntimeLostError
from engine.model.config import MedregaConfig
from engine.model.tokenizer import Tokenizer
from engine.runtime.ebnf import ebnf
from engine.runtime.generation import CheckpointRuntime, identity, joint_digest
from engine.runtime.protocol import Answer, CancelToken, Rgb

_POLL: Final = timedelta(milliseconds=50)
"""How often a waiting question looks whether it was cancelled."""
_LEAVE: Final = timedelta(seconds=5)
"""How long a cancelled request may take to end."""
_DEVICE: Final = "cuda"
_METASPACE: Final = json.dumps(
    {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]}, "normalizer": None, "pre_tokenizer": None}
)
"""What the grammar compiler reads of a Hugging Face tokenizer: that pieces are SentencePiece's, with bytes."""


class VisionEngine:
    """``vision/model.engine``: one image at a time.

    Parameters
    ----------
    path : Path
    config : MedregaConfig

    Raises
    ------
    ModelError
        If TensorRT does not take the file: it was built by another version, or for another GPU.
    """

    def __init__(self, path: Path, config: MedregaConfig) -> None:
        self._runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise ModelError(f"TensorRT {tensorrt.__version__} does not take {path}", advice="Compile it on this host.")
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._shape = (config.image_tokens, config.decoder.hidden_size)
        self._lock = threading.Lock()

    def image_tokens(self, pixels: npt.NDArray[np.float32]) -> torch.Tensor:
        """[1, 3, size, size] to [image tokens, hidden] in bfloat16, on the GPU."""
        with self._lock, torch.cuda.stream(self._stream):
            image = torch.from_numpy(pixels).to(_DEVICE)
            tokens = torch.empty((1, *self._shape), dtype=torch.float32, device=_DEVICE)
            self._context.set_input_shape("input", tuple(image.shape))
            self._context.set_tensor_address("input", image.data_ptr())
            self._context.set_tensor_address("encoder_output", tokens.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise RuntimeError("the vision engine did not run")
            table = tokens[0].bfloat16()
            self._stream.synchronize()
        return table


class TensorrtLlmRuntime(CheckpointRuntime[torch.Tensor]):
    """A compiled MedRegA; safe to ask from many threads, whose questions run in one batch.

    Parameters
    ----------
    folder : Path
        Output of ``engine compile``, all its steps done.
    reuse : bool
        Let questions that begin alike share what the engine computed for them, image included. The share is keyed on
        every pixel of the image.

    Raises
    ------
    ModelError
        If the folder holds no compiled engine, or the engines cannot be loaded.
    RuntimeLostError
        If the GPU does not answer.
    """

    def __init__(self, folder: Path, *, reuse: bool = False) -> None:
        manifest = Manifest(folder)
        if VISION_ENGINE not in manifest.outputs():
            raise ModelError(f"{folder} holds no compiled engine", advice="Run medrega-pacs engine compile to its end.")
        weights = {n: d for n, d in sorted(manifest.record["source"].items()) if n.endswith(".safetensors")}
        digest = joint_digest(bytes.fromhex(value) for value in weights.values())
        build = f"tensorrt_llm {tensorrt_llm.__version__} {manifest.digest}"
        settings = manifest.record["settings"]
        super().__init__(folder, identity(folder, "tensorrt_llm", build, digest), settings["dtype"])
        self._longest = longest(self.config)
        self._lost = threading.Event()
        with self._gpu_errors():
            torch.cuda.mem_get_info()
        try:
            self._vision = VisionEngine(folder / VISION_ENGINE, self.config)
            self._executor = trtllm.Executor(
                model_path=folder / "engine",
                model_type=trtllm.ModelType.DECODER_ONLY,
                executor_config=_executor_config(self.config, self.tokenizer, settings, reuse),
            )
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"the engines of {folder} cannot be loaded: {type(error).__name__}",
                advice="Compile on this host, for this GPU, and see that its memory is free.",
            ) from error

    def _image_tokens(self, pixels: npt.NDArray[np.float32]) -> torch.Tensor:
        return self._vision.image_tokens(pixels)

    @property
    def healthy(self) -> bool:
        """Whether questions can be asked: the GPU was not lost, and the executor takes requests."""
        return not self._lost.is_set() and bool(self._executor.can_enqueue_requests())

    def ask(
        self,
        image: Rgb,
        question: str,
        *,
        max_new_tokens: int = 400,
        grammar: str | None = None,
        cancel: CancelToken | None = None,
    ) -> Answer:
        """Ask one question about one image; see `Runtime.ask`.

        Unlike the other runtimes this one lets a grammar's answer end in the middle of a box, at its greatest length.
        """
        prompt = self._prompt(question)
        with self._gpu_errors():
            if not self.healthy:
                raise RuntimeLostError("the engine was lost")
            key, table = self._tokens_of(image)
            count = min(max_new_tokens, self._longest - len(prompt))
            number = self._executor.enqueue_request(request=self._request(prompt, key, table, count, grammar))
            result = self._result(number, cancel)
        return self._read(prompt, result)

    def _request(self, prompt: list[int], key: bytes, table: torch.Tensor, count: int, grammar: str | None) -> Any:
        """One question: greedy, one beam, at least one token."""
        guide = trtllm.GuidedDecodingParams
        guided = guide(guide_type=guide.GuideType.EBNF_GRAMMAR, guide=ebnf(grammar)) if grammar else None
        ids, extra = table_ids(prompt, self.tokenizer.image_context_id, self.config.decoder.vocab_size, key)
        end = self.tokenizer.end_id
        return trtllm.Request(
            input_token_ids=ids,
            max_tokens=count,
            end_id=end,
            pad_id=end,
            stop_words=[[other] for other in sorted(self.tokenizer.stop_ids - {end})],
            sampling_config=trtllm.SamplingConfig(beam_width=1, top_k=1, min_tokens=1),
            output_config=trtllm.OutputConfig(return_log_probs=True, exclude_input_from_output=True),
            prompt_tuning_config=trtllm.PromptTuningConfig(embedding_table=table, input_token_extra_ids=extra),
            guided_decoding_params=guided,
        )

    def _result(self, number: int, cancel: CancelToken | None) -> Any:
        """Wait for a request's end; a cancelled one is taken out of the batch."""
        while True:
            for response in self._executor.await_responses(id=number, timeout=_POLL):
                if response.has_error():
                    raise RuntimeLostError("TensorRT-LLM could not answer a question")
                if response.result.is_final:
                    return response.result
            if self._lost.is_set():
                raise RuntimeLostError("the engine was lost while a question waited")
            if cancel is not None and cancel.cancelled:
                self._executor.cancel_request(id=number)
                self._executor.await_responses(id=number, timeout=_LEAVE)  # what was said so far is not kept
                cancel.check()

    def _read(self, prompt: list[int], result: Any) -> Answer:
        ids, logprobs = list(result.output_token_ids[0]), list(result.log_probs[0])
        stops = [place for place, token in enumerate(ids) if token in self.tokenizer.stop_ids]
        end = stops[0] if stops else len(ids)
        reasons = trtllm.FinishReason
        if result.finish_reasons[0] not in (reasons.END_ID, reasons.STOP_WORDS, reasons.LENGTH):
            raise RuntimeLostError("TensorRT-LLM broke off an answer")
        finish: Literal["stop", "length"] = "length" if result.finish_reasons[0] == reasons.LENGTH else "stop"
        return self._answer(ids[:end], prompt, logprobs[:end], finish)

    @contextmanager
    def _gpu_errors(self) -> Iterator[None]:
        """A fault of CUDA, TensorRT or the executor ends this runtime for all threads: the study is read again."""
        try:
            yield
        except RuntimeError as error:  # all three raise this one
            self._lost.set()
            raise RuntimeLostError(f"the GPU or its engine failed: {type(error).__name__}") from error

    def close(self) -> None:
        """Stop the executor; threads that still wait are told that the engine is lost."""
        self._lost.set()
        super().close()
        self._executor.shutdown()


def table_ids(prompt: list[int], context: int, vocabulary: int, key: bytes) -> tuple[list[int], list[int]]:
    """Let a prompt point into its image's table.

    Parameters
    ----------
    prompt : list of int
        With `context` for each of the image's tokens.
    context, vocabulary : int
        The id that stands for an image token, and the number of ids.
    key : bytes
        Digest of the whole image.

    Returns
    -------
    ids : list of int
        The n-th `context` becomes ``vocabulary + n``, which the engine looks up in the table's row n.
    extra : list of int
        What tells cached tokens of one image from those of another with the same ids: zero for words; for the image's
        tokens a stream drawn from `key`, 64 bits a token, so that no two images share a cached block.
    """
    places = [place for place, token in enumerate(prompt) if token == context]
    stream = np.frombuffer(hashlib.shake_256(key).digest(8 * len(places)), np.uint64)
    ids, extra = list(prompt), [0] * len(prompt)
    for row, place in enumerate(places):
        ids[place], extra[place] = vocabulary + row, int(stream[row])
    return ids, extra


def _executor_config(config: MedregaConfig, tokenizer: Tokenizer, settings: dict[str, Any], reuse: bool) -> Any:
    """In-flight batching; several GPUs are driven by TensorRT-LLM's own worker processes."""
    ranks = settings["tensor_parallel"]
    guided = trtllm.GuidedDecodingConfig(
        backend=trtllm.GuidedDecodingConfig.GuidedDecodingBackend.XGRAMMAR,  # the only one of the C++ executor
        encoded_vocab=tokenizer.vocabulary(config.decoder.vocab_size),
        tokenizer_str=_METASPACE,
        stop_token_ids=sorted(tokenizer.stop_ids),
    )
    parallel = None
    if ranks > 1:
        worker = Path(tensorrt_llm.__file__).parent / "bin" / "executorWorker"
        parallel = trtllm.ParallelConfig(
            communication_type=trtllm.CommunicationType.MPI,
            communication_mode=trtllm.CommunicationMode.ORCHESTRATOR,
            orchestrator_config=trtllm.OrchestratorConfig(is_orchestrator=True, worker_executable_path=str(worker)),
        )
    return trtllm.ExecutorConfig(
        max_beam_width=1,
        kv_cache_config=trtllm.KvCacheConfig(enable_block_reuse=reuse),
        max_batch_size=settings["max_batch"],
        parallel_config=parallel,
        guided_decoding_config=guided,
    )
