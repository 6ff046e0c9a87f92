"""Health: whether the process lives, and whether the node can work; without details for who has not signed in."""

from __future__ import annotations

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from dicom_node.console import guard
from dicom_node.ledger import Ledger
from dicom_node.queue.broker import wait_until_up
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.errors import MedregaError


@guard.unguarded
async def live(_request: Request) -> Response:
    """The process answers."""
    return PlainTextResponse("live\n")


@guard.unguarded
async def ready(request: Request) -> Response:
    """The ledger can be read, the broker answers, and the spool has room."""
    state = request.app.state
    is_ready = await anyio.to_thread.run_sync(_is_ready, state.settings, state.ledger, state.spool)
    return PlainTextResponse("ready\n" if is_ready else "not ready\n", 200 if is_ready else 503)


def _is_ready(settings: Settings, ledger: Ledger, spool: Spool) -> bool:
    try:
        ledger.switches.paused()
        spool.space.check()
        wait_until_up(settings, 0)
    except (MedregaError, OSError):
        return False
    return True
