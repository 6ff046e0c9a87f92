"""The console as an ASGI application: its pages, its headers, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.console import (
    destinations,
    engine,
    health,
    metrics,
    oidc,
    page,
    review,
    routes,
    settings,
    sign_in,
    study,
    worklist,
)
from dicom_node.console.sessions import Sessions
from dicom_node.ledger import Ledger
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.errors import MedregaError

STATIC: Final = Path(__file__).parent / "static"
_LARGEST: Final = 4 << 20
"""Bytes of a form: a report of many thousand lines."""
_FORM: Final = "application/x-www-form-urlencoded"
"""What every page of ours sends. In other kinds a client says how their text is to be decoded, and what that costs."""
_FORM_SECONDS: Final = 30
"""How long a form may take: connections are numbered, and who has not signed in takes them too."""
_HEADERS: Final = {
    # No script and no style but our own files: words of a header cannot become either.
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

log = structlog.get_logger(__name__)

ROUTES: Final[list[Route]] = [
    Route("/healthz/live", health.live),
    Route("/healthz/ready", health.ready),
    *metrics.ROUTES,
    *sign_in.ROUTES,
    *oidc.ROUTES,
    *worklist.ROUTES,
    *study.ROUTES,
    *review.ROUTES,
    *routes.ROUTES,
    *destinations.ROUTES,
    *engine.ROUTES,
    *settings.ROUTES,
]
"""Every page; each says by its guard who may ask for it."""


def make_application(settings: Settings, ledger: Ledger, spool: Spool) -> Starlette:
    """The console.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    spool : Spool

    Returns
    -------
    Starlette
        Its ``state`` holds these three, and ``sessions``.
    """
    handlers: dict[Any, Any] = {
        HTTPException: _refused,
        MedregaError: _failed,
        ClientDisconnect: _gone,
        Exception: _unexpected,
    }
    application = Starlette(
        routes=[*ROUTES, Mount("/static", StaticFiles(directory=STATIC))],
        exception_handlers=handlers,
        middleware=[Middleware(_Shell, secure=settings.console.is_secure)],
    )
    application.state.settings = settings
    application.state.ledger = ledger
    application.state.spool = spool
    application.state.sessions = Sessions(settings, ledger)
    return application


class _Shell:
    """The headers of every answer, and the limits of every form."""

    def __init__(self, application: ASGIApp, *, secure: bool) -> None:
        self._application = application
        self._headers = _headers(secure=secure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                # What anybody may see is asked for anew each time, and not sent if it is the same; the rest is kept
                # by no browser and no proxy.
                static = scope["path"].startswith("/static/") and message["status"] in (200, 304)
                headers["Cache-Control"] = "no-cache" if static else "no-store"
            await send(message)

        application: ASGIApp = self._application
        if (refusal := _refusal(Headers(scope=scope))) is not None:
            application = refusal
        else:
            try:
                receive = _again(await asyncio.wait_for(_whole(receive), _FORM_SECONDS), receive)
            except TimeoutError:
                application = PlainTextResponse("too slow\n", 408, headers={"Connection": "close"})
        await application(scope, receive, send_with_headers)


def _refusal(headers: Headers) -> Response | None:
    """Why a request is not read, if it is not."""
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not length.isdigit():
        return PlainTextResponse("say how long the request is\n", 411)
    if int(length) > _LARGEST:
        return PlainTextResponse("too long\n", 413)
    if int(length) and headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return PlainTextResponse(f"only {_FORM} is read\n", 415)
    return None


async def _whole(receive: Receive) -> list[Message]:
    """A request's body, and what else may come with it."""
    messages: list[Message] = []
    more = True
    while more:
        messages.append(await receive())
        more = messages[-1].get("more_body", False)
    return messages


def _again(messages: list[Message], receive: Receive) -> Receive:
    """What has been received already, and then whatever comes."""

    async def received() -> Message:
        return messages.pop(0) if messages else await receive()

    return received


def _headers(*, secure: bool) -> dict[str, str]:
    return _HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if secure else {})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what this handles
    return _problem(request, error.status_code, error.detail)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, MedregaError)  # noqa: S101 - what this handles
    log.warning("page not served", page=_name(request), reason=str(error))
    return _problem(request, 503 if error.retry else 409, error.explained)


async def _gone(_request: Request, _error: Exception) -> Response:
    """Answer a browser that went in the middle of its form: nobody reads it, and it is no error of the console."""
    return Response(status_code=400)


async def _unexpected(request: Request, error: Exception) -> Response:
    # The outermost edge of a request: the words of other people's exceptions may quote a data set.
    log.error("unexpected error in a page", page=_name(request), exc_info=error)
    answer = _problem(request, 500, "Something unexpected went wrong; the log says what.")
    # Starlette answers this outside of every middleware, and so of the shell.
    answer.headers.update(_headers(secure=request.app.state.settings.console.is_secure) | {"Cache-Control": "no-store"})
    return answer


def _problem(request: Request, status: int, words: str) -> Response:
    return page.render(request, "problem.html", status_code=status, status=status, message=words)


def _name(request: Request) -> str:
    return getattr(request.scope.get("endpoint"), "__name__", "")
