"""How fast the commissioning model answers, against what the memory's bandwidth allows, both measured in one run."""

from __future__ import annotations

from typing import Any

from engine.bench import measure


def rows() -> list[dict[str, Any]]:
    """Vision and prefill for themselves; decoding against its limit."""
    figures = measure("phantom", "onnx", (1, 4), 100)
    found = [
        {"row": "engine: vision, one image", "unit": "ms", "ours": figures.vision_ms},
        {"row": f"engine: prefill, {figures.prompt_tokens} tokens", "unit": "ms", "ours": figures.prefill_ms},
    ]
    for one in figures.decoding:
        found.append(
            {
                "row": f"engine: decoding, {one.batch} at once, against the bandwidth's limit",
                "unit": "tokens/s",
                "ours": one.tokens_per_second,
                "peer": one.limit,
                "ratio": one.tokens_per_second / one.limit,
            }
        )
    return [{"peer": None, "ratio": None, "goal": None, "runs": 3} | row for row in found]
