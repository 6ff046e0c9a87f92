"""The seam between the reader and a model: one question about one image, one answer.

Every runtime (`onnx`, `torch`, `tensorrt_llm`, the scripted fake) gives the same tokens for the same weights.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from engine.errors import ReadingCancelledError
from engine.findings import ModelIdentity

Rgb = npt.NDArray[np.uint8]
"""An image as rendered for a person: [rows, columns, 3], 8 bits, sRGB-like, in the source frame's pixel grid."""


class CancelToken:
    """Cooperative cancellation, checked between questions and by the runtime between tokens."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the reading to stop at its next check."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `ReadingCancelledError` once cancelled."""
        if self.cancelled:
            raise ReadingCancelledError("the reading was cancelled")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said.

    Parameters
    ----------
    text : str
        Decoded with special tokens kept (``<ref>``, ``<box>``), the stop token left out.
    token_ids, prompt_token_ids : tuple of int
    logprobs : tuple of float
        Natural logarithm of each answered token's probability; same length as `token_ids`.
    finish : {"stop", "length"}
        Whether the model stopped by itself.
    offsets : tuple of int
        Where in `text` each answered token begins, so that a certainty can be told of each box; empty when the
        runtime cannot tell, and the certainty is then the whole answer's.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]
    offsets: tuple[int, ...] = ()


@runtime_checkable
class Runtime(Protocol):
    """A loaded model. Safe to call from several threads."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        ...

    @property
    def decoding(self) -> dict[str, Any]:
        """Decoding settings, as recorded in a reading."""
        ...

    def ask(
        self,
        image: Rgb,
        question: str,
        *,
        max_new_tokens: int = 400,
        grammar: str | None = None,
        cancel: CancelToken | None = None,
    ) -> Answer:
        """Ask one question about one image.

        Parameters
        ----------
        image : ndarray of uint8, [rows, columns, 3]
            The rendered source frame; the runtime stretches it to the model's square itself.
        question : str
            The user's turn, with ``<image>`` where the image stands; the runtime puts it into the chat template.
        max_new_tokens : int
        grammar : str, optional
            What the answer is held to, in llguidance's Lark syntax, as `engine.grammar.box_grammar` writes it. A
            runtime that can do so has ``constrained`` in its `decoding`; any other ignores it.
        cancel : CancelToken, optional

        Raises
        ------
        ReadingCancelledError
            If `cancel` was set.
        RuntimeLostError
            If the engine failed; asking again later may help.
        """
        ...

    def close(self) -> None:
        """Give back memory and devices."""
        ...
