"""Signing in by a provider of OpenID Connect: authorization code with PKCE, state and nonce (by Authlib).

What has to be kept until the provider sends somebody back is in a cookie of that browser, for ten minutes: another
browser cannot end what this one has begun.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import anyio.to_thread
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dicom_node.audit import Action
from dicom_node.console import guard
from dicom_node.console.accounts import Role, check_name
from dicom_node.console.sign_in import note, place_of
from dicom_node.settings import OidcSettings
from dicom_node.settings.section import secret_of
from engine.errors import NodeError

_COOKIE: Final = "medrega-oidc"
_SECONDS: Final = 600
_BACK: Final = "/sign-in/oidc/back"

log = structlog.get_logger(__name__)


@guard.unguarded
async def begin(request: Request) -> Response:
    """Send somebody to the provider."""
    client = _client(request)
    kept: dict[str, Any] = {}
    request.scope["session"] = kept
    address = request.app.state.settings.console.address + _BACK
    try:
        response: Response = await client.authorize_redirect(request, address)
    except Exception as error:  # an outermost edge: as below
        raise _failed(error) from None
    kept["next"] = place_of(request.query_params.get("next", ""))
    text = base64.urlsafe_b64encode(json.dumps(kept).encode()).decode()
    request.app.state.sessions.set(response, _COOKIE, text, _SECONDS)
    return response


@guard.unguarded
async def back(request: Request) -> Response:
    """Somebody comes back from the provider."""
    client, settings = _client(request), request.app.state.settings.oidc
    kept = request.scope["session"] = _kept(request)
    if f"_state_hospital_{request.query_params.get('state', '')}" not in kept:
        raise HTTPException(400, "Signing in was not begun in this browser, or took too long.")
    try:
        issuer = {"iss": {"essential": True, "value": settings.issuer}}
        token = await client.authorize_access_token(request, claims_options=issuer)
    except Exception as error:  # an outermost edge: answers that are none make the library raise whatever comes of them
        await note(request, Action.SIGN_IN_FAILED, "", f"provider: {type(error).__name__}")
        raise _failed(error) from None
    claims = token.get("userinfo") or {}
    name, role = str(claims.get(settings.name_claim, "")), role_of(claims, settings)
    try:
        check_name(name)
    except NodeError:
        role = None
    # At many providers people write their own address (OpenID Connect Core 1.0, 5.7).
    if settings.name_claim == "email" and claims.get("email_verified") is not True:
        role = None
    if role is None:
        await note(request, Action.SIGN_IN_FAILED, "", "no name or no group of [oidc]")
        raise HTTPException(403, "This account of the hospital may not use the console.")
    await note(request, Action.SIGNED_IN, name, f"provider, {role}")
    response = RedirectResponse(place_of(str(kept.get("next", ""))), 303)
    response.delete_cookie(_COOKIE)
    await anyio.to_thread.run_sync(request.app.state.sessions.begin, request, response, name, role)
    return response


ROUTES: Final = [Route("/sign-in/oidc", begin), Route(_BACK, back)]


def role_of(claims: Mapping[str, Any], settings: OidcSettings) -> Role | None:
    """The highest role that somebody's groups give; None where they give none."""
    said = claims.get(settings.role_claim, [])
    groups = {str(group) for group in (said if isinstance(said, list) else [said])}
    for role, members in (
        (Role.ADMINISTRATOR, settings.administrators),
        (Role.REVIEWER, settings.reviewers),
        (Role.VIEWER, settings.viewers),
    ):
        if groups & set(members):
            return role
    return None


def _client(request: Request) -> Any:
    """Authlib's client; its answers of the provider are kept with the application."""
    state, settings = request.app.state, request.app.state.settings.oidc
    if settings.issuer is None:
        raise HTTPException(404, "Not Found")
    if not hasattr(state, "oidc"):
        from authlib.integrations.starlette_client import OAuth  # most consoles need none of it

        state.oidc = OAuth().register(
            "hospital",
            client_id=settings.client_id,
            client_secret=secret_of(settings.password_file),
            server_metadata_url=f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={"scope": settings.scopes, "code_challenge_method": "S256", "timeout": 10},
        )
    return state.oidc


def _kept(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(base64.urlsafe_b64decode(request.cookies.get(_COOKIE, "")))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _failed(error: Exception) -> HTTPException:
    log.warning("the provider could not sign somebody in", error=type(error).__name__)
    return HTTPException(502, "The hospital's sign-in did not work; try again, or ask who runs it.")
