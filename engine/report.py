"""A report's form: its headings in each language, its impression, and several images' reports in one narrative."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from engine.findings import Language

_FINDINGS: Final[dict[Language, re.Pattern[str]]] = {
    "en": re.compile(r"\bfindings\s*[:：]\s*\S", re.IGNORECASE),
    "zh": re.compile(r"影像(?:诊断|所见|表现)\s*[:：]\s*\S"),
}
_IMPRESSION: Final[dict[Language, re.Pattern[str]]] = {
    "en": re.compile(r"\bimpressions?\s*[:：]\s*(.+)", re.IGNORECASE | re.DOTALL),
    "zh": re.compile(r"影[像响]结论\s*[:：]\s*(.+)", re.DOTALL),
}
_IMAGE: Final[dict[Language, str]] = {"en": "Image {}: {}", "zh": "图像{}：{}"}


def is_report(text: str, language: Language) -> bool:
    """Whether a text has a report's headings, as every published answer has, with words behind them."""
    return bool(_FINDINGS[language].search(text) or _IMPRESSION[language].search(text))


def impression(text: str, language: Language) -> str:
    """Return a report's impression; all of it where it has none."""
    match = _IMPRESSION[language].search(text)
    return match[1].strip() if match else text


def join_narratives(parts: Sequence[tuple[int, str]], language: Language) -> str:
    """Join the reports of several images, each with its image's number; a single one stands alone."""
    if len(parts) == 1:
        return parts[0][1]
    return "\n".join(_IMAGE[language].format(number, text) for number, text in parts)
