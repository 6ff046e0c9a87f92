"""The destinations page: how each does, what waits for it, and holding one back."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dicom_node.audit import Action, Outcome
from dicom_node.console import guard, page
from dicom_node.console.accounts import Role
from dicom_node.console.audited import audited
from dicom_node.ledger.records import Circuit, DestinationRecord
from dicom_node.operations import Operations, Probed
from engine.errors import MedregaError

_ACTIONS: Final = {
    "pause": Action.DESTINATION_PAUSED,
    "resume": Action.DESTINATION_RESUMED,
    "probe": Action.DESTINATION_PROBED,
}


@guard.requires(Role.VIEWER)
async def destinations(request: Request) -> Response:
    """The page; it asks for itself again every few seconds."""
    return await _page(request)


@guard.requires(Role.ADMINISTRATOR)
async def change(request: Request) -> Response:
    """Pause, resume or probe."""
    name, action = request.path_params["destination"], request.url.path.rpartition("/")[2]
    state = request.app.state
    if name not in [record.name for record in await anyio.to_thread.run_sync(_records, request)]:
        raise HTTPException(404, "There is no such destination.")
    operations, health = Operations(state.settings, state.ledger), state.ledger.destinations
    work = {"pause": health.pause, "resume": health.resume, "probe": operations.probe}[action]
    try:
        done = await anyio.to_thread.run_sync(work, name)
    except MedregaError as error:
        await audited(request, _ACTIONS[action], outcome=Outcome.MINOR_FAILURE, detail=f"destination {name}")
        return await _page(request, error.explained, 409)
    await audited(request, _ACTIONS[action], detail=f"destination {name}")
    answered = f"?ms={done.seconds * 1000:.0f}" if isinstance(done, Probed) else ""
    return RedirectResponse(f"/destinations{answered}", 303)


ROUTES: Final = [
    Route("/destinations", destinations),
    *(
        Route(f"/destinations/{{destination}}/{name}", change, methods=["POST"])
        for name in ("pause", "resume", "probe")
    ),
]


def _records(request: Request) -> list[DestinationRecord]:
    state = request.app.state
    records: list[DestinationRecord] = state.ledger.destinations.all(item.name for item in state.settings.destinations)
    return records


def health_of(record: DestinationRecord) -> tuple[str, str]:
    """How a destination does: a word, and the class by which the page colours it."""
    if record.paused_at is not None:
        return "paused", "is-warn"
    if record.circuit is not Circuit.CLOSED:
        return "down", "is-fail"
    failed_last = record.failed_at is not None and (record.answered_at is None or record.failed_at > record.answered_at)
    return ("failing", "is-warn") if failed_last else ("well", "is-ok")


async def _page(request: Request, message: str = "", status: int = 200) -> Response:
    state = request.app.state
    now: datetime = state.ledger.clock()
    answered = request.query_params.get("ms", "")
    return page.render(
        request,
        "destinations.html",
        status_code=status,
        records=await anyio.to_thread.run_sync(_records, request),
        endpoints={item.name: item for item in state.settings.destinations},
        health_of=health_of,
        age=lambda at: max(0.0, (now - at).total_seconds()),
        answered=answered if answered.isdigit() else "",
        message=message,
        changes=guard.allows(request, Role.ADMINISTRATOR),
    )
