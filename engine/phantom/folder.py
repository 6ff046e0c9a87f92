"""Writing the phantom reader's checkpoint as MedRegA's is written: a Hugging Face style ``internvl_chat`` folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file

from engine.findings import LANGUAGES
from engine.model.medrega import Medrega
from engine.model.tokenizer import chat
from engine.phantom import questions, scenes

SPECIAL: Final = ("<IMG_CONTEXT>", "<img>", "</img>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
PIECES: Final = 640
IMAGE_SIZE: Final = 160
PATCH_SIZE: Final = 16


def write_tokenizer(folder: Path, texts: int = 3000) -> None:
    """Train a SentencePiece model on the phantom's own questions and answers.

    Pieces may span words, so that the long constant prompts are few tokens; digits stay single, as in Llama's own.
    """
    rng = np.random.default_rng(7)
    corpus: list[str] = []
    for _ in range(texts):
        scene = scenes.random_scene(rng)
        exchange = questions.random_exchange(scene, rng)
        for text in (exchange, questions.detection(scene)):
            corpus += [part for part in _plain(chat(text.question, 1) + text.answer) if part.strip()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sorted(corpus)),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        split_by_whitespace=False,
        split_by_unicode_script=False,
        max_sentencepiece_length=64,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=1.0,
        user_defined_symbols=[
            "\n",
            "<|im_start|>",
            "<|im_end|>",
            "<|im_sep|>",
            *(p.replace(" ", "\u2581") for p in _phrases()),
        ],
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    added = {word: pieces.piece_to_id(word) for word in ("<|im_start|>", "<|im_end|>", "<|im_sep|>")}
    added |= {word: len(pieces) + place for place, word in enumerate(SPECIAL)}
    _write(folder / "added_tokens.json", added)
    tokenizer = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": False,
        "add_prefix_space": False,
    }
    _write(folder / "tokenizer_config.json", tokenizer)


def _phrases() -> list[str]:
    """The constant stretches of questions and answers: one piece each, so that a long prompt is few tokens."""
    prompts = [questions.question("detection", "en", objects=["\0"])]
    for language in LANGUAGES:
        prompts += [
            questions.question("identification", language, box=(0, 0, 9, 9)),
            questions.question("grounded", language, objects=["\0"]),
            questions.question("report", language),
        ]
    parts = {part.strip() for prompt in prompts for part in _plain(prompt)}
    words = {*questions.phrases(), ", "}
    return sorted((part for part in parts | words if len(part) > 1), key=lambda part: (-len(part), part))


def _plain(text: str) -> list[str]:
    """The text between added tokens."""
    for token in (*SPECIAL, "<image>", "<|im_start|>", "<|im_end|>"):
        text = text.replace(token, "\0")
    return text.replace("\n", "\0").split("\0")


def write_config(folder: Path, vocab_size: int) -> None:
    """``config.json``: the architecture of MedRegA at the phantom reader's sizes."""
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 3,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "layer_norm_eps": 1e-6,
        "norm_type": "rms_norm",
        "qk_normalization": True,
        "qkv_bias": False,
    }
    decoder = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocab_size,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
    }
    config: dict[str, Any] = {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "ps_version": "v1",
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "force_image_size": IMAGE_SIZE,
        "template": "Hermes-2",
        "torch_dtype": "bfloat16",
        "vision_config": vision,
        "llm_config": decoder,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.json", config)


def write_weights(folder: Path, model: Medrega) -> None:
    """``model.safetensors`` in bfloat16."""
    state = {key: value.detach().to(torch.bfloat16).contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
