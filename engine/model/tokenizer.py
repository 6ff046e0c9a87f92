"""The slow SentencePiece Llama tokenizer with added tokens, and the Hermes-2 chat template.

Reads ``tokenizer.model``, ``added_tokens.json`` and ``tokenizer_config.json`` of a checkpoint folder, without
transformers. Text between two added tokens is encoded by itself; what differs between tokenizers is the leading space
of such a piece (``legacy`` in the configuration).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from engine.errors import ModelError

IMAGE: Final = "<image>"
IMAGE_CONTEXT: Final = "<IMG_CONTEXT>"
SYSTEM: Final = "Answer the questions."
STOP_TOKENS: Final = ("<|im_end|>", "<|im_start|>", "<|im_sep|>")


def chat(question: str, image_tokens: int) -> str:
    """Put a question into MedRegA's template (Hermes-2; no newline after ``<|im_end|>``).

    Parameters
    ----------
    question : str
        Holds ``<image>`` exactly once.
    image_tokens : int
        How many tokens the image becomes.
    """
    if question.count(IMAGE) != 1:
        raise ValueError("a question holds <image> exactly once")
    image = "<img>" + IMAGE_CONTEXT * image_tokens + "</img>"
    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\n"
        + question.replace(IMAGE, image)
        + "<|im_end|><|im_start|>assistant\n"
    )


class Tokenizer:
    """Text to ids and back, special tokens kept.

    Parameters
    ----------
    folder : Path
        A checkpoint folder.

    Raises
    ------
    ModelError
        If a file is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        try:
            added: dict[str, int] = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            model = (folder / "tokenizer.model").read_bytes()
        except (OSError, ValueError) as error:
            raise ModelError(f"the tokenizer in {folder} cannot be read: {error}") from error
        self._legacy: bool = config.get("legacy", True) is not False
        self._bos: bool = config.get("add_bos_token", True)
        if not self._legacy:
            # Without the legacy rule only the very first piece may begin with a space that the text does not have.
            proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
            proto.normalizer_spec.add_dummy_prefix = False
            model = proto.SerializeToString()
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._added = added
        self._words = {index: word for word, index in added.items()}
        longest_first = sorted(added, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self.image_context_id = self._required(IMAGE_CONTEXT)
        self.stop_ids = frozenset([self._pieces.eos_id(), *(added[word] for word in STOP_TOKENS if word in added)])
        self._prefix: bool = config.get("add_prefix_space", True)

    @property
    def size(self) -> int:
        """Number of ids: pieces and added tokens."""
        return max(len(self._pieces) - 1, *self._added.values()) + 1

    def _required(self, token: str) -> int:
        try:
            return self._added[token]
        except KeyError:
            raise ModelError(f"the tokenizer lacks the token {token}") from None

    def token_id(self, word: str) -> int:
        """Id of an added token."""
        return self._required(word)

    def encode(self, text: str) -> list[int]:
        """Text with added tokens in it to ids."""
        ids = [self._pieces.bos_id()] if self._bos else []
        for place, part in enumerate(self._split.split(text)):
            if not part:
                continue
            if part in self._added:
                ids.append(self._added[part])
            elif self._legacy or (place == 0 and self._prefix):
                ids.extend(self._pieces.encode(part if self._legacy else " " + part))
            else:
                ids.extend(self._pieces.encode(part))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, special tokens kept, no space put around them."""
        text, run = "", list[int]()
        for index in ids:
            if index in self._words:
                text += (self._pieces.decode(run) if run else "") + self._words[index]
                run = []
            else:
                run.append(index)
        return text + (self._pieces.decode(run) if run else "")
