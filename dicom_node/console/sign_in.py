"""Signing in and out, and picking a language."""

from __future__ import annotations

from typing import Final

import anyio
import anyio.to_thread
import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dicom_node.audit import Action, AuditEvent, Outcome, Trail
from dicom_node.console import accounts, guard, page
from dicom_node.console.translation import COOKIE, LANGUAGES

_GUESSES: Final = anyio.CapacityLimiter(1)
"""A look at a password takes 64 MiB: who guesses with many connections is no faster, and takes no more memory."""
_YEAR: Final = 365 * 24 * 3600
_LONGEST: Final = 1024
_LONGEST_ADDRESS: Final = 64

log = structlog.get_logger(__name__)


@guard.unguarded
async def form(request: Request) -> Response:
    """The form to sign in."""
    return _form(request)


@guard.unguarded
async def sign_in(request: Request) -> Response:
    """Sign in with a password."""
    state, fields = request.app.state, await request.form()
    name, password = (str(fields.get(field, ""))[:_LONGEST] for field in ("name", "password"))
    address = address_of(request)
    try:
        known = await anyio.to_thread.run_sync(
            accounts.sign_in, state.ledger, name, password, address, limiter=_GUESSES
        )
    except accounts.TooManyError:
        await note(request, Action.SIGN_IN_FAILED, name, "it failed too often")
        period = int(accounts.PERIOD.total_seconds())
        return _form(request, "Signing in failed too often. Try again in a quarter of an hour.", 429, period)
    if not known:
        await note(request, Action.SIGN_IN_FAILED, name)
        return _form(request, "The name or the password is wrong.", 401)
    await note(request, Action.SIGNED_IN, name)
    response = RedirectResponse(place_of(str(fields.get("next", ""))), 303)
    await anyio.to_thread.run_sync(state.sessions.begin, request, response, name)
    return response


@guard.unguarded
async def sign_out(request: Request) -> Response:
    """Sign out."""
    sessions = request.app.state.sessions
    account = await anyio.to_thread.run_sync(sessions.who, request)
    await anyio.to_thread.run_sync(sessions.end, request)
    if account is not None:
        await note(request, Action.SIGNED_OUT, account.name)
    return RedirectResponse("/sign-in", 303)


@guard.unguarded
async def pick_language(request: Request) -> Response:
    """Keep a language in a cookie."""
    fields = await request.form()
    response = RedirectResponse(place_of(str(fields.get("next", ""))), 303)
    if (language := str(fields.get("language"))) in LANGUAGES:
        request.app.state.sessions.set(response, COOKIE, language, _YEAR)
    return response


ROUTES: Final = [
    Route("/sign-in", form),
    Route("/sign-in", sign_in, methods=["POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
    Route("/language", pick_language, methods=["POST"]),
]


def address_of(request: Request) -> str:
    """The address that asks; by way of a proxy of the settings whatever that says."""
    return request.client.host[:_LONGEST_ADDRESS] if request.client is not None else ""


async def note(request: Request, action: Action, name: str, detail: str = "") -> None:
    """Enter it in the trail; what somebody types who does not get in may be anything, also a password."""
    failed = action is Action.SIGN_IN_FAILED
    known = not failed or await anyio.to_thread.run_sync(request.app.state.ledger.accounts.password, name) is not None
    outcome = Outcome.MINOR_FAILURE if failed else Outcome.SUCCESS
    event = AuditEvent(action, name if known else "unknown", address_of(request), None, outcome, detail)
    await anyio.to_thread.run_sync(Trail.of(request.app.state.settings).write, event)
    log.info(action.value, account=event.actor, address=event.address)


def _form(request: Request, message: str = "", status: int = 200, retry_after: int = 0) -> Response:
    state = request.app.state
    return page.render(
        request,
        "sign_in.html",
        status_code=status,
        headers={"Retry-After": str(retry_after)} if retry_after else None,
        message=message,
        next=place_of(request.query_params.get("next", "")),
        provider=state.settings.oidc.issuer,
    )


def place_of(path: str) -> str:
    """A page of this console, and of no other site: browsers take two slashes, or a backslash, for a host's name."""
    inside = path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable()
    return path if inside else "/"
