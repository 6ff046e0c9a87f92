"""The guard before every page: who has signed in, whether that suffices, and whether the page itself asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final
from urllib.parse import quote

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from dicom_node.console.accounts import Role

Handler = Callable[[Request], Awaitable[Response]]

_SAFE: Final = ("GET", "HEAD")
_NEEDS: Final = {
    Role.VIEWER: "You have to sign in.",
    Role.REVIEWER: "Only reviewers and administrators may do this.",
    Role.ADMINISTRATOR: "Only administrators may do this.",
}


def requires(role: Role) -> Callable[[Handler], Handler]:
    """Let only those in who have a role, and forms only from the console's own pages.

    The handler finds who asks in ``request.state.account``.
    """

    def guarded(handler: Handler) -> Handler:
        @wraps(handler)
        async def guard(request: Request) -> Response:
            sessions = request.app.state.sessions
            account = await anyio.to_thread.run_sync(sessions.who, request)
            if account is None:
                return _to_sign_in(request)
            request.state.account = account
            if not account.role.includes(role):
                raise HTTPException(403, _NEEDS[role])
            if request.method not in _SAFE:
                await sessions.check_form(request)
            return await handler(request)

        guard.guarded = role  # type: ignore[attr-defined]  # a test holds that every page has it
        return guard

    return guarded


def unguarded(handler: Handler) -> Handler:
    """Mark a page that anybody may ask for; forms are still taken from the console's own pages only."""

    @wraps(handler)
    async def guard(request: Request) -> Response:
        if request.method not in _SAFE:
            await request.app.state.sessions.check_form(request)
        return await handler(request)

    guard.guarded = None  # type: ignore[attr-defined]
    return guard


def allows(request: Request, role: Role) -> bool:
    """Whether who asks has a role."""
    account = getattr(request.state, "account", None)
    return account is not None and account.role.includes(role)


def _to_sign_in(request: Request) -> Response:
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"HX-Refresh": "true"})  # the whole page asks, and is sent there
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    back = f"?next={quote(here)}" if request.method in _SAFE and here != "/" else ""
    return RedirectResponse(f"/sign-in{back}", 303)
