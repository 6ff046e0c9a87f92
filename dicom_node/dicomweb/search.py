"""QIDO-RS (PS3.18 10.6), the server's side: which studies, series and instances are in the spool.

The ledger knows nothing of patients, so that only UIDs select; what else an answer holds is read from the first file
of each entity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pydicom.datadict import dictionary_has_tag, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset

from dicom_node.dicomweb.retrieve import as_json, instance_url
from dicom_node.intake.identity import is_uid
from dicom_node.ledger import Ledger
from dicom_node.ledger.holdings import Held, Selection
from dicom_node.spool import Spool
from engine.errors import NodeError, NotDicomError
from engine.study import load_instance

Level = Literal["studies", "series", "instances"]
MOST_RESULTS: Final = 1000
_KEYS: Final = {
    "StudyInstanceUID": "study_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
    "SOPInstanceUID": "sop_instance_uid",
    "SOPClassUID": "sop_class_uid",
}
_OTHERS: Final = ("limit", "offset", "includefield", "fuzzymatching")
# PS3.18 tables 10.6.3-3 to 10.6.3-5.
_STUDY: Final = (
    "StudyDate StudyTime AccessionNumber ReferringPhysicianName PatientName PatientID PatientBirthDate PatientSex"
    " StudyID TimezoneOffsetFromUTC StudyInstanceUID"
)
_SERIES: Final = (
    "Modality SeriesDescription SeriesInstanceUID SeriesNumber PerformedProcedureStepStartDate"
    " PerformedProcedureStepStartTime"
)
_INSTANCE: Final = (
    "SOPClassUID SOPInstanceUID InstanceNumber Rows Columns BitsAllocated NumberOfFrames TimezoneOffsetFromUTC"
)
_ATTRIBUTES: Final[dict[Level, str]] = {
    "studies": _STUDY,
    "series": f"{_SERIES} StudyInstanceUID",
    "instances": f"{_INSTANCE} StudyInstanceUID SeriesInstanceUID Modality",
}


class QueryError(NodeError):
    """A search asks for what this server does not know to select by."""


class Search:
    """A search as its request says it.

    Parameters
    ----------
    level : {"studies", "series", "instances"}
    path : mapping of str to str
        UIDs of the request's path, by the name of the selection's field.
    query : mapping of str to str
        Its query parameters.

    Raises
    ------
    QueryError
        If a key is none of the UIDs, or a value none that it may have.
    """

    def __init__(self, level: Level, path: Mapping[str, str], query: Mapping[str, str]) -> None:
        selected = dict(path)
        for name, value in query.items():
            if name in _OTHERS:
                continue
            field = _KEYS.get(_keyword(name))
            if field is None:
                raise QueryError(f"only {', '.join(_KEYS)} select here")
            if value and not is_uid(value):
                raise QueryError("a UID is not made of digits and dots, at most 64")
            if value and selected.setdefault(field, value) != value:
                raise QueryError("the path and the query name different UIDs")
        self._level = level
        self._selection = Selection(**selected)
        self._limit = min(_number(query, "limit", MOST_RESULTS), MOST_RESULTS)
        self._offset = _number(query, "offset", 0)

    def answer(self, ledger: Ledger, spool: Spool, url: str) -> tuple[list[dict[str, Any]], bool]:
        """Matches in the DICOM JSON model, and whether there are more."""
        holdings = ledger.holdings
        limit, offset = self._limit + 1, self._offset
        if self._level == "instances":
            found = [(held, 1) for held in holdings.instances(self._selection, limit=limit, offset=offset)]
        elif self._level == "series":
            found = holdings.series(self._selection, limit=limit, offset=offset)
        else:
            found = holdings.studies(self._selection, limit=limit, offset=offset)
        matches = [as_json(self._match(ledger, spool, url, held, count)) for held, count in found[: self._limit]]
        return matches, len(found) > self._limit

    def _match(self, ledger: Ledger, spool: Spool, url: str, held: Held, count: int) -> Dataset:
        header = _header(spool, held)
        match = Dataset()
        for keyword in ("SpecificCharacterSet", *_ATTRIBUTES[self._level].split()):
            if keyword in header:
                match[keyword] = header[keyword]
        match.InstanceAvailability = "ONLINE"
        study = f"{url}/studies/{held.study_instance_uid}"
        if self._level == "instances":
            match.RetrieveURL = instance_url(url, held)
        elif self._level == "series":
            match.NumberOfSeriesRelatedInstances = count
            match.RetrieveURL = f"{study}/series/{held.series_instance_uid}"
        else:
            series = ledger.holdings.series(Selection(held.study_instance_uid))
            match.ModalitiesInStudy = sorted(_modalities(spool, [first for first, _ in series]))
            match.NumberOfStudyRelatedSeries = len(series)
            match.NumberOfStudyRelatedInstances = count
            match.RetrieveURL = study
        return match


def _modalities(spool: Spool, instances: list[Held]) -> Iterator[str]:
    return iter({str(_header(spool, held).get("Modality") or "OT") for held in instances})


def _header(spool: Spool, held: Held) -> Dataset:
    """An instance's header; its UIDs alone where the file cannot be read."""
    try:
        return load_instance(spool.path(held.path), spool.limits.of_reading).header
    except NotDicomError:
        header = Dataset()
        header.SOPClassUID, header.SOPInstanceUID = held.sop_class_uid, held.sop_instance_uid
        header.StudyInstanceUID, header.SeriesInstanceUID = held.study_instance_uid, held.series_instance_uid
        return header


def _keyword(name: str) -> str:
    """An attribute's keyword, which may be given as its tag (PS3.18 8.3.4.1)."""
    if len(name) == 8 and name.isalnum() and tag_for_keyword(name) is None:
        try:
            tag = int(name, 16)
        except ValueError:
            return name
        return keyword_for_tag(tag) if dictionary_has_tag(tag) else name
    return name


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise QueryError(f"{name} is no number")
    return int(text)
