"""Texts that a quantised decoder is calibrated with: the published prompts, filled with words of their own fields.

They come from this package, so that calibrating needs no network. They hold no images: the decoder alone is calibrated.
"""

from __future__ import annotations

import json
from itertools import product
from typing import Final

from engine.findings import Language
from engine.model.tokenizer import chat
from engine.prompts import REGIONAL, Prompts

_IMAGES: Final = ("chest X-ray", "CT scan", "MRI scan", "mammogram", "ultrasound image", "fundus photograph")
_OBJECTS: Final[dict[Language, tuple[str, ...]]] = {
    "en": ("right lung", "left lung", "heart", "liver", "left kidney", "mass", "pleural effusion", "fracture"),
    "zh": ("右肺", "左肺", "心脏", "肝脏", "左肾", "肿块", "胸腔积液", "骨折"),
}


def calibration_lines(count: int = 512) -> bytes:
    """JSON lines with a ``text`` each, in the model's template, the same on every machine."""
    prompts = Prompts.shipped()
    names = sorted(name for name in prompts.templates if not name.startswith(REGIONAL))  # it only begins others
    lines = []
    for place, (image, number) in enumerate(product(_IMAGES, range(count))):
        task, _, code = names[place % len(names)].rpartition(".")
        language: Language = "zh" if code == "zh" else "en"
        words = _OBJECTS[language]
        box = (number % 400, number % 300, 500 + number % 400, 400 + number % 500)
        prompt = prompts.compose(
            task,
            language,
            objects=[words[number % len(words)]],
            box=box,
            labels=words,
            image=image,
            an_image=f"a {image}",
            question=f"{words[number % len(words)]}?",
        )
        answer = f"<ref>{words[number % len(words)]}</ref><box>[[{', '.join(map(str, box))}]]</box><|im_end|>"
        lines.append(json.dumps({"text": chat(prompt.text, 1) + answer}, ensure_ascii=False))
    return ("\n".join(lines[:: max(1, len(lines) // count)][:count]) + "\n").encode()
