"""A runtime that reads its answers from a script: for tests, crash drills, and trying a route without a model."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import ModelError, RuntimeLostError
from engine.findings import ModelIdentity
from engine.runtime.protocol import Answer, CancelToken, Rgb

LOST: Final = "!lost"
"""An answer of these words raises `RuntimeLostError` instead."""
_POLL_SECONDS: Final = 0.02
_KEPT: Final = 1000


class ScriptedAnswer(BaseModel):
    """One scripted answer: its text, the log-probability of each of its tokens, and how it ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    logprob: float = Field(default=-0.1, le=0.0)
    finish: Literal["stop", "length"] = "stop"


class Script(BaseModel):
    """What a scripted runtime says.

    Parameters
    ----------
    answers : dict of str to an answer or a list of answers
        Keyed by a part of the question; the first key found in the question counts. A list is given one by one, its
        last answer for ever after.
    default : answer
        For every other question.
    delay_seconds : float
        How long each answer takes.
    commissioning : bool
        Whether the model passes for the commissioning model, and so gets the phantom plan.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: dict[str, str | ScriptedAnswer | list[str | ScriptedAnswer]] = {}
    default: str | ScriptedAnswer = "No finding"
    delay_seconds: float = Field(default=0.0, ge=0.0)
    commissioning: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """One question that was asked, with the size of its image."""

    question: str
    rows: int
    columns: int


class ScriptedRuntime:
    """A fake model with fixed answers; safe to call from several threads.

    Tokens are the answer's characters, so token ids are code points.

    Attributes
    ----------
    calls : deque of Call
        The last questions.
    """

    def __init__(
        self,
        answers: Mapping[str, str | ScriptedAnswer | Sequence[str | ScriptedAnswer]] | None = None,
        *,
        default: str | ScriptedAnswer = "No finding",
        delay_seconds: float = 0.0,
        commissioning: bool = True,
    ) -> None:
        self._script = Script(
            answers={k: v if isinstance(v, str | ScriptedAnswer) else list(v) for k, v in (answers or {}).items()},
            default=default,
            delay_seconds=delay_seconds,
            commissioning=commissioning,
        )
        self._lock = threading.Lock()
        self._given: dict[str, int] = {}
        self.calls: deque[Call] = deque(maxlen=_KEPT)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Load a JSON script, laid out as `Script`.

        Raises
        ------
        ModelError
            If the file cannot be read or is no such script.
        """
        try:
            script = Script.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ModelError(f"the script cannot be read ({error.strerror})") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ModelError(f"not a script of answers: {where or 'file'}: {first['msg']}") from error
        runtime = cls()
        runtime._script = script
        return runtime

    @property
    def identity(self) -> ModelIdentity:
        """A scripted model; its weights' digest is the digest of the script."""
        words = json.dumps(self._script.model_dump(mode="python"), sort_keys=True)
        return ModelIdentity(
            name="Scripted answers",
            version="1",
            manufacturer="medrega-pacs",
            weights_digest=hashlib.sha256(words.encode()).hexdigest(),
            runtime="scripted",
            engine_build="scripted",
            commissioning=self._script.commissioning,
        )

    @property
    def decoding(self) -> dict[str, Any]:
        """Nothing is decoded: the answers stand in the script."""
        return {"greedy": True, "scripted": True}

    def ask(
        self,
        image: Rgb,
        question: str,
        *,
        max_new_tokens: int = 400,
        grammar: str | None = None,
        cancel: CancelToken | None = None,
    ) -> Answer:
        """Give the script's answer to a question, after the script's delay."""
        del max_new_tokens, grammar  # the script says what an answer is
        with self._lock:
            self.calls.append(Call(question, image.shape[0], image.shape[1]))
            answer = self._pick(question)
        self._wait(cancel)
        if answer.text == LOST:
            raise RuntimeLostError("the scripted engine was lost, as its script says")
        text = answer.text
        return Answer(
            text=text,
            token_ids=tuple(map(ord, text)),
            prompt_token_ids=tuple(map(ord, question)),
            logprobs=(answer.logprob,) * len(text),
            finish=answer.finish,
            offsets=tuple(range(len(text))),
        )

    def close(self) -> None:
        """Nothing to give back."""

    def _pick(self, question: str) -> ScriptedAnswer:
        key = next((key for key in self._script.answers if key in question), None)
        found = self._script.default if key is None else self._script.answers[key]
        if isinstance(found, list):
            turn = self._given[key or ""] = self._given.get(key or "", -1) + 1
            found = found[min(turn, len(found) - 1)] if found else self._script.default
        return found if isinstance(found, ScriptedAnswer) else ScriptedAnswer(text=found)

    def _wait(self, cancel: CancelToken | None) -> None:
        until = time.monotonic() + self._script.delay_seconds
        while True:
            if cancel:
                cancel.check()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _POLL_SECONDS))
