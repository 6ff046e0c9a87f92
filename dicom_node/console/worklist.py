"""The worklist page: studies by state, those that a person looks for, and what can be done to many at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final, Self
from urllib.parse import urlencode

import anyio.to_thread
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dicom_node.console import guard, page
from dicom_node.console.accounts import Role
from dicom_node.console.patient import Patient, patient_of
from dicom_node.console.sign_in import address_of
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.overview import Filter, Row
from dicom_node.operations import Operations
from dicom_node.routing.decision import Priority
from dicom_node.spool import Spool
from engine.errors import NodeError

AGES: Final = {"10m": 600, "1h": 3600, "4h": 14_400, "1d": 86_400, "7d": 604_800}
"""For how long a study has been in its state, in seconds."""
MODALITIES: Final = ("CR", "CT", "DX", "MG", "MR", "NM", "OPT", "PT", "RF", "US", "XA", "XC")
"""What is suggested; any other can be typed."""
_ROWS: Final = 50
_SEARCHED: Final = 300
"""Names stand in the spool alone: so many of the newest studies are looked at for a word."""
_AT_ONCE: Final = 1000
_LONGEST: Final = {"words": 512}
_UID: Final = re.compile(r"[0-9.]*\.[0-9.]*")
_MODALITY: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
_FIELDS: Final = ("state", "modality", "route", "priority", "age", "search", "words", "page")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the query of the page asks for; what makes no sense is not asked for.

    Parameters
    ----------
    filter : Filter
    words : str
        To be found in a patient's name, ID, accession number or description.
    page : int
        From 1.
    query : dict of str to str
        The same as it was written; the words are sealed there, as an address is kept in many places.
    """

    filter: Filter
    words: str
    page: int
    query: dict[str, str]

    @classmethod
    def of(cls, query: QueryParams, unseal: Callable[[str], str]) -> Self:
        """As a query says."""
        given = {name: query[name].strip()[: _LONGEST.get(name, 64)] for name in _FIELDS if query.get(name, "").strip()}
        given = given if _is_uid(given.get("search", "")) else given | {"search": ""}
        typed, modality = unseal(given.get("words", "")) or given.get("search", ""), given.get("modality", "").upper()
        state, priority, number = given.get("state", ""), given.get("priority", ""), given.get("page", "")
        age = AGES.get(given.get("age", ""))
        wanted = Filter(
            state=State(state) if state in list(State) else None,
            route=given.get("route", ""),
            priority=Priority(priority) if priority in list(Priority) else None,
            modality=modality if _MODALITY.fullmatch(modality) else "",
            uid=typed if _is_uid(typed) else "",
            at_least=timedelta(seconds=age) if age else None,
        )
        page = int(number) if re.fullmatch(r"[0-9]{1,9}", number) else 1
        return cls(wanted, "" if wanted.uid else typed, max(1, page), given)


@dataclass(frozen=True, slots=True)
class Found:
    """The studies of one page of the list, each with its patient, and how many there are in all."""

    rows: list[tuple[Row, Patient]]
    count: int

    @classmethod
    def of(cls, ledger: Ledger, spool: Spool, asked: Asked, size: int = _ROWS) -> Self:
        """What is asked for, on a page of so many studies."""
        start = (asked.page - 1) * size
        if not asked.words:
            rows = ledger.overview.rows(asked.filter, limit=size, offset=start)
            return cls([(row, patient_of(spool, row.first)) for row in rows], ledger.overview.count(asked.filter))
        rows = ledger.overview.rows(asked.filter, limit=_SEARCHED)
        named = [(row, patient_of(spool, row.first)) for row in rows]
        found = [(row, patient) for row, patient in named if asked.words.lower() in patient.words]
        return cls(found[start : start + size], len(found))


@guard.requires(Role.VIEWER)
async def worklist(request: Request) -> Response:
    """The page."""
    return await _page(request)


@guard.requires(Role.VIEWER)
async def search(request: Request) -> Response:
    """Look for what was typed; a patient's name goes into no address as it is."""
    form, sessions = await request.form(), request.app.state.sessions
    query = {name: str(form.get(name, "")) for name in _FIELDS if name not in ("search", "words", "page")}
    query["words"] = sessions.seal(request, str(form.get("search", "")).strip()[:64])
    query = {name: value for name, value in query.items() if value}
    return RedirectResponse(f"/?{urlencode(query)}" if query else "/", 303)


@guard.requires(Role.ADMINISTRATOR)
async def retry(request: Request) -> Response:
    """Try studies again."""
    return await _change(request, Operations.retry)


@guard.requires(Role.ADMINISTRATOR)
async def cancel(request: Request) -> Response:
    """Cancel studies."""
    return await _change(request, Operations.cancel)


ROUTES: Final = [
    Route("/", worklist),
    Route("/search", search, methods=["POST"]),
    Route("/studies/retry", retry, methods=["POST"]),
    Route("/studies/cancel", cancel, methods=["POST"]),
]


async def _change(request: Request, change: Callable[[Operations, str], object]) -> Response:
    """Change the studies that are ticked, or all that the filters let through."""
    state, form, asked = request.app.state, await request.form(), _asked(request)
    operations = Operations(state.settings, state.ledger, request.state.account.name, address_of(request))

    def work() -> tuple[int, list[str]]:
        if form.get("which") != "all":
            uids = [str(uid) for uid in form.getlist("study")][:_AT_ONCE]
        elif asked.words:
            every = replace(asked, page=1)
            uids = [row.study_instance_uid for row, _ in Found.of(state.ledger, state.spool, every, _AT_ONCE).rows]
        else:
            uids = state.ledger.overview.uids(asked.filter, _AT_ONCE)
        refused = []
        for uid in uids:
            try:
                change(operations, uid)
            except NodeError as error:
                refused.append(f"{uid}: {error}")
        return len(uids) - len(refused), refused

    done, refused = await anyio.to_thread.run_sync(work)
    if refused or not done:
        return await _page(request, done, refused, 409 if refused else 400)
    return RedirectResponse(_href(asked, done=str(done)), 303)


async def _page(
    request: Request, done: int | None = None, refused: list[str] | None = None, status: int = 200
) -> Response:
    state, asked = request.app.state, _asked(request)
    overview = state.ledger.overview
    found = await anyio.to_thread.run_sync(Found.of, state.ledger, state.spool, asked)
    standings = await anyio.to_thread.run_sync(overview.standings)
    routes = await anyio.to_thread.run_sync(overview.routes)
    told = request.query_params.get("done", "")
    if done is None and told.isascii() and told.isdigit():
        done = int(told)
    return page.render(
        request,
        "worklist.html",
        status_code=status,
        asked=asked,
        found=found,
        pages=max(1, -(-found.count // _ROWS)),
        standings=[(one, standings[one]) for one in State if one in standings],
        now=state.ledger.clock(),
        routes=routes,
        priorities=list(Priority),
        ages=AGES,
        modalities=MODALITIES,
        searched=_SEARCHED,
        href=partial(_href, asked),
        here=_href(asked),
        changes=guard.allows(request, Role.ADMINISTRATOR),
        done=done,
        refused=refused or [],
    )


def _asked(request: Request) -> Asked:
    return Asked.of(request.query_params, partial(request.app.state.sessions.unseal, request))


def _is_uid(text: str) -> bool:
    """Whether it may be a part of a UID."""
    return _UID.fullmatch(text) is not None


def _href(asked: Asked, **changes: object) -> str:
    """The page's address with what it asks for now, but for the changes; None takes something away."""
    query = {name: value for name, value in {**asked.query, **changes}.items() if value}
    return f"/?{urlencode(query)}" if query else "/"
