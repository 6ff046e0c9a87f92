"""Translation: the console's words in English, which are their own keys, and in Chinese."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

LANGUAGES: Final = {"en": "English", "zh": "中文"}
COOKIE: Final = "medrega-language"

_FILE: Final = Path(__file__).parent / "zh.toml"


@cache
def chinese() -> dict[str, str]:
    """Chinese by English."""
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def translator(language: str) -> Callable[[str], str]:
    """What puts English words into a language; those that it does not know stay English."""
    words = chinese() if language == "zh" else {}
    return lambda text: words.get(text, text)


def negotiated(accept_language: str) -> str:
    """The language that a browser asks for (RFC 9110 12.5.4): its first one that there is."""
    wanted = []
    for position, item in enumerate(accept_language.split(",")[:20]):
        tag, _, weight = item.strip().partition(";q=")
        language = tag.partition("-")[0].lower()
        try:
            quality = float(weight or 1)
        except ValueError:
            continue
        if language in LANGUAGES and quality > 0:
            wanted.append((-quality, position, language))
    return min(wanted)[2] if wanted else "en"
