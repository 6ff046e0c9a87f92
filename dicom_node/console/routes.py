"""The routes page: what is read, and the switches by hand that count at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route as Page

from dicom_node.audit import Action
from dicom_node.console import guard, page
from dicom_node.console.accounts import Role
from dicom_node.console.audited import audited
from dicom_node.ledger.switches import Switched, Work
from dicom_node.routing.decision import Action as RouteAction
from dicom_node.routing.router import routes_of
from dicom_node.routing.rules import Route
from engine.errors import SettingsError

_WAYS: Final = {"off": RouteAction.OFF, "shadow": RouteAction.SHADOW, "on": RouteAction.READ}
_LONGEST: Final = 200
"""Characters of a reason."""


@dataclass(frozen=True, slots=True)
class RouteView:
    """A route as the page shows it; one that has a switch or work under way and no rule any more has no `rule`."""

    name: str
    rule: Route | None
    switched: Switched | None
    under_way: int

    @property
    def action(self) -> str:
        """What happens to its studies now."""
        return self.switched.value if self.switched else self.rule.action.value if self.rule else ""


@guard.requires(Role.VIEWER)
async def routes(request: Request) -> Response:
    """The page."""
    return await _page(request)


@guard.requires(Role.ADMINISTRATOR)
async def switch(request: Request) -> Response:
    """Switch a route off or to shadow, or let its rule count again."""
    name, way = request.path_params["route"], request.url.path.rpartition("/")[2]
    switches, reason = request.app.state.ledger.switches, await _reason(request)
    views, _ = await anyio.to_thread.run_sync(_views, request)
    if name not in [view.name for view in views]:
        raise HTTPException(404, "There is no such route.")
    stopped = await anyio.to_thread.run_sync(switches.set_route, name, _WAYS[way], reason)
    await audited(request, Action.ROUTE_SWITCHED, detail=f"route {name}: {way}{f' ({reason})' if reason else ''}")
    return RedirectResponse(f"/routes?stopped={stopped}", 303)


@guard.requires(Role.ADMINISTRATOR)
async def pause(request: Request) -> Response:
    """Pause all readings or all deliveries, or let them go on."""
    _, _, work, action = request.url.path.split("/")
    switches = request.app.state.ledger.switches
    if action == "pause":
        reason = await _reason(request)
        await anyio.to_thread.run_sync(switches.pause, Work(work), reason)
        await audited(request, Action.WORK_PAUSED, detail=f"{work}{f' ({reason})' if reason else ''}")
    else:
        await anyio.to_thread.run_sync(switches.resume, Work(work))
        await audited(request, Action.WORK_RESUMED, detail=work)
    return RedirectResponse("/routes", 303)


ROUTES: Final = [
    Page("/routes", routes),
    *(Page(f"/routes/{{route}}/{name}", switch, methods=["POST"]) for name in _WAYS),
    *(Page(f"/work/{work}/{name}", pause, methods=["POST"]) for work in Work for name in ("pause", "resume")),
]


async def _reason(request: Request) -> str:
    return " ".join(str((await request.form()).get("reason", "")).split())[:_LONGEST]


async def _page(request: Request) -> Response:
    views, complaint = await anyio.to_thread.run_sync(_views, request)
    paused: Mapping[Work, Switched] = await anyio.to_thread.run_sync(request.app.state.ledger.switches.paused)
    return page.render(
        request,
        "routes.html",
        routes=views,
        complaint=complaint,
        works=[(work, paused.get(work)) for work in Work],
        stopped=request.query_params.get("stopped", ""),
        changes=guard.allows(request, Role.ADMINISTRATOR),
    )


def _views(request: Request) -> tuple[list[RouteView], str]:
    """The routes in the order of their rules, and what is wrong with the rules."""
    state, complaint = request.app.state, ""
    try:
        rules = {route.name: route for route in routes_of(state.settings)}
    except SettingsError as error:  # the node goes on by the ones from before, and switches must work all the same
        rules, complaint = {}, error.explained
    switched, under_way = state.ledger.switches.routes(), state.ledger.switches.under_way()
    names = dict.fromkeys([*rules, *switched, *under_way])
    return [RouteView(name, rules.get(name), switched.get(name), under_way.get(name, 0)) for name in names], complaint
