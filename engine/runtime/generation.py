"""Greedy answering, the same for every runtime that computes logits: only the arithmetic behind it differs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.findings import ModelIdentity
from engine.model.config import MedregaConfig
from engine.model.preprocess import preprocess
from engine.model.tokenizer import Tokenizer, chat
from engine.runtime.protocol import Answer, CancelToken, Rgb

if TYPE_CHECKING:
    from engine.runtime.guidance import Guidance

Logits = npt.NDArray[np.float32]
S = TypeVar("S")
T = TypeVar("T")
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

    def end(self, state: S) -> None:
        """Give back what `begin` took."""
        ...


class CheckpointRuntime(Generic[T]):
    """What runtimes over a MedRegA folder share: configuration, tokenizer, identity, and the images seen last.

    Parameters
    ----------
    folder : Path
        Holds configuration and tokenizer.
    model : ModelIdentity
    dtype : str
        Both are recorded in every reading.
    """

    def __init__(self, folder: Path, model: ModelIdentity, dtype: str) -> None:
        self.config = MedregaConfig.from_folder(folder)
        self.tokenizer = Tokenizer(folder)
        self._identity = model
        self._dtype = dtype
        self._longest = self.config.decoder.max_position_embeddings
        self._images: OrderedDict[bytes, T] = OrderedDict()
        self._lock = threading.Lock()

    def _image_tokens(self, pixels: npt.NDArray[np.float32]) -> T:
        """What the vision part makes of [1, 3, size, size]."""
        raise NotImplementedError

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        return self._identity

    @property
    def decoding(self) -> dict[str, Any]:
        """Decoding settings, as recorded in a reading."""
        return {"strategy": "greedy", "beams": 1, "dtype": self._dtype, "constrained": False}

    def close(self) -> None:
        """Forget the images seen."""
        with self._lock:
            self._images.clear()

    def _prompt(self, question: str) -> list[int]:
        """A question in the model's template, as ids."""
        prompt = self.tokenizer.encode(chat(question, self.config.image_tokens))
        if prompt.count(self.tokenizer.image_context_id) != self.config.image_tokens:
            raise ModelError("a question holds <IMG_CONTEXT>, which stands for the image alone")
        if len(prompt) >= self._longest:
            raise ModelError(f"a question of {len(prompt)} tokens is too long for the model's {self._longest}")
        return prompt

    def _answer(
        self, ids: list[int], prompt: list[int], logprobs: list[float], finish: Literal["stop", "length"]
    ) -> Answer:
        text, offsets = self.tokenizer.decode(ids), self.tokenizer.offsets(ids)
        return Answer(text, tuple(ids), tuple(prompt), tuple(logprobs), finish, offsets)

    def _tokens_of(self, image: Rgb) -> tuple[bytes, T]:
        """The image's digest, and its tokens, which are kept for the next questions about it.

        The digest is of every pixel and of the shape: one patient's image must never answer for another's.
        """
        digest = hashlib.sha256(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
        key = digest.digest()
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return key, self._images[key]
        tokens = self._image_tokens(preprocess(image, self.config.vision.image_size)[None])
        with self._lock:
            self._images[key] = tokens
            while len(self._images) > _IMAGES_KEPT:
                self._images.popitem(last=False)
        return key, tokens


class GreedyRuntime(CheckpointRuntime[npt.NDArray[np.float32]]):
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
        super().__init__(folder, identity(folder, runtime, build), dtype)
        self._arithmetic = arithmetic
        self._prepared: Guidance | None = None

    def _image_tokens(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return self._arithmetic.image_tokens(pixels)

    def ask(
        self,
        image: Rgb,
        question: str,
        *,
        max_new_tokens: int = 400,
        grammar: str | None = None,
        cancel: CancelToken | None = None,
    ) -> Answer:
        """Ask one question about one image; see `Runtime.ask`."""
        _, tokens = self._tokens_of(image)
        prompt = self._prompt(question)
        logits, state = self._arithmetic.begin(prompt, tokens, self.tokenizer.image_context_id)
        try:
            return self._decode(
                prompt, logits, state, min(max_new_tokens, self._longest - len(prompt)), grammar, cancel
            )
        finally:
            self._arithmetic.end(state)

    def _decode(
        self, prompt: list[int], logits: Logits, state: Any, limit: int, grammar: str | None, cancel: CancelToken | None
    ) -> Answer:
        """Choose token by token, from the logits behind the prompt."""
        ids: list[int] = []
        logprobs: list[float] = []
        guide = self._guidance(len(logits)).follow(grammar, limit) if grammar else None
        logits = logits.copy()
        logits[self.tokenizer.end_id] = -np.inf  # as MedRegA is used: at least one token
        while True:
            if cancel is not None:
                cancel.check()
            token = guide.choose(logits) if guide else int(logits.argmax())
            if token in self.tokenizer.stop_ids:
                return self._answer(ids, prompt, logprobs, "length" if guide and guide.ended_early else "stop")
            wide = logits.astype(np.float64)
            top = wide.max()
            logprobs.append(float(wide[token] - top - np.log(np.exp(wide - top).sum())))
            ids.append(token)
            if len(ids) >= limit:
                return self._answer(ids, prompt, logprobs, "length")
            logits, state = self._arithmetic.step(token, state)

    def _guidance(self, size: int) -> Guidance:
        """The vocabulary as constrained decoding wants it, prepared when it is first needed."""
        from engine.runtime.guidance import Guidance  # llguidance is loaded only where an answer is constrained

        with self._lock:
            if self._prepared is None:
                self._prepared = Guidance(self.tokenizer, size)
            return self._prepared


def identity(folder: Path, runtime: str, build: str, digest: str | None = None) -> ModelIdentity:
    """Name a checkpoint: by ``medrega_pacs`` in its configuration where it has one, else as MedRegA itself.

    `digest` is the weights', where they do not lie in the folder.
    """
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("medrega_pacs", {})
    return ModelIdentity(
        name=raw.get("name", "MedRegA"),
        version=raw.get("version", "unversioned"),
        manufacturer=raw.get("manufacturer", "xmed-lab"),
        weights_digest=digest or weights_digest(folder),
        runtime=runtime,
        engine_build=build,
        commissioning=bool(raw.get("commissioning", False)),
    )


def weights_digest(folder: Path) -> str:
    """SHA-256 over the folder's weight files, in the order of their names; of a compile's output, over its source's.

    Raises
    ------
    ModelError
        If there are none.
    """
    from engine.compile.manifest import NAME, Manifest

    if (folder / NAME).is_file():
        source = Manifest(folder).record["source"]
        return joint_digest(bytes.fromhex(source[name]) for name in sorted(source) if name.endswith(".safetensors"))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no *.safetensors", advice="Copy the checkpoint's weight files there.")
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").digest())
    return joint_digest(digests)


def joint_digest(digests: Iterable[bytes]) -> str:
    """The weights' digest from those of their files, in the order of their names."""
    return hashlib.sha256(b"".join(digests)).hexdigest()
