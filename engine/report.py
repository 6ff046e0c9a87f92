"""Several images' reports in one narrative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.findings import Language

_IMAGE: Final[dict[Language, str]] = {"en": "Image {}: {}", "zh": "图像{}：{}"}


def join_narratives(parts: Sequence[tuple[int, str]], language: Language) -> str:
    """Join what is said about several images, each with its image's number; of a single one it stands alone."""
    by_image: dict[int, list[str]] = {}
    for number, text in parts:
        by_image.setdefault(number, []).append(text)
    told = {number: "\n".join(texts) for number, texts in by_image.items()}
    if len(told) == 1:
        return "".join(told.values())
    return "\n".join(_IMAGE[language].format(number, text) for number, text in told.items())
