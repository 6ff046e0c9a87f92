"""WADO-RS (PS3.18 10.4), the server's side: instances of the spool as they arrived, and their metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.request import parse_http_list

import structlog
from pydicom.dataset import Dataset

from dicom_node.dicomweb.multipart import PART_10, MediaType
from dicom_node.ledger.holdings import Held
from dicom_node.spool import Spool
from engine.errors import NodeError, NotDicomError
from engine.study import READ_ERRORS, load_instance

JSON: Final = "application/dicom+json"
_BULK: Final = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
_LONGEST_VALUE: Final = 1024
"""Longer values of these VRs are bulk data, which metadata leaves out (PS3.18 10.4.1.1.2): nothing serves it apart."""

log = structlog.get_logger(__name__)


def accepted(accept: str) -> list[MediaType]:
    """The media types of an Accept field (RFC 9110 12.5.1) without those of quality 0; any where there is none."""
    types = [MediaType.parse(item) for item in parse_http_list(accept or "*/*")]
    return [item for item in types if item.parameters.get("q", "1").strip("0.")]


def takes_json(types: Iterable[MediaType]) -> bool:
    """Whether DICOM JSON is acceptable."""
    return any(item.name in (JSON, "application/json", "application/*", "*/*") for item in types)


def takes_part_10(types: Sequence[MediaType], transfer_syntaxes: set[str], *, single: bool) -> str | None:
    """How DICOM files in these transfer syntaxes may be sent: as ``multipart/related``, or one as it is; None if not.

    A request that names no transfer syntax gets that of the spool: nothing is encoded anew here.
    """
    wanted: dict[str, set[str]] = {}
    for item in types:
        name = item.name
        if name in ("*/*", "multipart/*"):
            name = "multipart/related"
        elif name == "multipart/related" and item.parameters.get("type", PART_10) not in (PART_10, "*/*"):
            continue
        elif name == "application/*" and single:
            name = PART_10
        wanted.setdefault(name, set()).add(item.parameters.get("transfer-syntax", "*"))
    for name in ("multipart/related", *([PART_10] if single else [])):
        syntaxes = wanted.get(name, set())
        if "*" in syntaxes or (syntaxes and transfer_syntaxes <= syntaxes):
            return name
    return None


def metadata(spool: Spool, instances: Iterable[Held], url: str) -> Iterator[bytes]:
    """The headers of instances as one DICOM JSON array (PS3.18 F.2), one instance at a time."""
    separator = b"["
    for held in instances:
        try:
            header = load_instance(spool.path(held.path), spool.limits.of_reading).header
        except NotDicomError as error:
            log.warning("header not served", sop_instance_uid=held.sop_instance_uid, reason=str(error))
            continue
        _leave_bulk_out(header)
        header.RetrieveURL = instance_url(url, held)
        yield separator + json.dumps(as_json(header), ensure_ascii=False).encode()
        separator = b","
    yield b"[]" if separator == b"[" else b"]"


def as_json(dataset: Dataset) -> dict[str, Any]:
    """A data set in the DICOM JSON model, without elements that have no place in it.

    Raises
    ------
    NodeError
        If it cannot be expressed.
    """
    try:
        found: dict[str, Any] = _said(dataset.to_json_dict(suppress_invalid_tags=True))
    except READ_ERRORS as error:
        raise NodeError(f"a header cannot be expressed as JSON ({type(error).__name__})") from None
    if "00080005" in found:
        found["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}  # PS3.18 F.2: it is UTF-8 now
    return found


def _said(value: Any) -> Any:
    """Numbers that JSON has no word for as strings (PS3.18 F.2.3)."""
    if isinstance(value, dict):
        return {key: _said(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_said(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else str(value)
    return value


def instance_url(url: str, held: Held) -> str:
    """Where an instance is retrieved."""
    return (
        f"{url}/studies/{held.study_instance_uid}/series/{held.series_instance_uid}/instances/{held.sop_instance_uid}"
    )


def _leave_bulk_out(dataset: Dataset) -> None:
    pending = [dataset]
    while pending:
        current = pending.pop()
        for element in list(current):
            if element.VR == "SQ":
                pending.extend(element.value)
            elif element.VR in _BULK and element.value is not None and len(element.value) > _LONGEST_VALUE:
                del current[element.tag]
