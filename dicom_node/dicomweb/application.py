"""The DICOMweb server's resources."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import anyio.from_thread
import anyio.to_thread
import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dicom_node.audit import Trail
from dicom_node.dicomweb.guard import Guard, answer_early
from dicom_node.dicomweb.multipart import (
    PART_10,
    MediaType,
    Multipart,
    MultipartError,
    boundary_of,
    content,
    read_parts,
)
from dicom_node.dicomweb.retrieve import (
    JSON,
    accepted,
    as_json,
    metadata,
    takes_json,
    takes_part_10,
)
from dicom_node.dicomweb.search import Level, QueryError, Search
from dicom_node.dicomweb.store import BodyError, StoreAnswer, store_parts
from dicom_node.dicomweb.users import User, Users
from dicom_node.intake.identity import is_uid
from dicom_node.intake.storage import Storage
from dicom_node.intake.transfers import Transfer, Transfers
from dicom_node.ledger.holdings import Held, Selection
from dicom_node.settings import Settings
from dicom_node.settings.dicomweb import Right
from dicom_node.spool import SpoolFullError
from engine.errors import NodeError

_MIB: Final = 1 << 20
_LARGEST_RESULT: Final = 512 * _MIB
"""A result object is in the memory of its worker, and here, as a whole."""
_UIDS: Final = {
    "study": "study_instance_uid",
    "series": "series_instance_uid",
    "instance": "sop_instance_uid",
}

log = structlog.get_logger(__name__)


def make_application(settings: Settings, storage: Storage, transfers: Transfers) -> ASGIApp:
    """The server as an ASGI application.

    Raises
    ------
    SettingsError
        If a user's password or token cannot be read.
    """
    service = _Service(settings, storage, transfers)
    study = "/studies/{study}"
    series = study + "/series/{series}"
    instance = series + "/instances/{instance}"
    work = "/work/{run}"
    routes = [
        Route("/studies", service.store, methods=["POST"]),
        Route(study, service.store, methods=["POST"]),
        *(Route(path, service.retrieve, methods=["GET"]) for path in (study, series, instance)),
        *(Route(f"{path}/metadata", service.metadata, methods=["GET"]) for path in (study, series, instance)),
        Route("/studies", service.search_studies, methods=["GET"]),
        *(Route(path, service.search_series, methods=["GET"]) for path in ("/series", f"{study}/series")),
        *(
            Route(f"{path}/instances", service.search_instances, methods=["GET"])
            for path in ("", study, f"{study}/series/{{series}}")
        ),
        Route(f"{work}/reading", service.reading, methods=["GET"]),
        Route(f"{work}/reading", service.put_reading, methods=["PUT"]),
        Route(f"{work}/results/{{variant}}/{{kind}}", service.put_result, methods=["PUT"]),
    ]
    handlers: dict[Any, Any] = {NodeError: _failed, HTTPException: _refused}
    application = Starlette(routes=routes, exception_handlers=handlers)
    application.router.redirect_slashes = False
    return Guard(application, Users(settings.dicomweb_users), settings.dicomweb.timeout_seconds, Trail.of(settings))


class _Service:
    def __init__(self, settings: Settings, storage: Storage, transfers: Transfers) -> None:
        self._storage = storage
        self._spool = storage.spool
        self._ledger = storage.ledger
        self._transfers = transfers
        self._aet = settings.dicomweb.aet or settings.listener.aet
        self._limit = settings.dicomweb.max_body_mib * _MIB
        self._storing = anyio.CapacityLimiter(settings.dicomweb.max_connections)

    async def store(self, request: Request) -> Response:
        user = _allowed(request, "store")
        study = _uids(request).get("study_instance_uid", "")
        media_type = MediaType.parse(request.headers.get("content-type", ""))
        if media_type.name != "multipart/related" or media_type.parameters.get("type", PART_10) != PART_10:
            raise HTTPException(415, 'only multipart/related; type="application/dicom" can be stored')
        if not takes_json(accepted(request.headers.get("accept", ""))):
            raise HTTPException(406, f"the answer is {JSON}")
        try:
            boundary = boundary_of(media_type)
        except MultipartError as error:
            raise HTTPException(400, str(error)) from None
        body = _Body(request, self._limit)

        def work() -> StoreAnswer:
            with self._transfers.open() as transfer:
                answer = store_parts(
                    read_parts(_heard(body.chunks(), transfer), boundary),
                    self._storage,
                    transfer,
                    calling_aet=user.name,
                    called_aet=self._aet,
                    study_instance_uid=study,
                )
                if answer.broken is not None:
                    transfer.end()  # as aborted
            return answer

        answer = await anyio.to_thread.run_sync(work, limiter=self._storing)
        log.info(
            "stored",
            user=user.name,
            stored=len(answer.stored),
            failed=len(answer.failed),
            studies=sorted({kept.study_instance_uid for _, kept in answer.stored})[:10],
        )
        response = Response(json.dumps(as_json(answer.module(_root(request)))).encode(), answer.status, media_type=JSON)
        if answer.status == 503:
            response.headers["Retry-After"] = "30"
        if answer.broken is not None:
            response.headers["Connection"] = "close"
        return response

    def retrieve(self, request: Request) -> Response:
        _allowed(request, "retrieve")
        instances = self._selected(request)
        single = "instance" in request.path_params
        how = takes_part_10(
            accepted(request.headers.get("accept", "")), {held.transfer_syntax_uid for held in instances}, single=single
        )
        if how is None:
            raise HTTPException(406, "objects are given as DICOM files in the transfer syntax in which they came")
        paths = [self._spool.path(held.path) for held in instances]
        try:
            if how == PART_10:
                body: Iterable[bytes] = content(paths[0])
                length, media_type = paths[0].stat().st_size, PART_10
            else:
                body = whole = Multipart(paths)
                length, media_type = whole.length, whole.media_type
        except OSError:
            raise HTTPException(404, "no longer in the spool") from None
        return StreamingResponse(body, media_type=media_type, headers={"Content-Length": str(length)})

    def metadata(self, request: Request) -> Response:
        _allowed(request, "retrieve")
        _demand_json(request)
        return StreamingResponse(metadata(self._spool, self._selected(request), _root(request)), media_type=JSON)

    def search_studies(self, request: Request) -> Response:
        return self._search(request, "studies")

    def search_series(self, request: Request) -> Response:
        return self._search(request, "series")

    def search_instances(self, request: Request) -> Response:
        return self._search(request, "instances")

    def reading(self, request: Request) -> Response:
        _allowed(request, "work")
        run_id = self._worked_on(request)
        return Response(self._spool.reading(run_id), media_type="application/json")

    async def put_reading(self, request: Request) -> Response:
        _allowed(request, "work")
        run_id = await run_in_threadpool(self._worked_on, request)
        try:
            text = (await _digested(request)).decode("utf-8")
        except UnicodeDecodeError:
            raise HTTPException(400, "a reading is UTF-8") from None
        await run_in_threadpool(self._spool.store_reading, run_id, text)
        return Response(status_code=204)

    async def put_result(self, request: Request) -> Response:
        _allowed(request, "work")
        run_id = await run_in_threadpool(self._worked_on, request)
        variant, kind = request.path_params["variant"], request.path_params["kind"]
        result = await _digested(request)
        path, _ = await run_in_threadpool(self._spool.store_result, run_id, variant, kind, result)
        return PlainTextResponse(path, 201)

    def _search(self, request: Request, level: Level) -> Response:
        _allowed(request, "retrieve")
        _demand_json(request)
        names = list(request.query_params)
        query = {name: request.query_params[name] for name in names}
        try:
            found, more = Search(level, _uids(request), query).answer(self._ledger, self._spool, _root(request))
        except QueryError as error:
            raise HTTPException(400, str(error)) from None
        if not found:
            return Response(status_code=204)
        response = Response(json.dumps(found, ensure_ascii=False).encode(), media_type=JSON)
        if more:
            response.headers["Warning"] = '299 medrega-pacs "There are additional results that can be requested"'
        return response

    def _selected(self, request: Request) -> list[Held]:
        instances = self._ledger.holdings.instances(Selection(**_uids(request)))
        if not instances:
            raise HTTPException(404, "not in the spool")
        return instances

    def _worked_on(self, request: Request) -> str:
        run_id = str(request.path_params["run"])
        if not self._ledger.holdings.is_worked_on(run_id, request.query_params.get("owner", "")):
            raise HTTPException(409, "the run is not this worker's to read")
        return run_id


class _Body:
    """A request's body, taken chunk by chunk from a thread."""

    def __init__(self, request: Request, limit: int) -> None:
        self._request = request
        self._limit = limit
        self._size = 0
        self._more = True
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise HTTPException(413, f"a request is at most {limit // _MIB} MiB long")

    async def chunk(self) -> bytes | None:
        """What came next; None at the end."""
        while self._more:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise BodyError("the client broke the connection off", 400)
            self._more = message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            self._size += len(chunk)
            if self._size > self._limit:
                raise BodyError(f"the request is longer than {self._limit // _MIB} MiB", 413)
            if chunk:
                return chunk
        return None

    def chunks(self) -> Iterator[bytes]:
        """All of it, in a thread that the event loop started."""
        while (chunk := anyio.from_thread.run(self.chunk)) is not None:
            yield chunk


def _heard(chunks: Iterator[bytes], transfer: Transfer) -> Iterator[bytes]:
    for chunk in chunks:
        transfer.heard()
        yield chunk


async def _digested(request: Request) -> bytes:
    """A body that is what its digest says (RFC 9530)."""
    body = _Body(request, _LARGEST_RESULT)
    whole = bytearray()
    while (chunk := await body.chunk()) is not None:
        whole += chunk
    expected = f"sha-256=:{base64.b64encode(hashlib.sha256(whole).digest()).decode()}:"
    if request.headers.get("content-digest", "") != expected:
        raise HTTPException(400, "the body is not what its Content-Digest says")
    return bytes(whole)


def _allowed(request: Request, right: Right) -> User:
    user: User = request.scope["user"]
    if right not in user.rights:
        raise HTTPException(403, f"this user may not {right}")
    return user


def _uids(request: Request) -> dict[str, str]:
    found = {field: request.path_params[name] for name, field in _UIDS.items() if name in request.path_params}
    if not all(map(is_uid, found.values())):
        raise HTTPException(400, "a UID is made of digits and dots, at most 64")
    return found


def _demand_json(request: Request) -> None:
    if not takes_json(accepted(request.headers.get("accept", ""))):
        raise HTTPException(406, f"the answer is {JSON}")


def _root(request: Request) -> str:
    return str(request.base_url).rstrip("/")


class _Early(Response):
    """An answer that does not want the rest of the request's body."""

    def __init__(self, answer: Response) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer_early(self._answer, scope, receive, send)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what this handles
    return _Early(PlainTextResponse(f"{error.detail}\n", error.status_code, headers=error.headers))


async def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, NodeError)  # noqa: S101 - what this handles
    if isinstance(error, BodyError):
        return PlainTextResponse(f"{error}\n", error.status, headers={"Connection": "close"})
    log.warning("request not served", reason=str(error))
    status = 507 if isinstance(error, SpoolFullError) else 503
    return PlainTextResponse("not now\n", status, headers={"Retry-After": "30"})
