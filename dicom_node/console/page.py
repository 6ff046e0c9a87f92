"""A page: a template, its words in the language of who asks, and what every page has."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from dicom_node.console import guard
from dicom_node.console.accounts import Role
from dicom_node.console.translation import COOKIE, LANGUAGES, negotiated, translator

TEMPLATES: Final = Path(__file__).parent / "templates"
_SPANS: Final = ((86_400, "{count} d"), (3600, "{count} h"), (60, "{count} min"), (1, "{count} s"))

PLACES: Final = (
    ("/", "Worklist", Role.VIEWER),
    ("/routes", "Routes", Role.VIEWER),
    ("/destinations", "Destinations", Role.VIEWER),
    ("/engine", "Engine", Role.VIEWER),
    ("/settings", "Settings", Role.ADMINISTRATOR),
)
"""The main pages: address, name, and who may see them."""


def render(
    request: Request,
    template: str,
    *,
    status_code: int = 200,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> HTMLResponse:
    """A template as an answer.

    Besides what it is given, a template knows ``_`` (translates), ``local`` (a point in time), ``span`` (seconds),
    ``csrf()`` (the hidden field of a form), ``account`` (None before signing in), ``language``, ``places``, ``path``.
    """
    sessions = request.app.state.sessions
    token = sessions.form_token(request)
    environment = _environment(language(request))
    known = {
        "account": getattr(request.state, "account", None),
        "csrf": lambda: Markup('<input type="hidden" name="csrf" value="{}">').format(token),
        "csrf_token": token,
        "language": language(request),
        "languages": LANGUAGES,
        "path": request.url.path,
        "places": [(address, name) for address, name, role in PLACES if guard.allows(request, role)],
    }
    text = environment.get_template(template).render(known | context)
    response = HTMLResponse(text, status_code, headers=headers)
    sessions.keep(request, response)
    return response


def language(request: Request) -> str:
    """The language of who asks: picked, or set for all, or the browser's."""
    picked = request.cookies.get(COOKIE)
    if picked in LANGUAGES:
        return picked
    return request.app.state.settings.console.language or negotiated(request.headers.get("accept-language", ""))


@cache
def _environment(language: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    translate = translator(language)
    environment.globals.update(_=translate, local=local, span=partial(span, translate=translate))
    return environment


def local(time: datetime) -> str:
    """A point in time as the clock on the wall beside the node shows it."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def span(seconds: float, translate: Any = str) -> str:
    """How long something takes, in the two largest units that say it."""
    rest = int(seconds)
    words: list[str] = []
    for size, unit in _SPANS:
        count, rest = divmod(rest, size)
        if count or (size == 1 and not words):
            words.append(translate(unit).format(count=count))
    return " ".join(words[:2])
