"""The slow SentencePiece Llama tokenizer with added tokens, and the Hermes-2 chat template.

Reads ``tokenizer.model``, ``tokenizer_config.json``, ``added_tokens.json`` and ``special_tokens_map.json`` of a
checkpoint folder, without transformers, and gives the ids that its slow ``LlamaTokenizer`` gives. Text between two
added tokens is encoded by itself; what differs between tokenizers is the leading space of such a piece (``legacy`` in
the configuration): with it every piece begins with a space of its own, without it only the very first one does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from engine.errors import ModelError

IMAGE: Final = "<image>"
IMAGE_CONTEXT: Final = "<IMG_CONTEXT>"
SYSTEM: Final = "Answer the questions."
STOP_TOKENS: Final = ("<|im_end|>", "<|im_start|>", "<|im_sep|>")
TOKENIZER_FILES: Final = ("tokenizer.model", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
"""The first two are always there; the others where the checkpoint has them."""
_SPACE: Final = "\u2581"
_NAMED: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_DEFAULTS: Final = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


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


@dataclass(frozen=True, slots=True)
class _Added:
    """An added token; `lstrip` and `rstrip` say whether it eats the white space before and after it."""

    content: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    @classmethod
    def parse(cls, raw: Any) -> _Added:
        """From a string or from a dictionary of flags, as both stand in tokenizer configurations."""
        if isinstance(raw, str):
            return cls(raw)
        return cls(raw["content"], *(bool(raw.get(flag)) for flag in ("lstrip", "rstrip", "single_word")))


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
            config = _read(folder / "tokenizer_config.json")
            model = (folder / "tokenizer.model").read_bytes()
            self._legacy = config.get("legacy") is not False
            if not self._legacy:
                # Without the legacy rule SentencePiece puts no space of its own before a piece.
                proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
                proto.normalizer_spec.add_dummy_prefix = False
                model = proto.SerializeToString()
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
            self._tokens, self._special = self._added_tokens(folder, config)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, DecodeError) as error:
            raise ModelError(f"the tokenizer in {folder} cannot be read: {error}") from error
        self._ids = {token.content: index for index, token in self._tokens.items()}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._bos = [self._required(_content(config, "bos_token"))] if config.get("add_bos_token", True) else []
        self._eos = [self._required(_content(config, "eos_token"))] if config.get("add_eos_token") else []
        self._prefix = bool(config.get("add_prefix_space", True))
        self._unknown = _content(config, "unk_token")
        self._unknown_length = len(self._pieces.encode(self._unknown, out_type=str))
        self.image_context_id = self._required(IMAGE_CONTEXT)
        stops = (self._find(word) for word in (*STOP_TOKENS, _content(config, "eos_token")))
        self.stop_ids = frozenset([self._pieces.eos_id(), *(index for index in stops if index is not None)])
        end = self._find(STOP_TOKENS[0])
        self.end_id = self._pieces.eos_id() if end is None else end

    def _added_tokens(self, folder: Path, config: dict[str, Any]) -> tuple[dict[int, _Added], set[str]]:
        """Tokens that text is split at, by id, and the words among them that are special.

        ``added_tokens_decoder`` replaces the older files ``added_tokens.json`` and ``special_tokens_map.json``. The
        named tokens (beginning, end, unknown, ...) are added tokens too, with the id of their piece or the next free.
        """
        found: dict[int, _Added] = {}
        if "added_tokens_decoder" in config:
            found = {int(index): _Added.parse(raw) for index, raw in config["added_tokens_decoder"].items()}
        else:
            if (folder / "special_tokens_map.json").exists():
                named = _read(folder / "special_tokens_map.json")
                named["additional_special_tokens"] = [
                    *(config.get("additional_special_tokens") or []),
                    *named.get("additional_special_tokens", []),
                ]
                config.update(named)
            found = {index: _Added(word) for word, index in _read(folder / "added_tokens.json").items()}
        flagged = {token.content for token in found.values()} if "added_tokens_decoder" in config else set()
        more = [raw for raw in config.get("additional_special_tokens") or [] if raw]
        vocabulary = {self._pieces.id_to_piece(index): index for index in range(len(self._pieces))}
        vocabulary |= {token.content: index for index, token in found.items()}
        free = len(vocabulary)
        # Flags of the table hold, but not for names left to their default, nor against flags given beside a name.
        given = [(config.get(name) or _DEFAULTS.get(name), bool(config.get(name))) for name in _NAMED]
        for raw, table_holds in given + [(raw, isinstance(raw, str)) for raw in more]:
            if not raw:
                continue
            token = _Added.parse(raw)
            if token.content not in vocabulary:
                vocabulary[token.content], free = free, free + 1
            if not (table_holds and token.content in flagged):
                found[vocabulary[token.content]] = token
        special = [_content(config, name) for name in _NAMED] + [_Added.parse(raw).content for raw in more]
        return found, {word for word in special if word}

    @property
    def size(self) -> int:
        """Number of ids: pieces and added tokens."""
        return max(len(self._pieces) - 1, *self._tokens) + 1

    def _find(self, word: str) -> int | None:
        """Id of an added token or of a piece of its own."""
        if word in self._ids:
            return self._ids[word]
        index: int = self._pieces.piece_to_id(word)
        return None if index == self._pieces.unk_id() else index

    def _required(self, token: str) -> int:
        index = self._find(token)
        if index is None:
            raise ModelError(f"the tokenizer lacks the token {token}")
        return index

    def token_bytes(self, size: int) -> list[bytes]:
        """What each of `size` ids stands for, in bytes; added and control tokens behind a byte 255."""
        found = [b""] * size
        for index in range(min(size, len(self._pieces))):
            piece = self._pieces.id_to_piece(index)
            if self._pieces.is_byte(index):
                found[index] = bytes([int(piece[1:-1], 16)])
            elif self._pieces.is_control(index) or self._pieces.is_unknown(index) or self._pieces.is_unused(index):
                found[index] = b"\xff" + piece.encode()
            else:
                found[index] = piece.replace(_SPACE, " ").encode()
        for index, token in self._tokens.items():
            if index < size:
                found[index] = b"\xff" + token.content.encode()
        return found

    def vocabulary(self, size: int) -> list[str]:
        """The piece or added token of each of `size` ids, as the tokenizer's files spell them."""
        pieces = [self._pieces.id_to_piece(index) for index in range(min(size, len(self._pieces)))]
        pieces += [""] * (size - len(pieces))
        for index, token in self._tokens.items():
            if index < size:
                pieces[index] = token.content
        return pieces

    def token_id(self, word: str) -> int:
        """Id of an added token."""
        return self._required(word)

    def encode(self, text: str) -> list[int]:
        """Text with added tokens in it to ids."""
        if text and not self._legacy:
            text = text.replace(_SPACE, " ")
            if self._prefix:
                text = _SPACE + text
        pieces: list[str] = []
        for part in self._parts(text):
            pieces += [part] if part in self._ids else self._encode_part(part)
        if not self._legacy and pieces[:1] == [_SPACE] and pieces[1:2] and pieces[1] in self._special:
            del pieces[0]  # the space put before the text, where the text begins with a special token
        ids = [self._ids.get(piece, self._pieces.piece_to_id(piece)) for piece in pieces]
        return [*self._bos, *ids, *self._eos]

    def _parts(self, text: str) -> list[str]:
        """The text cut at added tokens, which eat white space around them where their flags say so."""
        parts = [part for part in self._split.split(text) if part]
        for place, part in enumerate(parts):
            if part not in self._ids:
                continue
            token = self._tokens[self._ids[part]]
            left = parts[place - 1] if place else ""
            right = parts[place + 1] if place + 1 < len(parts) else ""
            if token.rstrip and right:
                parts[place + 1] = right = right.lstrip()
            if token.lstrip and left:
                parts[place - 1] = left = left.rstrip()
            if token.single_word and left and left[-1] != " ":
                parts[place - 1], parts[place] = left + part, ""
            elif token.single_word and right and right[0] != " ":
                parts[place], parts[place + 1] = "", part + right
        return [part for part in parts if part]

    def _encode_part(self, part: str) -> list[str]:
        if self._legacy or not part.startswith((_SPACE, " ")):
            pieces: list[str] = self._pieces.encode(part, out_type=str)
            return pieces
        # A leading space counts as it would in the middle of a text: something stands before it, and is cut off again.
        pieces = self._pieces.encode(self._unknown + part, out_type=str)
        return pieces[self._unknown_length :]

    def offsets(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Where in `decode` of these ids the text of each begins, found in one pass.

        What a piece adds to a text depends on the pieces before it only back to the last one that gave whole
        characters: those of a character's bytes, and the space that the beginning of a text loses.
        """
        places, at = list[int](), 0
        window, before = list[int](), 0  # the pieces that the next one may depend on, and where their text begins
        for index in ids:
            places.append(at)
            if index in self._tokens or index >= len(self._pieces):
                at += len(self.decode([index]))
                window, before = [], at
                continue
            window.append(index)
            at = before + len(self._pieces.decode(window))
            if not self._pieces.is_byte(index) and (alone := self._pieces.decode([index])):
                window, before = [index], at - len(alone)
        return tuple(places)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text, special tokens kept, no space put around them; an id beyond the vocabulary is U+FFFD."""
        text, run = "", list[int]()
        for index in ids:
            if index in self._tokens or index >= len(self._pieces):
                word = self._tokens[index].content if index in self._tokens else "\ufffd"
                text += (self._pieces.decode(run) if run else "") + word
                run = []
            else:
                run.append(index)
        return text + (self._pieces.decode(run) if run else "")


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _content(config: dict[str, Any], name: str) -> str:
    """The words of a named token; empty where there is none."""
    raw = config.get(name) or _DEFAULTS.get(name)
    return _Added.parse(raw).content if raw else ""
