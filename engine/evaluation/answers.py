"""A model's answers to a data file, kept in a file that grows as they come, so that a run can be stopped and go on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.errors import ImageError, MedregaError
from engine.evaluation.images import read_image
from engine.evaluation.samples import Sample
from engine.runtime.protocol import CancelToken, Runtime


class Answers:
    """The file: which model answers in its first line, then an answer a line.

    Parameters
    ----------
    path : Path
    runtime : Runtime
    max_new_tokens : int

    Attributes
    ----------
    given : dict of str to str
        Answers by the digest of their sample.
    refused : dict of str to str
        Why a sample's image could not be read.

    Raises
    ------
    MedregaError
        If the file holds the answers of another model, or of other settings.
    """

    def __init__(self, path: Path, runtime: Runtime, max_new_tokens: int) -> None:
        self.path, self.given, self.refused = path, dict[str, str](), dict[str, str]()
        self._lock = threading.Lock()
        who = {"model": asdict(runtime.identity), "decoding": runtime.decoding, "max_new_tokens": max_new_tokens}
        lines = self._whole_lines()
        if not lines:
            self._append(who)
        elif lines[0] != json.loads(json.dumps(who)):
            raise MedregaError(
                f"{path} holds the answers of another model or of other settings",
                advice="Choose another --answers file.",
            )
        for line in lines[1:]:
            if "answer" in line:
                self.given[line["sample"]] = line["answer"]

    def _whole_lines(self) -> list[dict[str, Any]]:
        """What is there; the half line of a run that was killed is cut off."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        try:
            lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise MedregaError(f"{self.path} is no file of answers", advice="Choose another --answers file.") from error
        return lines

    def _append(self, line: dict[str, Any]) -> None:
        with self._lock, self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def add(self, sample: Sample, answer: str) -> None:
        """Keep an answer."""
        self._append({"sample": sample.digest, "id": sample.id, "answer": answer})
        self.given[sample.digest] = answer

    def refuse(self, sample: Sample, reason: str) -> None:
        """Keep why a sample could not be asked; a later run tries again."""
        self._append({"sample": sample.digest, "id": sample.id, "refused": reason})
        self.refused[sample.digest] = reason


def ask_all(
    samples: Sequence[Sample],
    images: Path,
    runtime: Runtime,
    answers: Answers,
    *,
    max_new_tokens: int = 400,
    in_flight: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Ask what has no answer yet.

    Parameters
    ----------
    samples : sequence of Sample
    images : Path
        Folder that the samples' images lie in.
    runtime : Runtime
    answers : Answers
        Gets each answer as it comes.
    max_new_tokens, in_flight : int
        Longest answer, and questions asked at the same time.
    progress : callable
        Told how many samples are done.

    Raises
    ------
    MedregaError
        If the runtime fails. The answers so far are kept, also on an interrupt.
    """
    todo = [sample for sample in samples if sample.digest not in answers.given]
    done = len(samples) - len(todo)
    progress(done)
    cancel = CancelToken()

    def ask(sample: Sample) -> None:
        try:
            image = read_image(images / sample.image)
        except ImageError as error:
            return answers.refuse(sample, str(error))
        said = runtime.ask(image, sample.question, max_new_tokens=max_new_tokens, cancel=cancel)
        return answers.add(sample, said.text)

    with ThreadPoolExecutor(in_flight) as pool:
        waiting = {pool.submit(ask, sample) for sample in todo}
        try:
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                done += len(finished)
                progress(done)
        finally:
            cancel.cancel()  # an error or an interrupt: what runs stops at its next token, what waits never begins
            for future in waiting:
                future.cancel()
