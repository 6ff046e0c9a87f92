"""A workitem's data set (PS3.3 B.26.2): what it asks for, and what is told of its performance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydicom.dataset import Dataset

from dicom_node.intake.identity import is_uid
from dicom_node.ledger.records import StoredResult
from dicom_node.routing.decision import Priority
from dicom_node.settings import Destination, Worklist
from engine.errors import NodeError

_PRIORITY: Final = {"HIGH": Priority.STAT, "MEDIUM": Priority.ROUTINE, "LOW": Priority.LOW}
_SCHEME: Final = "99MEDREGA"


class WorkitemError(NodeError):
    """A workitem asks for what this node cannot do."""


@dataclass(frozen=True, slots=True)
class Input:
    """A study to fetch, and where it is (PS3.3 table 10-3b).

    Parameters
    ----------
    study_instance_uid : str
    series_instance_uids : tuple of str
    retrieve_aets : tuple of str
        AE titles that give it by C-MOVE or C-GET.
    urls : tuple of str
        WADO-RS.
    """

    study_instance_uid: str
    series_instance_uids: tuple[str, ...]
    retrieve_aets: tuple[str, ...]
    urls: tuple[str, ...]


def search_keys(worklist: Worklist) -> Dataset:
    """Keys of a query for what can be claimed (PS3.4 table CC.2.5-3)."""
    keys = Dataset()
    keys.ProcedureStepState = "SCHEDULED"
    keys.InputReadinessState = ""
    keys.ScheduledProcedureStepPriority = ""
    keys.SOPInstanceUID = ""
    keys.WorklistLabel = worklist.label or ""
    keys.ScheduledWorkitemCodeSequence = []
    keys.ScheduledProcessingParametersSequence = []
    return keys


def is_ready(workitem: Dataset) -> bool:
    """Whether it can be claimed: a server may match less closely than it was asked to."""
    state = workitem.get("ProcedureStepState") or "SCHEDULED"
    return state == "SCHEDULED" and (workitem.get("InputReadinessState") or "READY") == "READY"


def priority_of(workitem: Dataset) -> Priority:
    """How soon it is to be performed."""
    return _PRIORITY.get(str(workitem.get("ScheduledProcedureStepPriority") or ""), Priority.ROUTINE)


def plan_of(workitem: Dataset, plans: Mapping[str, str]) -> str | None:
    """The plan that a workitem asks for, ``""`` for the engine's choice; None where it is not for this node."""
    if not plans:
        return ""
    return next((plans[key] for key in _keys(workitem) if key in plans), None)


def _keys(workitem: Dataset) -> Iterator[str]:
    for code in _items(workitem, "ScheduledWorkitemCodeSequence"):
        yield f"{code.get('CodeValue', '')}^{code.get('CodingSchemeDesignator', '')}"
        yield str(code.get("CodeValue", ""))
    for parameter in _items(workitem, "ScheduledProcessingParametersSequence"):
        for keyword in ("TextValue", "UTCValue"):
            if parameter.get(keyword):
                yield str(parameter.get(keyword))
        for code in _items(parameter, "ConceptCodeSequence"):
            yield str(code.get("CodeValue", ""))


def input_of(workitem: Dataset) -> Input:
    """The study that is to be read.

    Raises
    ------
    WorkitemError
        If it names none, or several and not which one of them.
    """
    found: dict[str, list[Dataset]] = {}
    for item in _items(workitem, "InputInformationSequence"):
        found.setdefault(str(item.get("StudyInstanceUID") or ""), []).append(item)
    found.pop("", None)
    requested = {str(workitem.get("StudyInstanceUID") or "")} | {
        str(request.get("StudyInstanceUID") or "") for request in _items(workitem, "ReferencedRequestSequence")
    }
    named = [uid for uid in found if uid in requested]
    candidates = named or list(found)
    if len(candidates) != 1:
        what = "names no study" if not candidates else f"has {len(candidates)} studies and does not say which to read"
        raise WorkitemError(f"the workitem {what}")
    (study,) = candidates
    items = found[study]
    series = [str(item.get("SeriesInstanceUID") or "") for item in items]
    if not all(map(is_uid, (study, *filter(None, series)))):  # a wildcard would match the studies of others
        raise WorkitemError("the workitem names a study or series by what is no UID")
    return Input(
        study_instance_uid=study,
        series_instance_uids=tuple(dict.fromkeys(series)) if all(series) else (),
        retrieve_aets=_values(items, "DICOMRetrievalSequence", "RetrieveAETitle"),
        urls=_values(items, "WADORSRetrievalSequence", "RetrieveURL")
        + _values(items, "WADORetrievalSequence", "RetrieveURI"),
    )


def progress_report(percent: int) -> Dataset:
    """Progress of the performance (PS3.3 C.30.4)."""
    information = Dataset()
    information.ProcedureStepProgress = str(percent)
    changes = Dataset()
    changes.ProcedureStepProgressInformationSequence = [information]
    return changes


def completion_report(
    workitem: Dataset,
    aet: str,
    begin: datetime,
    end: datetime,
    outputs: Sequence[tuple[StoredResult, Sequence[Destination]]],
    study_instance_uid: str,
) -> Dataset:
    """What COMPLETED demands of a workitem (PS3.4 table CC.2.5-3): who did what, when, and where the results are."""
    performed = Dataset()
    performed.PerformedStationNameCodeSequence = [_code(aet, _SCHEME, "MedRegA node")]
    scheduled = list(_items(workitem, "ScheduledWorkitemCodeSequence"))
    performed.PerformedWorkitemCodeSequence = scheduled or [_code("110004", "DCM", "Computer Aided Detection")]
    performed.PerformedProcedureStepStartDateTime = _moment(begin)
    performed.PerformedProcedureStepEndDateTime = _moment(end)
    performed.OutputInformationSequence = list(_outputs(outputs, study_instance_uid))
    changes = progress_report(100)
    changes.UnifiedProcedureStepPerformedProcedureSequence = [performed]
    return changes


def cancellation_report(reason: str, at: datetime) -> Dataset:
    """What CANCELED demands of a workitem: when, and why, in words that hold no patient data."""
    information = Dataset()
    information.ProcedureStepCancellationDateTime = _moment(at)
    information.ReasonForCancellation = reason[:1024]
    # CID 9300; the words say more than any of its codes
    information.ProcedureStepDiscontinuationReasonCodeSequence = [
        _code("110513", "DCM", "Discontinued for unspecified reason")
    ]
    changes = Dataset()
    changes.ProcedureStepProgressInformationSequence = [information]
    return changes


def _outputs(
    outputs: Sequence[tuple[StoredResult, Sequence[Destination]]], study_instance_uid: str
) -> Iterator[Dataset]:
    by_series: dict[str, list[tuple[StoredResult, Sequence[Destination]]]] = {}
    for result, destinations in outputs:
        by_series.setdefault(result.series_instance_uid, []).append((result, destinations))
    for series, results in by_series.items():
        item = Dataset()
        item.TypeOfInstances = "DICOM"
        item.StudyInstanceUID = study_instance_uid
        item.SeriesInstanceUID = series
        item.ReferencedSOPSequence = []
        for result, _ in results:
            reference = Dataset()
            reference.ReferencedSOPClassUID = result.sop_class_uid
            reference.ReferencedSOPInstanceUID = result.sop_instance_uid
            item.ReferencedSOPSequence.append(reference)
        held = {one.name: one for _, destinations in results for one in destinations}
        aets = [one.aet for one in held.values() if one.aet is not None]
        if aets:
            item.DICOMRetrievalSequence = [_retrieval("RetrieveAETitle", aet) for aet in aets]
        urls = [one.url for one in held.values() if one.url is not None]
        if urls:
            item.WADORSRetrievalSequence = [
                _retrieval("RetrieveURL", f"{url.rstrip('/')}/studies/{study_instance_uid}/series/{series}")
                for url in urls
            ]
        yield item


def _retrieval(keyword: str, value: str) -> Dataset:
    item = Dataset()
    setattr(item, keyword, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _moment(at: datetime) -> str:
    return at.astimezone().strftime("%Y%m%d%H%M%S.%f%z")


def _items(dataset: Dataset, keyword: str) -> Iterable[Any]:
    return dataset.get(keyword) or ()


def _values(items: Iterable[Dataset], sequence: str, keyword: str) -> tuple[str, ...]:
    found = (str(one.get(keyword) or "") for item in items for one in _items(item, sequence))
    return tuple(dict.fromkeys(value for value in found if value))
