"""The settings page: what is in effect, secrets hidden, with what each setting means."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dicom_node.console import guard, page
from dicom_node.console.accounts import Role
from dicom_node.settings.page import effective_settings


@guard.requires(Role.ADMINISTRATOR)
async def settings(request: Request) -> Response:
    """The page."""
    return page.render(request, "settings.html", tables=effective_settings(request.app.state.settings))


ROUTES: Final = [Route("/settings", settings)]
