"""The worklist page."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dicom_node.console import guard, page
from dicom_node.console.accounts import Role


@guard.requires(Role.VIEWER)
async def worklist(request: Request) -> Response:
    """The page."""
    return page.render(request, "worklist.html")


ROUTES: Final = [Route("/", worklist)]
