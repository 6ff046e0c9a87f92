"""Requests of STOW-RS (PS3.18 10.5) as a client makes them, and what their answers say of each object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from dicom_node.dimse.scu import SendResult, StoredFile
from dicom_node.dimse.status import meaning_of

_MOST_FILES: Final = 100
_MOST_BYTES: Final = 64 << 20
"""A request's files and bytes: servers hold a request as a whole, and what breaks off is sent again from its start."""


def batches(files: Sequence[StoredFile]) -> Iterator[list[StoredFile]]:
    """Files that go in one request each time."""
    batch: list[StoredFile] = []
    size = 0
    for file in files:
        length = file.path.stat().st_size if file.path.is_file() else 0
        if batch and (len(batch) == _MOST_FILES or size + length > _MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += length
    if batch:
        yield batch


def told(files: Sequence[StoredFile], status: int, answer: Any) -> dict[StoredFile, SendResult]:
    """What a Store Instances Response Module (PS3.18 I.2.1) says of each file."""
    # Orthanc before 1.11 and others put the module into a list, as answers to queries are.
    module = answer[0] if isinstance(answer, list) and answer else answer
    failed = _reasons(module, "00081198", "00081197")
    stored = _reasons(module, "00081199", "00081196")
    results: dict[StoredFile, SendResult] = {}
    for file in files:
        uid = file.sop_instance_uid
        if uid in failed:
            reason = failed[uid] or 0x0110  # processing failure: what a server says that says nothing
            results[file] = SendResult.of(file, reason)
        elif uid in stored:
            warning = stored[uid]
            results[file] = SendResult.of(file, warning if meaning_of(warning).stored else 0x0000)
        elif status == 200:
            results[file] = SendResult(file, 0x0000)
        elif status == 409:
            results[file] = SendResult(file, None, "HTTP status 409, and no reason is given")
        else:
            results[file] = SendResult(file, None, "the answer does not tell of this object", retry=True)
    return results


def _reasons(module: Any, sequence: str, reason: str) -> dict[str, int]:
    """Reason by SOP instance UID, 0 where there is none, of a sequence in DICOM JSON (PS3.18 F.2)."""
    found: dict[str, int] = {}
    items = _values(module, sequence)
    for item in items:
        for uid in _values(item, "00081155")[:1]:
            reasons = _values(item, reason)
            told = reasons[0] if reasons else 0
            found[str(uid)] = told if isinstance(told, int) and 0 <= told <= 0xFFFF else 0
    return found


def _values(item: Any, tag: str) -> list[Any]:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []
