"""Constrained decoding: of the next tokens only those that a grammar lets stand (llguidance; needs no torch).

A grammar is a text in llguidance's Lark syntax, as `engine.grammar.box_grammar` writes it; the model's added tokens
stand in it as ``<ref>``. Two things that such a grammar cannot say are seen to here: no box is flat, and an answer that
nears its greatest length begins no further box but ends.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from engine.errors import ModelError
from engine.model.tokenizer import Tokenizer

_OPTIONS: Final = '%llguidance {"no_forcing": true}\n'
"""Forced text is left to the model to put into tokens, as without a grammar."""
RESERVE: Final = 96
"""Tokens that the rest of a grounding may take, its label's included, one a byte at worst."""
_NEXT: Final = r"\s*,\s*"
_STUCK: Final = r"(?:(?<=\d{3})|(?<=\D0))$"
# A second corner in the first one's column or row, or a number that can only become it: three digits, and 0, end there.
_FLAT = re.compile(rf"\[(\d+){_NEXT}(\d+){_NEXT}(?:\1(?:[\s,]|{_STUCK})|\d+{_NEXT}\2(?:\]|{_STUCK}))[^\[]*$")
_MORE = re.compile(r"(?:\]|</box>)[\s,][^\]]*$")
"""Behind a whole box, the beginning of a further one."""


class Guidance:
    """A tokenizer's vocabulary, prepared once for every grammar.

    Parameters
    ----------
    tokenizer : Tokenizer
    size : int
        Length of the logits.
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self._tokenizer = tokenizer
        stops = sorted(tokenizer.stop_ids)
        vocabulary = TokenizerWrapper(_Vocabulary(tokenizer.token_bytes(size), stops[0]))
        self._prepared = LLTokenizer(vocabulary, n_vocab=size, eos_token=stops)

    def follow(self, grammar: str, limit: int) -> Guide:
        """Begin an answer of at most `limit` tokens.

        Raises
        ------
        ModelError
            If the grammar is wrong, or has words for which the model has no token.
        """
        matcher = LLMatcher(self._prepared, _OPTIONS + grammar, log_level=0)
        if matcher.is_error():
            raise ModelError(f"the grammar of the answer cannot be followed: {matcher.get_error()}")
        return Guide(self._tokenizer, matcher, limit)


class Guide:
    """One answer that follows a grammar.

    Attributes
    ----------
    ended_early : bool
        Whether the answer was made to end, for want of room.
    """

    def __init__(self, tokenizer: Tokenizer, matcher: LLMatcher, limit: int) -> None:
        self._tokenizer, self._matcher, self._limit = tokenizer, matcher, limit
        self._ids: list[int] = []
        self._more = False
        self.ended_early = False

    def choose(self, logits: npt.NDArray[np.float32]) -> int:
        """Return the most probable token that may stand next, and take it; a stop token where the answer may end.

        Raises
        ------
        ModelError
            If the model has no token with which the answer could go on.
        """
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) > 0
        stops = self._tokenizer.stop_ids
        while allowed.any():
            token = int(np.where(allowed, logits, -np.inf).argmax())
            if token in stops and self._matcher.is_accepting():
                return token
            if token not in stops and not self._spoils(token):
                self._matcher.consume_token(token)
                self._ids.append(token)
                return token
            allowed[token] = False
        raise ModelError("the model has no token with which the grammar of the answer can go on")

    def _spoils(self, token: int) -> bool:
        text = self._tokenizer.decode([*self._ids, token])
        if _FLAT.search(text):
            return True
        begun, self._more = self._more, bool(_MORE.search(text))
        if self._more and not begun and self._limit - len(self._ids) <= RESERVE:
            self.ended_early, self._more = True, False
            return True
        return False


class _Vocabulary:
    """What llguidance wants of a tokenizer; encoding is for prompts and forced text, of which it sees none."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], eos: int) -> None:
        self.tokens, self.eos_token_id = tokens, eos
        self.special_token_ids: list[int] = []

    def __call__(self, text: bytes) -> list[int]:
        raise NotImplementedError
