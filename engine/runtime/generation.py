"""Greedy answering, the same for every runtime that computes logits: only the arithmetic behind it differs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.findings import ModelIdentity
from engine.model.config import MedregaConfig
from engine.model.preprocess import preprocess
from engine.model.tokenizer import Tokenizer, chat
from engine.runtime.protocol import Answer, CancelToken, Rgb

Logits = npt.NDArray[np.float32]
S = TypeVar("S")
_IMAGES_KEPT: Final = 4


class Arithmetic(Protocol[S]):
    """What a runtime computes. `S` is its own key-value cache."""

    def image_tokens(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[1, 3, size, size] to [1, image tokens, hidden]."""
        ...

    def begin(self, ids: list[int], image: npt.NDArray[np.float32], context: int) -> tuple[Logits, S]:
        """Read a prompt whose `context` ids stand for the image's tokens; logits of what comes next."""
        ...

    def step(self, token: int, state: S) -> tuple[Logits, S]:
        """Read one more token; logits of what comes next."""
        ...


class GreedyRuntime:
    """`engine.runtime.protocol.Runtime` over some arithmetic: greedy, one beam, as MedRegA is used.

    Parameters
    ----------
    folder : Path
        Checkpoint folder with configuration and tokenizer.
    arithmetic : Arithmetic
    runtime, build, dtype : str
        Recorded in every reading.
    """

    def __init__(self, folder: Path, arithmetic: Arithmetic[Any], *, runtime: str, build: str, dtype: str) -> None:
        self.config = MedregaConfig.from_folder(folder)
        self.tokenizer = Tokenizer(folder)
        self._arithmetic = arithmetic
        self._identity = identity(folder, runtime, build)
        self._dtype = dtype
        self._images: OrderedDict[bytes, npt.NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        return self._identity

    @property
    def decoding(self) -> dict[str, Any]:
        """Decoding settings, as recorded in a reading."""
        return {"strategy": "greedy", "beams": 1, "dtype": self._dtype, "constrained": False}

    def ask(self, image: Rgb, question: str, *, max_new_tokens: int = 400, cancel: CancelToken | None = None) -> Answer:
        """Ask one question about one image; see `Runtime.ask`."""
        tokens = self._tokens_of(image)
        prompt = self.tokenizer.encode(chat(question, self.config.image_tokens))
        longest = self.config.decoder.max_position_embeddings
        if len(prompt) >= longest:
            raise ModelError(f"a question of {len(prompt)} tokens is too long for the model's {longest}")
        logits, state = self._arithmetic.begin(prompt, tokens, self.tokenizer.image_context_id)
        ids: list[int] = []
        logprobs: list[float] = []
        limit = min(max_new_tokens, longest - len(prompt))
        while True:
            if cancel is not None:
                cancel.check()
            token = int(logits.argmax())
            if token in self.tokenizer.stop_ids:
                return self._answer(ids, prompt, logprobs, "stop")
            wide = logits.astype(np.float64)
            top = wide.max()
            logprobs.append(float(wide[token] - top - np.log(np.exp(wide - top).sum())))
            ids.append(token)
            if len(ids) >= limit:
                return self._answer(ids, prompt, logprobs, "length")
            logits, state = self._arithmetic.step(token, state)

    def _answer(
        self, ids: list[int], prompt: list[int], logprobs: list[float], finish: Literal["stop", "length"]
    ) -> Answer:
        text, offsets = self.tokenizer.decode(ids), self.tokenizer.offsets(ids)
        return Answer(text, tuple(ids), tuple(prompt), tuple(logprobs), finish, offsets)

    def _tokens_of(self, image: Rgb) -> npt.NDArray[np.float32]:
        """The image's tokens, kept for the next questions about it.

        The key is a digest of every pixel and of the shape: one patient's image must never answer for another's.
        """
        digest = hashlib.sha256(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
        key = digest.digest()
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
        tokens = self._arithmetic.image_tokens(preprocess(image, self.config.vision.image_size)[None])
        with self._lock:
            self._images[key] = tokens
            while len(self._images) > _IMAGES_KEPT:
                self._images.popitem(last=False)
        return tokens

    def close(self) -> None:
        """Forget the images seen."""
        with self._lock:
            self._images.clear()


def identity(folder: Path, runtime: str, build: str) -> ModelIdentity:
    """Name a checkpoint: by ``medrega_pacs`` in its configuration where it has one, else as MedRegA itself."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("medrega_pacs", {})
    return ModelIdentity(
        name=raw.get("name", "MedRegA"),
        version=raw.get("version", "unversioned"),
        manufacturer=raw.get("manufacturer", "xmed-lab"),
        weights_digest=weights_digest(folder),
        runtime=runtime,
        engine_build=build,
        commissioning=bool(raw.get("commissioning", False)),
    )


def weights_digest(folder: Path) -> str:
    """SHA-256 over the folder's weight files, in the order of their names.

    Raises
    ------
    ModelError
        If there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no *.safetensors", advice="Copy the checkpoint's weight files there.")
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
