"""The study page: what happened to a study, what the model saw in it, and what became of the results."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from dicom_node.audit import Action
from dicom_node.console import guard, page
from dicom_node.console.accounts import Role
from dicom_node.console.audited import audited
from dicom_node.console.picture import image_of, png
from dicom_node.console.study_view import Asked, StudyView
from dicom_node.operations import Operations
from engine.errors import ImageError, MedregaError, NodeError
from engine.findings import Language, RunState
from engine.imaging import Window
from sr_writer.drawing import colour_name

PRESETS: Final = {
    "CT": (("lung", -600, 1500), ("soft tissue", 40, 400), ("bone", 400, 1800), ("brain", 40, 80)),
}
"""Windows in common use, centre and width in the units of the images (CT: Hounsfield units)."""

_RENDERING: Final = anyio.CapacityLimiter(2)
"""A large radiograph takes hundreds of MB while it is rendered."""
_LARGEST: Final = 1e9
_OUTCOMES: Final = {
    RunState.NO_FINDINGS: "The model found nothing.",
    RunState.UNUSABLE: "The model ran, and nothing it answered could be used.",
    RunState.NOT_RUN: "No image was read.",
}


@guard.requires(Role.VIEWER)
async def study(request: Request) -> Response:
    """The page."""
    answer = await _page(request)
    if "hx-request" not in request.headers:  # not each image that is gone to, nor a page that looks for news
        await audited(request, Action.STUDY_VIEWED, study_uid=request.path_params["study"])
    return answer


@guard.requires(Role.VIEWER)
async def picture(request: Request) -> Response:
    """A frame as PNG, with the window of the query or the image's own."""
    uids, state = request.path_params, request.app.state
    asked, frame = _asked(request), uids["frame"]
    if not re.fullmatch(r"[0-9]{1,9}", frame):  # a route that takes an int fails at many digits
        raise HTTPException(404, "There is no such frame.")

    def render() -> bytes:
        instance = image_of(state.ledger, state.spool, uids["study"], uids["image"])
        return png(instance, int(frame), asked.window)

    try:
        content = await anyio.to_thread.run_sync(render, limiter=_RENDERING)
    except (NodeError, ImageError) as error:  # in words, which the page shows in the picture's place
        status = 503 if error.retry else 404 if isinstance(error, NodeError) else 422
        return PlainTextResponse(error.explained, status)
    return Response(content, media_type="image/png")


@guard.requires(Role.VIEWER)
async def result(request: Request) -> Response:
    """A result object, as it was or is to be sent."""
    state, wanted = request.app.state, request.path_params["result"]

    def find() -> tuple[str, Path]:
        for item in state.ledger.study(request.path_params["study"]).results:
            if item.sop_instance_uid == wanted:
                if state.spool.sha256(item.path) != item.sha256:
                    raise NodeError("the stored result is not the one that the ledger knows")
                return item.kind, state.spool.path(item.path)
        raise NodeError("the study has no such result")

    try:
        kind, path = await anyio.to_thread.run_sync(find)
    except NodeError as error:
        raise _not_found(error) from None
    await audited(request, Action.RESULT_DOWNLOADED, study_uid=request.path_params["study"], detail=wanted)
    return FileResponse(path, media_type="application/dicom", filename=f"{kind}-{wanted}.dcm")


@guard.requires(Role.ADMINISTRATOR)
async def change(request: Request) -> Response:
    """Retry, cancel, hold, release, push, reread or retract."""
    uid, form = request.path_params["study"], await request.form()
    operations = _operations(request)
    changes: dict[str, Callable[[], object]] = {
        "retry": lambda: operations.retry(uid),
        "cancel": lambda: operations.cancel(uid),
        "hold": lambda: operations.hold(uid, ""),
        "release": lambda: operations.release(uid),
        "push": lambda: operations.push(uid),
        "reread": lambda: operations.reread(uid, str(form.get("plan", ""))),
        "retract": lambda: operations.retract(uid, str(form.get("reason", ""))),
    }
    try:
        await anyio.to_thread.run_sync(changes[request.url.path.rpartition("/")[2]])
    except MedregaError as error:
        return await _page(request, error.explained, 409)
    return RedirectResponse(f"/study/{uid}", 303)


ROUTES: Final = [
    Route("/study/{study}", study),
    Route("/study/{study}/image/{image}/{frame}", picture),
    Route("/study/{study}/result/{result}", result),
    *(
        Route(f"/study/{{study}}/{name}", change, methods=["POST"])
        for name in ("retry", "cancel", "hold", "release", "push", "reread", "retract")
    ),
]


async def _page(request: Request, message: str = "", status: int = 200) -> Response:
    state, uid, asked = request.app.state, request.path_params["study"], _asked(request)
    language: Language = "zh" if page.language(request) == "zh" else "en"
    try:
        view = await anyio.to_thread.run_sync(StudyView.of, state.ledger, state.spool, uid, asked, language)
    except NodeError as error:
        raise _not_found(error) from None
    part = request.headers.get("hx-target", "")
    if part == "progress" and request.query_params.get("events") == str(len(view.record.events)):
        return Response(status_code=204)  # nothing is swapped, and so nothing closed that somebody has opened
    changes = guard.allows(request, Role.ADMINISTRATOR)
    here = f"/study/{uid}"
    return page.render(
        request,
        "study.html",
        status_code=status,
        view=view,
        here=here,
        href=partial(_href, here, view),
        source=_source(here, view),
        message=message,
        part=part if part in ("viewer", "progress") else "",
        colour=colour_name,
        outcomes=_OUTCOMES,
        presets=PRESETS.get(view.shown.modality, ()) if view.shown is not None else (),
        changes=changes,
        may_review=guard.allows(request, Role.REVIEWER) and view.can_review,
        reviews=await anyio.to_thread.run_sync(state.ledger.reviews.of, uid),
        plans=_operations(request).plans() if changes and view.can_reread else [],
        shown_digest=request.query_params.get("shown", view.digest),
    )


def _not_found(error: NodeError) -> Exception:
    """What to answer; a ledger that cannot be reached for now is another matter."""
    return error if error.retry else HTTPException(404, str(error))


def _asked(request: Request) -> Asked:
    """What the query asks to be shown; what is no number is not asked for."""
    query = request.query_params
    image, frame, center, width = (_number(query.get(name)) for name in ("image", "frame", "center", "width"))
    window = None
    if center is not None and width is not None and width >= 1:
        window = Window(center, width)
    return Asked(max(0, int(image or 0)), max(1, int(frame or 1)), window)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if abs(number) < _LARGEST else None  # neither infinite nor no number


def _href(here: str, view: StudyView, **changes: object) -> str:
    """The page's own address with what it shows now, but for the changes; None takes something away."""
    shown: dict[str, object] = {}
    if view.shown is not None:
        shown = {"image": view.shown.image.number, "frame": view.shown.frame} | _window(view)
    query = {name: value for name, value in (shown | changes).items() if value is not None}
    return f"{here}?{urlencode(query)}" if query else here


def _source(here: str, view: StudyView) -> str:
    """Address of the picture that is shown."""
    if view.shown is None:
        return ""
    query = urlencode(_window(view))
    return f"{here}/image/{view.shown.image.sop_instance_uid}/{view.shown.frame}{'?' * bool(query)}{query}"


def _window(view: StudyView) -> dict[str, object]:
    window = view.shown.window if view.shown is not None else None
    return {"center": f"{window.center:g}", "width": f"{window.width:g}"} if window is not None else {}


def _operations(request: Request) -> Operations:
    address = request.client.host if request.client else None
    return Operations(request.app.state.settings, request.app.state.ledger, request.state.account.name, address)
