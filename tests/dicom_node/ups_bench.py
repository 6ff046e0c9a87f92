"""A UPS worklist of the tests' own: the state machine of PS3.4 table CC.1.1-2, spoken to by DIMSE or by UPS-RS."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from ports import free_port
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepWatch,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SUCCESS = 0x0000
PERFORMED = (
    "PerformedStationNameCodeSequence",
    "PerformedWorkitemCodeSequence",
    "PerformedProcedureStepStartDateTime",
    "PerformedProcedureStepEndDateTime",
)


@dataclass(frozen=True)
class Change:
    """A request to change a workitem's state, and how it was answered."""

    uid: str
    before: str
    wanted: str
    status: int


class Steps:
    """The workitems, and what may happen to them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.items: dict[str, Dataset] = {}
        self.keys: dict[str, str] = {}
        """Transaction UIDs; never given out."""
        self.changes: list[Change] = []
        self.progress: dict[str, list[float]] = {}
        self.subscribers: dict[str, str] = {}
        self.lose_next_answer = False
        self.answers = self.lost_answer = 0
        """By UPS-RS: how many changes were answered, and which of the answers gets lost."""

    def add(
        self,
        study: str,
        *,
        aets: Sequence[str] = ("ARCHIVE",),
        code: str = "READ",
        priority: str = "MEDIUM",
        **more: Any,
    ) -> str:
        """Schedule a study to be read; returns the workitem's UID."""
        uid = str(generate_uid())
        item = Dataset()
        item.SOPClassUID, item.SOPInstanceUID = UnifiedProcedureStepPush, uid
        item.ProcedureStepState, item.InputReadinessState = "SCHEDULED", "READY"
        item.ScheduledProcedureStepPriority, item.WorklistLabel = priority, "AI"
        item.PatientName, item.PatientID = "NOBODY^KNOWS", "SECRET-1"
        workitem_code = Dataset()
        workitem_code.CodeValue, workitem_code.CodingSchemeDesignator, workitem_code.CodeMeaning = code, "99T", "Read"
        item.ScheduledWorkitemCodeSequence = [workitem_code]
        source = Dataset()
        source.TypeOfInstances, source.StudyInstanceUID = "DICOM", study
        source.DICOMRetrievalSequence = []
        for aet in aets:
            retrieval = Dataset()
            retrieval.RetrieveAETitle = aet
            source.DICOMRetrievalSequence.append(retrieval)
        item.InputInformationSequence = [source]
        for keyword, value in more.items():
            setattr(item, keyword, value)
        self.items[uid] = item
        return uid

    def state(self, uid: str) -> str:
        return str(self.items[uid].ProcedureStepState)

    def change(self, uid: str, wanted: str, key: str) -> int:
        """Change a state (PS3.4 CC.2.1)."""
        with self._lock:
            before = self.state(uid) if uid in self.items else ""
            status = self._change(uid, before, wanted, key)
            self.changes.append(Change(uid, before, wanted, status))
            if status == SUCCESS:
                self.items[uid].ProcedureStepState = wanted
                self.keys[uid] = key
            return status

    def _change(self, uid: str, before: str, wanted: str, key: str) -> int:
        if not before:
            return 0xC307
        if wanted == "SCHEDULED":
            return 0xC303
        if not key or (before != "SCHEDULED" and self.keys.get(uid) != key):
            return 0xC302 if wanted == "IN PROGRESS" and before == "IN PROGRESS" and key else 0xC301
        table = {
            ("SCHEDULED", "IN PROGRESS"): SUCCESS,
            ("SCHEDULED", "COMPLETED"): 0xC310,
            ("SCHEDULED", "CANCELED"): 0xC310,
            ("IN PROGRESS", "IN PROGRESS"): 0xC302,
            ("IN PROGRESS", "COMPLETED"): self._final(uid, "COMPLETED"),
            ("IN PROGRESS", "CANCELED"): self._final(uid, "CANCELED"),
            ("COMPLETED", "COMPLETED"): 0xB306,
            ("CANCELED", "CANCELED"): 0xB304,
        }
        return table.get((before, wanted), 0xC300)

    def _final(self, uid: str, state: str) -> int:
        """Whether a workitem has what its final state demands (PS3.4 table CC.2.5-3)."""
        item = self.items[uid]
        if state == "COMPLETED":
            performed = item.get("UnifiedProcedureStepPerformedProcedureSequence") or [Dataset()]
            whole = all(performed[0].get(keyword) for keyword in PERFORMED)
            whole = whole and "OutputInformationSequence" in performed[0]
        else:
            progress = item.get("ProcedureStepProgressInformationSequence") or [Dataset()]
            whole = bool(
                progress[0].get("ProcedureStepCancellationDateTime")
                and progress[0].get("ProcedureStepDiscontinuationReasonCodeSequence")
            )
        return SUCCESS if whole else 0xC304

    def update(self, uid: str, changes: Dataset) -> int:
        """Change attributes (PS3.4 CC.2.6)."""
        with self._lock:
            if uid not in self.items:
                return 0xC307
            if self.state(uid) in ("COMPLETED", "CANCELED"):
                return 0xC300
            if self.state(uid) == "IN PROGRESS" and changes.get("TransactionUID") != self.keys[uid]:
                return 0xC301
            for element in changes:
                if element.keyword != "TransactionUID":
                    self.items[uid][element.tag] = element
            for one in changes.get("ProcedureStepProgressInformationSequence") or ():
                if one.get("ProcedureStepProgress") is not None:
                    self.progress.setdefault(uid, []).append(float(one.ProcedureStepProgress))
            return SUCCESS

    def find(self, keys: Dataset) -> list[Dataset]:
        with self._lock:
            return [
                item
                for item in self.items.values()
                if all(
                    keys.get(keyword) in (None, "", item.get(keyword))
                    for keyword in ("ProcedureStepState", "WorklistLabel", "SOPInstanceUID")
                )
            ]

    def end(self, uid: str, state: str = "CANCELED") -> None:
        """Someone who may do so ends a workitem."""
        with self._lock:
            self.items[uid].ProcedureStepState = state

    def reason(self, uid: str) -> str:
        return str(self.items[uid].ProcedureStepProgressInformationSequence[0].get("ReasonForCancellation", ""))

    def outputs(self, uid: str) -> list[Dataset]:
        return list(self.items[uid].UnifiedProcedureStepPerformedProcedureSequence[0].OutputInformationSequence)


class Archive:
    """What is in the archive beside the worklist: images by study, given by C-GET."""

    def __init__(self) -> None:
        self.images: dict[str, list[Dataset]] = {}
        self.given = 0
        self.hold = threading.Event()
        self.hold.set()

    def find(self, event: evt.Event) -> Iterator[Any]:
        asked = event.identifier
        before = str(asked.get("StudyDate") or "-99999999").removeprefix("-")
        for uid, images in self.images.items():
            first = images[0]
            if asked.get("StudyInstanceUID") not in (None, "", uid) or first.StudyDate > before:
                continue
            if asked.get("PatientID") not in (None, "", first.PatientID):
                continue
            match = Dataset()
            match.QueryRetrieveLevel = asked.QueryRetrieveLevel
            match.NumberOfStudyRelatedInstances = len(images)
            for element in asked:
                if element.keyword in first:
                    match[element.tag] = first[element.tag]
            yield 0xFF00, match

    def get(self, event: evt.Event) -> Iterator[Any]:
        series = event.identifier.get("SeriesInstanceUID") or ()
        wanted = [series] if isinstance(series, str) else series
        images = self.images.get(str(event.identifier.StudyInstanceUID), [])
        images = [one for one in images if not wanted or one.SeriesInstanceUID in wanted]
        yield len(images)
        for one in images:
            self.hold.wait(20)
            self.given += 1
            yield 0xFF00, one


@contextmanager
def dimse_worklist(steps: Steps, archive: Archive, port: int) -> Iterator[None]:
    """The worklist and the archive as one application entity."""

    def lost(event: evt.Event) -> bool:
        if steps.lose_next_answer:
            steps.lose_next_answer = False
            event.assoc.abort()
            return True
        return False

    def action(event: evt.Event) -> tuple[int, None]:
        uid, information = str(event.request.RequestedSOPInstanceUID), event.action_information
        if event.action_type == 3:
            steps.subscribers[uid] = str(information.ReceivingAE)
            return SUCCESS, None
        status = steps.change(uid, str(information.ProcedureStepState), str(information.get("TransactionUID", "")))
        return (0x0110, None) if lost(event) else (status, None)

    def n_set(event: evt.Event) -> tuple[int, Dataset]:
        return steps.update(str(event.request.RequestedSOPInstanceUID), event.modification_list), Dataset()

    def n_get(event: evt.Event) -> tuple[int, Dataset | None]:
        item = steps.items.get(str(event.request.RequestedSOPInstanceUID))
        if item is None:
            return 0xC307, None
        found = Dataset()
        for tag in event.attribute_identifiers:
            if tag in item:
                found[tag] = item[tag]
        return SUCCESS, found

    def c_find(event: evt.Event) -> Iterator[Any]:
        if event.context.abstract_syntax != UnifiedProcedureStepPull:
            yield from archive.find(event)
            return
        for item in steps.find(event.identifier):
            yield 0xFF00, item

    entity = AE("ARCHIVE")
    for uid in (
        UnifiedProcedureStepPull,
        UnifiedProcedureStepWatch,
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
    ):
        entity.add_supported_context(uid)
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.1", scu_role=True, scp_role=True)
    server = entity.start_server(
        ("127.0.0.1", port),
        block=False,
        evt_handlers=[
            (evt.EVT_N_ACTION, action),
            (evt.EVT_N_SET, n_set),
            (evt.EVT_N_GET, n_get),
            (evt.EVT_C_FIND, c_find),
            (evt.EVT_C_GET, archive.get),
        ],
    )
    assert server is not None
    try:
        yield
    finally:
        archive.hold.set()
        server.shutdown()


def tell_cancel(steps: Steps, uid: str, port: int, *, calling_aet: str = "ARCHIVE") -> int:
    """Tell the subscriber that someone asks for a workitem's cancellation (PS3.4 CC.2.4); its answer's status."""
    information = Dataset()
    information.ReasonForCancellation = "no longer needed"
    association = AE(calling_aet).associate(
        "127.0.0.1",
        port,
        ae_title=steps.subscribers.get(uid, "MEDREGA"),
        contexts=[build_context(UnifiedProcedureStepEvent)],
        ext_neg=[build_role(UnifiedProcedureStepEvent, scp_role=True)],
    )
    assert association.is_established
    status, _ = association.send_n_event_report(information, 2, UnifiedProcedureStepEvent, uid)
    association.release()
    return int(status.Status)


@contextmanager
def web_worklist(steps: Steps) -> Iterator[str]:
    """The worklist by UPS-RS (PS3.18 11); its root."""
    http = {SUCCESS: 200, 0xB304: 200, 0xB306: 200, 0xC307: 404, 0xC303: 400}

    def answer(status: int) -> Response:
        steps.answers += 1
        if steps.answers == steps.lost_answer:
            return Response(status_code=502)  # what was asked for has happened all the same
        return Response(status_code=http.get(status, 409))

    async def search(request: Request) -> Response:
        keys = Dataset()
        for keyword, value in request.query_params.multi_items():
            if keyword != "includefield":
                setattr(keys, keyword, value)
        found = steps.find(keys)
        return JSONResponse([item.to_json_dict() for item in found]) if found else Response(status_code=204)

    async def retrieve(request: Request) -> Response:
        item = steps.items.get(request.path_params["uid"])
        return JSONResponse([item.to_json_dict()]) if item is not None else answer(0xC307)

    async def update(request: Request) -> Response:
        changes = Dataset.from_json(await request.json())
        assert changes.get("TransactionUID", "") == request.query_params.get("transaction-uid")
        return answer(steps.update(request.path_params["uid"], changes))

    async def change(request: Request) -> Response:
        body = await request.json()
        if not isinstance(body, list):  # this one wants a list, as some do
            return Response(status_code=400)
        information = Dataset.from_json(body[0])
        key = str(information.get("TransactionUID", ""))
        return answer(steps.change(request.path_params["uid"], str(information.ProcedureStepState), key))

    app = Starlette(
        routes=[
            Route("/dicom-web/workitems", search),
            Route("/dicom-web/workitems/{uid}", retrieve),
            Route("/dicom-web/workitems/{uid}", update, methods=["POST"]),
            Route("/dicom-web/workitems/{uid}/state", change, methods=["PUT"]),
        ]
    )
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    pause = threading.Event()
    while not server.started:
        pause.wait(0.02)
    try:
        yield f"http://127.0.0.1:{port}/dicom-web"
    finally:
        server.should_exit = True
        with suppress(RuntimeError):
            thread.join(10)
