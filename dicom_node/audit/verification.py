"""Whether the trail is what was written: nothing changed, taken out, moved, or cut off its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.audit.trail import Head, digest


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of looking at a trail.

    Parameters
    ----------
    records : int
    last : Head
        Where it ends.
    complaints : tuple of str
        Empty if it is whole.
    """

    records: int
    last: Head
    complaints: tuple[str, ...]


def verify(folder: Path, *, archived: bool = False, noted: tuple[int, str] | None = None) -> Verified:
    """Look at each record of a trail, and at its end.

    Parameters
    ----------
    folder : Path
    archived : bool
        Whether files at the beginning may have been moved elsewhere.
    noted : tuple of int and str, optional
        Number and hash of a record as somebody wrote them down, elsewhere.
    """
    end = Head.read(folder)  # before the records: those that are added meanwhile come after it
    complaints: list[str] = []
    last, count, seen = Head(), 0, ""
    for place, name, size, line in _lines(folder):
        record = _parsed(line)
        behind = end is not None and (name, size - len(line)) >= (end.file, end.size)
        if record is None and behind and not line.endswith(b"\n"):
            continue  # being written, or left by a process that was killed: the next record takes its place
        if record is None:
            complaints.append(f"{place} is no record")
            continue
        number, sha256 = record["number"], record["sha256"]
        first_of_all = count == 0 and archived
        if sha256 != digest(record):
            complaints.append(f"{place}: record {number} was changed")
        if number > last.number + 1 and not first_of_all:
            complaints.append(f"{place}: {_numbers(last.number + 1, number - 1)} missing before record {number}")
        elif number <= last.number:
            complaints.append(f"{place}: record {number} stands behind record {last.number}, out of its place")
        elif record["previous"] != last.sha256 and not first_of_all:
            complaints.append(f"{place}: record {number} does not follow the one before it, which was changed")
        if noted is not None and noted[0] == number:
            seen = sha256
        last, count = Head(number, sha256, name, size), count + 1
    if end is None and count:
        complaints.append("the file head, which tells where the trail ends, is missing")
    elif end is not None and end.number > last.number:
        complaints.append(f"{_numbers(last.number + 1, end.number)} missing: the trail was cut off its end")
    elif end is not None and end.number == last.number and end.sha256 != last.sha256:
        complaints.append(f"record {last.number}, the last, is not the one that was written")
    if noted is not None and seen != noted[1]:
        complaints.append(f"record {noted[0]} is not the one that was noted: the trail was made anew, or it is gone")
    return Verified(count, last, tuple(complaints))


def _lines(folder: Path) -> Iterator[tuple[str, str, int, bytes]]:
    for path in sorted(folder.glob("*.jsonl")):
        size = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                size += len(line)
                yield f"{path.name} line {number}", path.name, size, line


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record: Any = json.loads(line)
        whole = isinstance(record["number"], int) and all(
            isinstance(record[one], str) for one in ("sha256", "previous")
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return record if whole and isinstance(record, dict) else None


def _numbers(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
