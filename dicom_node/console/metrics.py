"""Metrics for Prometheus: for who sends the token of the settings, or without one for this machine alone."""

from __future__ import annotations

import hmac

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from dicom_node.console import guard
from dicom_node.metrics.exposition import CONTENT_TYPE, exposition
from dicom_node.settings import MetricsSettings
from dicom_node.settings.section import is_local_host, is_loopback, secret_of


@guard.unguarded
async def show(request: Request) -> Response:
    """All metrics."""
    state = request.app.state
    if not _may_read(request, state.settings.metrics):
        return PlainTextResponse("metrics.token_file says who may\n", 401, {"WWW-Authenticate": "Bearer"})
    return Response(await anyio.to_thread.run_sync(exposition, state.settings, state.ledger), media_type=CONTENT_TYPE)


def _may_read(request: Request, settings: MetricsSettings) -> bool:
    if settings.token_file is None:
        # A proxy on this machine asks from here for anybody, and so does a page whose name was made to point here.
        forwarded = "x-forwarded-for" in request.headers or "forwarded" in request.headers
        near = request.client is not None and is_loopback(request.client.host)
        return near and not forwarded and is_local_host(request.headers.get("host", ""))
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(token.encode(), secret_of(settings.token_file).encode())


ROUTES = [Route("/metrics", show)]
