"""Training samples: scenes drawn as the node would show them, with their truth and their questions in tokens."""

from __future__ import annotations

import multiprocessing
import queue
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image as Pillow

from engine.model.tokenizer import Tokenizer, chat
from engine.phantom import questions, scenes
from engine.phantom.drawing import LABELS, Scene, draw
from engine.phantom.folder import IMAGE_SIZE

MAX_OBJECTS: Final = 5
NONE: Final = len(LABELS)
"""The class of a place where no insert is."""


@dataclass
class Sample:
    """One image with its truth and its questions."""

    image: np.ndarray  # uint8 [S, S]
    tint: np.ndarray  # float32 [3]
    boxes: np.ndarray  # float32 [MAX_OBJECTS, 4], fractions
    labels: np.ndarray  # int64 [MAX_OBJECTS], NONE where empty
    detection: tuple[list[int], list[int]]
    others: list[tuple[list[int], list[int]]]


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The scene as the node would show it to the model: 8 bits, perhaps windowed, perhaps shrunk from a larger grid."""
    if rng.random() < 0.15:
        rows, columns = rng.integers(200, 420, 2)
        grey = draw(scene, int(rows), int(columns))
    else:
        grey = draw(scene, IMAGE_SIZE, IMAGE_SIZE)
    if rng.random() < 0.4:
        low, high = grey.min(), grey.max()
        grey = (grey - low) / max(high - low, 1e-3)
    if rng.random() < 0.3:
        grey = grey ** rng.uniform(0.7, 1.4)
    eight = (grey * 255 + 0.5).astype(np.uint8)
    if eight.shape != (IMAGE_SIZE, IMAGE_SIZE):
        eight = np.asarray(Pillow.fromarray(eight).resize((IMAGE_SIZE, IMAGE_SIZE), Pillow.Resampling.BICUBIC))
    return eight


def _encode(tokenizer: Tokenizer, exchange: questions.Exchange, tokens: int) -> tuple[list[int], list[int]]:
    prompt = tokenizer.encode(chat(exchange.question, tokens))
    return prompt, [*tokenizer.encode(exchange.answer), tokenizer.token_id("<|im_end|>")]


def sample(rng: np.random.Generator, tokenizer: Tokenizer, tokens: int) -> list[Sample]:
    """A new scene and its mirror image."""
    scene = scenes.random_scene(rng)
    image = render(scene, rng)
    tint = np.ones(3, np.float32)
    if scene.kind == "other" and rng.random() < 0.3:
        tint = rng.uniform(0.2, 1.0, 3).astype(np.float32)
    made = []
    for version, picture in ((scene, image), (scenes.mirrored(scene), image[:, ::-1].copy())):
        boxes = np.zeros((MAX_OBJECTS, 4), np.float32)
        labels = np.full(MAX_OBJECTS, NONE)
        for place, insert in enumerate(version.inserts[:MAX_OBJECTS]):
            boxes[place], labels[place] = insert.box, LABELS.index(insert.label)
        others = [_encode(tokenizer, questions.random_exchange(version, rng), tokens) for _ in range(3)]
        detection = _encode(tokenizer, questions.detection(version), tokens)
        made.append(Sample(picture, tint, boxes, labels, detection, others))
    return made


def produce(target: Any, seed: int, folder: str, tokens: int) -> None:
    """Fill a queue with samples, until the training has ended, however it did."""
    torch.set_num_threads(1)
    rng, tokenizer = np.random.default_rng(seed), Tokenizer(Path(folder))
    training = multiprocessing.parent_process()
    target.cancel_join_thread()  # what nobody takes any more must not keep this process
    made: list[Sample] = []
    while training is None or training.is_alive():
        made = made or [s for _ in range(16) for s in sample(rng, tokenizer, tokens)]
        with suppress(queue.Full):
            target.put(made, timeout=5)
            made = []
