"""What a compile did, in ``manifest.json``: digests of every input and output, settings, versions; and the restart.

An output is made under another name, synced, put into place and recorded. Run again with the same inputs and settings,
what is recorded and still has its digest is kept; the rest is made. So a compile that was killed ends as if it had
not been.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from engine.compile.streams import Entry, Sink, file_digest, safetensors_header, write_safetensors
from engine.errors import ModelError
from engine.resources import require_disk

Step = Literal["split", "onnx", "checkpoint", "engine"]
STEPS: Final[tuple[Step, ...]] = ("split", "onnx", "checkpoint", "engine")
NAME: Final = "manifest.json"
_FORMAT: Final = 1
Report = Callable[[str, int, int], None]
"""Told the step, and how many of how many bytes are done."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file to be made.

    Parameters
    ----------
    name : str
        Relative to the output folder.
    size : int
        Bytes, or a guess of them.
    write : callable
        Writes it.
    """

    name: str
    size: int
    write: Callable[[Sink], None]

    @classmethod
    def text(cls, name: str, value: bytes | dict[str, Any]) -> Output:
        """A small file; a dictionary becomes JSON."""
        data = value if isinstance(value, bytes) else (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
        return cls(name, len(data), lambda sink: sink.write(data))

    @classmethod
    def tensors(cls, name: str, entries: Sequence[Entry]) -> Output:
        """A safetensors file, streamed."""
        size = len(safetensors_header(entries)) + sum(entry.size for entry in entries)
        return cls(name, size, lambda sink: write_safetensors(entries, sink))


class Manifest:
    """The record of an output folder.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    ModelError
        If the folder's manifest cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record: dict[str, Any] = {"format": _FORMAT, "source": {}, "settings": {}, "versions": {}, "steps": {}}
        path = folder / NAME
        if path.exists():
            try:
                self.record = json.loads(path.read_text(encoding="utf-8"))
                if self.record["format"] != _FORMAT:
                    raise ValueError(f"format {self.record['format']}")
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ModelError(f"{path} cannot be read: {error}", advice="Choose another output folder.") from error

    @property
    def digest(self) -> str:
        """One digest of all outputs, which results made by this engine cite."""
        outputs = {name: record["sha256"] for name, record in sorted(self.outputs().items())}
        return hashlib.sha256(json.dumps(outputs).encode()).hexdigest()

    def digest_of(self, step: Step) -> str:
        """One digest of a step's outputs."""
        outputs = self.record["steps"].get(step, {}).get("outputs", {})
        return hashlib.sha256(json.dumps({n: r["sha256"] for n, r in sorted(outputs.items())}).encode()).hexdigest()

    def outputs(self) -> dict[str, dict[str, Any]]:
        """Every recorded file, with its ``sha256`` and ``bytes``."""
        return {name: record for step in self.record["steps"].values() for name, record in step["outputs"].items()}

    def begin(self, source: dict[str, str], settings: dict[str, Any], versions: dict[str, str | None]) -> None:
        """Note what a compile starts from; what was made of another source no longer counts as done."""
        if source != self.record["source"]:
            for step in self.record["steps"].values():
                step["done"] = False
        for part in self.folder.rglob("*.part"):
            part.unlink()  # of a compile that was killed
        self.record.update(source=source, settings=settings, versions=versions)
        self._save()

    def produce(self, step: Step, outputs: Sequence[Output], settings: dict[str, Any], report: Report) -> None:
        """Make a step's files that are not there yet, and forget those of an earlier run that it no longer makes.

        Raises
        ------
        ModelError
            If the disk is or becomes full; what is done is kept.
        """
        key = self._key(step, settings)
        recorded = self.record["steps"].setdefault(step, {"outputs": {}})["outputs"]
        for name in [name for name in recorded if name not in {output.name for output in outputs}]:
            (self.folder / name).unlink(missing_ok=True)
            del recorded[name]
        kept = {output.name for output in outputs if self._is_there(output.name, recorded.get(output.name), key)}
        todo = [output for output in outputs if output.name not in kept]
        if todo:
            self.record["steps"][step]["done"] = False
        require_disk(self.folder, sum(output.size for output in todo), f"step {step}")
        total, done = sum(output.size for output in outputs), sum(o.size for o in outputs if o.name in kept)
        report(step, done, total)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report(step, min(done, total), total)

        for output in todo:
            with self._disk_errors(f"in step {step}"):
                size, digest = self._write(output, advance)
                recorded[output.name] = {"bytes": size, "sha256": digest, "key": key}
                self._save()
        report(step, total, total)

    def adopt(self, step: Step, names: Sequence[str], settings: dict[str, Any]) -> None:
        """Record files that a tool wrote into the folder.

        Raises
        ------
        ModelError
            If one is not there.
        """
        recorded = {}
        for name in names:
            path = self.folder / name
            if not path.is_file():
                raise ModelError(f"step {step} left no {name}")
            digest = file_digest(path, lambda _: None)
            recorded[name] = {"bytes": path.stat().st_size, "sha256": digest, "key": self._key(step, settings)}
        self.record["steps"][step] = {"outputs": recorded}
        self._save()

    def finish(self, step: Step, **noted: Any) -> None:
        """Note that a step is done, and what it found out."""
        self.record["steps"].setdefault(step, {"outputs": {}}).update(done=True, **noted)
        self._save()

    def is_done(self, step: Step, settings: dict[str, Any]) -> bool:
        """Whether a step was finished from the same inputs, and all its files are there."""
        record = self.record["steps"].get(step, {})
        outputs = record.get("outputs", {})
        key = self._key(step, settings)
        return bool(record.get("done") and outputs) and all(self._is_there(n, r, key) for n, r in outputs.items())

    def damaged(self, report: Report) -> list[str]:
        """Recorded files that are missing or were changed."""
        outputs = self.outputs()
        total, done = sum(record["bytes"] for record in outputs.values()), 0
        wrong = []
        for name, record in sorted(outputs.items()):
            path = self.folder / name
            if not path.is_file() or file_digest(path, lambda _: None) != record["sha256"]:
                wrong.append(name)
            done += record["bytes"]
            report("check", done, total)
        return wrong

    def _key(self, step: Step, settings: dict[str, Any]) -> str:
        record = self.record
        basis = [_FORMAT, step, record["source"], record["versions"].get("medrega-pacs"), settings]
        return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()

    def _is_there(self, name: str, record: dict[str, Any] | None, key: str) -> bool:
        path = self.folder / name
        if record is None or record["key"] != key or not path.is_file() or path.stat().st_size != record["bytes"]:
            return False
        return bool(file_digest(path, lambda _: None) == record["sha256"])

    def _write(self, output: Output, advance: Callable[[int], None]) -> tuple[int, str]:
        path = self.folder / output.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as stream:
                sink = Sink(stream, advance)
                output.write(sink)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
        except BaseException:  # also an interrupt leaves no half file; whatever it was goes on
            part.unlink(missing_ok=True)
            raise
        return sink.size, sink.sha256

    def _save(self) -> None:
        part = self.folder / f"{NAME}.part"
        with self._disk_errors("writing its manifest"):
            with part.open("w", encoding="utf-8") as stream:
                json.dump(self.record, stream, indent=1, sort_keys=True)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, self.folder / NAME)

    @contextmanager
    def _disk_errors(self, when: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ModelError(
                f"the disk of {self.folder} became full {when}",
                advice="Free space and run the same command again; what is done is kept.",
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other compiles out of the folder.

        Raises
        ------
        ModelError
            If another one is at work in it.
        """
        with (self.folder / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ModelError(f"another compile is at work in {self.folder}", advice="Wait for it.") from None
            yield
