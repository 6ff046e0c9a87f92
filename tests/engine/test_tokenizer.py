"""The tokenizer gives the ids of transformers' slow Llama tokenizer, whatever the configuration says."""

from __future__ import annotations

import functools
import io
import itertools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.model.tokenizer import IMAGE_CONTEXT, Tokenizer, chat
from engine.runtime import model_path

SPECIAL = ["<IMG_CONTEXT>", "<img>", "</img>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
HERMES = ["<|im_start|>", "<|im_end|>", "<|im_sep|>"]
PROMPTS = [
    chat("You are a helpful medical assistant. <image>\nPlease locate <ref>disc</ref> in this X-ray image.", 4),
    chat(
        "你是一个医疗助手，你需要根据医学图像回答问题。<image>\n图中<ref>这个区域</ref>是什么？请用词或短语回答问题。",
        4,
    ),
    chat("What is <ref>this</ref><box>[[421, 351, 505, 470]]</box> in this CT scan? <image>", 2),
    "<ref>胰腺癌</ref><box>[[1, 22, 333, 999]]</box>：左上部 ½ é\n",
    "",
    " ",
    "\n",
    "  two spaces  ",
    "<ref>",
    " <ref> ",
    "<ref>word",
    "<ref> word",
    "<ref>  word </ref>  x",
    "word<ref>",
    "<|im_end|><|im_start|>user\n word<|im_end|> ",
    "<|im_sep|> a <|im_sep|>\tb",
    "a</s>b <s> c<unk>",
    "▁already ▁<ref>▁x",
    "<reff><ref<ref></re</ref>",
    "<box>[[0, 1, 2, 3]]</box>，<box>[[4, 5, 6, 7]]</box>",
]


@functools.cache
def _pieces() -> bytes:
    """An ordinary Llama-like SentencePiece model: BPE, byte fallback, a space put before every text."""
    text = [
        "You are a helpful medical assistant. Your task is report generation.",
        "Please locate the region and describe the condition of the right lung and the left lung.",
        "What is this in this X-ray image? Answer the question using a single word or phrase. user system assistant",
        "The region is represented in the form of bounding box, with integers ranging from 0 to 999. unk un k s",
        "你是一个医疗助手，你需要根据医学图像回答问题。请用词或短语回答问题。请定位并描述这张医学影像中的胰腺癌：诊断",
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=560,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=HERMES,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _write(folder: Path, config: dict[str, Any], added: dict[str, int] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(_pieces())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **config}))
    (folder / "added_tokens.json").write_text(json.dumps(_added() if added is None else added))
    return folder


def _added() -> dict[str, int]:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=_pieces())
    words = {word: pieces.piece_to_id(word) for word in HERMES}
    return words | {word: len(pieces) + place for place, word in enumerate(SPECIAL)}


def _decoder(**flags: dict[str, Any]) -> dict[str, Any]:
    """``added_tokens_decoder``; `flags` by a token's content."""
    usual = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **_added()}
    return {str(index): {"content": word, **usual, **flags.get(word, {})} for word, index in words.items()}


def _reference(folder: Path) -> Any:
    from transformers import LlamaTokenizer

    return LlamaTokenizer.from_pretrained(folder)


CONFIGS: dict[str, dict[str, Any]] = {
    f"legacy={legacy} bos={bos} prefix={prefix} {style}": {
        **({} if legacy == "absent" else {"legacy": legacy}),
        "add_bos_token": bos,
        "add_prefix_space": prefix,
        **more,
    }
    for legacy, bos, prefix, (style, more) in itertools.product(
        (True, False, "absent"),
        (True, False),
        (True, False),
        (
            ("added_tokens.json", {}),
            ("added_tokens.json and special names", {"additional_special_tokens": [*SPECIAL, *HERMES]}),
            ("added_tokens_decoder", {"added_tokens_decoder": _decoder(), "additional_special_tokens": SPECIAL}),
        ),
    )
} | {
    f"stripping {legacy}": {
        "legacy": legacy,
        "add_bos_token": True,
        "additional_special_tokens": ["<img>", {"__type": "AddedToken", "content": "<quad>", "lstrip": True}],
        "added_tokens_decoder": _decoder(
            **{
                "<ref>": {"lstrip": True},
                "</ref>": {"rstrip": True},
                "<box>": {"lstrip": True, "rstrip": True},
                "<|im_end|>": {"rstrip": True},
                "<|im_sep|>": {"single_word": True},
                "<s>": {"lstrip": True, "rstrip": True},
            }
        ),
    }
    for legacy in (True, False)
}
CONFIGS["hermes"] = {
    "legacy": True,
    "add_bos_token": True,
    "add_eos_token": True,
    "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "rstrip": True},
    "eos_token": "<|im_end|>",
    "pad_token": "<pad>",
}


@functools.cache
def _both(name: str) -> tuple[Tokenizer, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = _write(Path(folder), CONFIGS[name])
        return Tokenizer(path), _reference(path)


@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_give_the_ids_of_the_reference(name: str) -> None:
    ours, reference = _both(name)
    for text in PROMPTS:
        assert ours.encode(text) == reference(text).input_ids, text
    assert ours.size == len(reference)


FRAGMENTS = [*SPECIAL, *HERMES, "<s>", "</s>", "<unk>", "<pad>", "<", ">", "<ref", "box>", " ", "  ", "\n", "\t", "▁"]
WORDS = ["word", "This", " lung", "lung ", "医学", "，", "：", "is", "½", "🩻", "12", "[[1, 2]]"]
TEXT = st.lists(st.sampled_from(FRAGMENTS) | st.sampled_from(WORDS) | st.text(max_size=4), max_size=12).map("".join)


@settings(max_examples=400, deadline=None)
@given(text=TEXT, name=st.sampled_from(sorted(CONFIGS)))
def test_any_text_gives_the_ids_of_the_reference(text: str, name: str) -> None:
    ours, reference = _both(name)
    assert ours.encode(text) == reference(text).input_ids


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 5000), max_size=20))
def test_any_ids_decode_to_some_text(ids: list[int]) -> None:
    assert isinstance(_both("hermes")[0].decode(ids), str)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "stripping" not in name])
def test_tokens_decode_to_the_text_they_came_from(name: str) -> None:
    ours = _both(name)[0]
    for text in PROMPTS[:4]:
        decoded = ours.decode(ours.encode(text))
        assert decoded.removeprefix("<s>").removesuffix("<|im_end|>").strip() == text.removesuffix("<|im_end|>").strip()


def test_special_tokens_map_names_tokens_of_older_checkpoints(tmp_path: Path) -> None:
    _write(tmp_path, {"legacy": False})
    named = {"bos_token": {"content": "<s>", "lstrip": True}, "additional_special_tokens": ["<ref>", "<|im_start|>"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    ours, reference = Tokenizer(tmp_path), _reference(tmp_path)
    for text in PROMPTS:
        assert ours.encode(text) == reference(text).input_ids, text


def test_it_stops_at_the_template_s_tokens_and_the_configured_end(tmp_path: Path) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=_pieces())
    hermes = {pieces.piece_to_id(word) for word in HERMES}
    only_image = {IMAGE_CONTEXT: len(pieces)}  # the template's tokens are pieces, and not listed as added
    assert Tokenizer(_write(tmp_path, {"eos_token": "<|im_end|>"}, only_image)).stop_ids == {2} | hermes


def test_the_tokens_of_the_shipped_checkpoint_stay_as_trained() -> None:
    ours = Tokenizer(model_path("phantom"))
    text = chat("<image>\nPlease locate <ref>disc</ref> in this X-ray image.", 2)
    assert ours.decode(ours.encode(text)) == text
    assert ours.encode(text) == _reference(model_path("phantom"))(text).input_ids


@functools.cache
def _plain(legacy: bool) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer(_write(Path(folder), {"legacy": legacy}))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), legacy=st.booleans())
def test_a_token_begins_where_the_text_of_those_before_it_ends(seed: int, legacy: bool) -> None:
    ours = _plain(legacy)
    common = [*range(3, 40), ours.token_id("<ref>"), ours.token_id("</box>")]  # bytes, which characters are put of
    rng = random.Random(seed)  # noqa: S311 - no secret
    ids = [rng.choice(common) if rng.random() < 0.5 else rng.randrange(ours.size + 3) for _ in range(40)]
    assert ours.offsets(ids) == tuple(len(ours.decode(ids[:place])) for place in range(len(ids)))


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer_config.json", "added_tokens.json"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, name: str) -> None:
    _write(tmp_path, {"legacy": False})
    (tmp_path / name).write_bytes(b"\xff[")
    with pytest.raises(ModelError, match="cannot be read"):
        Tokenizer(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        Tokenizer(tmp_path)


def test_a_tokenizer_without_image_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="<IMG_CONTEXT>"):
        Tokenizer(_write(tmp_path, {}, {"<ref>": 900}))
