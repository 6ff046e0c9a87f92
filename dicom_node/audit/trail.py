"""The trail: a file a month that is only ever added to, each record bound to the one before by its hash.

A record is a line of JSON with its number, its time, the hash of the record before, the message, and its own hash:
SHA-256 of the others. Beside the files lies ``head``: number, hash and place of the last record. A record that was
changed, taken out or moved breaks the chain, and one cut off the end is missed by the head. Who can write to the folder
can make the whole chain anew: that a repository elsewhere has the records, or that a head was written down, is what
shows it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import structlog

from dicom_node.audit.event import AuditEvent
from dicom_node.audit.message import Source, audit_message
from dicom_node.settings import Settings

FOLDER: Final = "audit"
FIRST: Final = "0" * 64
"""What stands for the hash before the first record."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Head:
    """Where the trail ends.

    Parameters
    ----------
    number : int
        Of the last record; 0 before the first.
    sha256 : str
    file : str
        Name of the file that it is in.
    size : int
        Bytes of that file up to its end.
    """

    number: int = 0
    sha256: str = FIRST
    file: str = ""
    size: int = 0

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """That of a folder; None where there is none that can be read."""
        try:
            return cls(**json.loads((folder / "head").read_text(encoding="ascii")))
        except (OSError, ValueError, TypeError):
            return None

    def store(self, folder: Path) -> None:
        """Put it in place, at once or not at all."""
        new = folder / "head.new"
        words = {"number": self.number, "sha256": self.sha256, "file": self.file, "size": self.size}
        with new.open("w", encoding="ascii") as file:
            json.dump(words, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(folder / "head")


@dataclass(frozen=True, slots=True)
class Trail:
    """The audit trail of a node; any process may write, in any thread.

    Parameters
    ----------
    folder : Path
    source : Source
    """

    folder: Path
    source: Source

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The trail of a node, in its data folder."""
        audit = settings.audit
        source = Source(audit.source or settings.listener.aet, audit.site, tuple(sorted(settings.called_aets)))
        return cls(settings.data.path / FOLDER, source)

    def write(self, event: AuditEvent) -> None:
        """Add an event; it is on the disk when this returns.

        What is audited has happened: a disk that does not take the record is told in the log, and raises nothing.
        """
        try:
            with self._locked():
                at = datetime.now(UTC)  # in the order of the records
                self._append(at, audit_message(event, self.source, at))
        except OSError as error:
            log.error("event not audited", action=event.action, study=event.study_uid, reason=error.strerror)

    def _append(self, at: datetime, message: str) -> None:
        head = self._head()
        name = max(f"{at:%Y-%m}.jsonl", head.file)  # a clock that is set back does not reopen a month
        record: dict[str, Any] = {
            "number": head.number + 1,
            "at": at.isoformat(),
            "previous": head.sha256,
            "message": message,
        }
        record["sha256"] = sha256 = digest(record)
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        is_new = not (self.folder / name).exists()
        descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        Head(head.number + 1, sha256, name, size).store(self.folder)
        if is_new:
            _sync_folder(self.folder)

    def _head(self) -> Head:
        """The head; behind it what a process wrote that died before it could move it: whole, it counts; else it goes.

        A file shorter than the head says stays as it is, and the chain goes on from the head: `verify` finds it.
        """
        head = Head.read(self.folder) or Head()
        for path in sorted(self.folder.glob("*.jsonl")):
            if path.name < head.file:
                continue
            end = head.size if path.name == head.file else 0
            with path.open("rb") as file:
                file.seek(end)
                behind = file.readlines()
            for line in behind:
                record = _record(line)
                if record is None or record["previous"] != head.sha256:
                    if not line.endswith(b"\n"):
                        os.truncate(path, end)
                    break
                end += len(line)
                head = Head(record["number"], record["sha256"], path.name, end)
        return head

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, of all processes; the kernel gives the lock back if one dies."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def digest(record: Mapping[str, Any]) -> str:
    """The hash of a record: SHA-256 of its other members as JSON with sorted keys, in UTF-8."""
    members = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(members, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _record(line: bytes) -> dict[str, Any] | None:
    """A record that is whole; None for anything else."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not line.endswith(b"\n") or record.get("sha256") != digest(record):
        return None
    return record


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
