"""The review page: a reviewer accepts, modifies or rejects each finding of a study's reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Self

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dicom_node.audit import Action
from dicom_node.console import guard, page
from dicom_node.console.accounts import Role
from dicom_node.console.audited import audited
from dicom_node.console.picture import images_of
from dicom_node.console.study_view import Shown, shown_of
from dicom_node.ledger import Ledger
from dicom_node.reading.review import Reviewable, finish_review
from dicom_node.spool import Spool
from engine.errors import ImageError, MedregaError, NodeError
from engine.findings import LANGUAGES, Box, Finding, Language, RunState
from engine.review import Decision, Reason, Verdict, changed
from sr_writer.codes import Vocabulary, names_of
from sr_writer.drawing import colour_name

_WRITING: Final = anyio.CapacityLimiter(1)
"""Results take hundreds of MB while they are written."""
_LONGEST: Final = 4000
"""Characters of a finding's text."""


class _Pictures(list[tuple[Shown, str]]):
    """The frames that have regions, and where their PNG is."""

    @classmethod
    def of(cls, ledger: Ledger, spool: Spool, begun: Reviewable, language: Language) -> Self:
        study, found = begun.claim.study_instance_uid, cls()
        by_uid = {image.sop_instance_uid: image for image in images_of(ledger, spool, study)}
        places = dict.fromkeys((region.sop_instance_uid, region.frame) for region in begun.reading.regions)
        for uid, frame in sorted(places, key=lambda place: by_uid[place[0]].number if place[0] in by_uid else 0):
            if uid not in by_uid:
                continue
            image = by_uid[uid]
            try:
                shown = shown_of(image.load(), [image], image, frame, None, begun.reading.findings, language)
            except ImageError:
                continue  # its boxes can be typed all the same
            found.append((shown, f"/study/{study}/image/{uid}/{frame}"))
        return found


@guard.requires(Role.REVIEWER)
async def review(request: Request) -> Response:
    """The findings, to be judged."""
    return await _page(request, await _begun(request))


@guard.requires(Role.REVIEWER)
async def finish(request: Request) -> Response:
    """The verdicts: results that supersede are written and sent."""
    state, form, uid = request.app.state, await request.form(), request.path_params["study"]
    said = {name: str(value) for name, value in form.items()}
    begun = await _begun(request)
    try:
        if (said.get("reading"), said.get("number")) != (begun.reading.digest, str(begun.claim.attempt)):
            raise NodeError("the study was read or reviewed again meanwhile", advice="judge what is shown now")
        verdicts = [_verdict(finding, place, said, begun) for place, finding in enumerate(begun.reading.findings)]

        def write() -> None:
            finish_review(
                state.settings,
                state.ledger,
                state.spool,
                begun,
                verdicts,
                request.state.account.name,
                datetime.now().astimezone(),
                keep_report="report" in said,
            )

        await anyio.to_thread.run_sync(write, limiter=_WRITING)
    except MedregaError as error:
        return await _page(request, begun, error.explained, said, 409 if isinstance(error, NodeError) else 422)
    told = f"review {begun.claim.attempt}: " + ", ".join(
        f"{sum(verdict.decision is one for verdict in verdicts)} {one}" for one in Decision
    )
    await audited(request, Action.STUDY_REVIEWED, study_uid=uid, detail=told)
    return RedirectResponse(f"/study/{uid}", 303)


ROUTES: Final = [
    Route("/study/{study}/review", review),
    Route("/study/{study}/review", finish, methods=["POST"]),
]


async def _begun(request: Request) -> Reviewable:
    state, uid = request.app.state, request.path_params["study"]
    try:
        await anyio.to_thread.run_sync(state.ledger.study, uid)
    except NodeError as error:
        raise HTTPException(404, str(error)) from None
    begun = await anyio.to_thread.run_sync(Reviewable.of, state.settings, state.ledger, state.spool, uid)
    if begun.reading.state in (RunState.UNUSABLE, RunState.NOT_RUN):
        raise NodeError("the reading says nothing that could be reviewed")
    return begun


async def _page(
    request: Request,
    begun: Reviewable,
    message: str = "",
    said: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    state, uid = request.app.state, request.path_params["study"]
    language: Language = "zh" if page.language(request) == "zh" else "en"
    pictures = await anyio.to_thread.run_sync(_Pictures.of, state.ledger, state.spool, begun, language)
    earlier = await anyio.to_thread.run_sync(state.ledger.reviews.of, uid)
    entered = said or {}
    return page.render(
        request,
        "review.html",
        status_code=status,
        here=f"/study/{uid}",
        begun=begun,
        pictures_of_frames=pictures,
        earlier=earlier,
        message=message,
        entered=lambda name, default="": entered.get(name, default),
        decisions=list(Decision),
        reasons=list(Reason),
        concepts=names_of(_vocabulary(begun)),
        colour=colour_name,
        languages_of_text=LANGUAGES,
        words=language,
    )


def _vocabulary(begun: Reviewable) -> Vocabulary:
    return "phantom" if begun.reading.model.commissioning else "clinical"


def _verdict(finding: Finding, number: int, said: Mapping[str, str], begun: Reviewable) -> Verdict:
    """What the form says of a finding.

    Raises
    ------
    NodeError
        If it says nothing, or nothing that can be done.
    """
    place = f"finding {number + 1}"
    try:
        decision = Decision(said.get(f"v{number}", ""))
        if decision is Decision.REJECT:
            return Verdict(decision, Reason(said.get(f"why{number}", "")))
        if decision is Decision.ACCEPT:
            return Verdict(decision)
        concepts = names_of(_vocabulary(begun))
        concept = said.get(f"c{number}", finding.concept)
        if concept != finding.concept and concept not in concepts:
            raise NodeError(f"{place}: there is no such name")
        boxes = [_box(said.get(f"b{number}-{region}", "")) for region in range(len(finding.regions))]
        text = _texts(finding, number, said)
        other = changed(finding, concept=concept, names=concepts.get(concept, {}), text=text, boxes=boxes)
    except ValueError:
        raise NodeError(
            f"{place}: it is not said what becomes of it, or in a way that cannot be followed",
            advice="accept it, modify it (a box is left, top, right, bottom in the image), or reject it with a reason",
        ) from None
    if other is finding:
        raise NodeError(f"{place} is to be modified, and nothing of it is changed", advice="accept it, or change it")
    return Verdict(decision, changed=other)


def _texts(finding: Finding, number: int, said: Mapping[str, str]) -> dict[Language, str]:
    texts: dict[Language, str] = {}
    for language in LANGUAGES:
        before = finding.text.get(language, "")
        now = said.get(f"t{number}-{language}", before).replace("\r\n", "\n")[:_LONGEST].strip()
        if now == before.strip():
            now = before
        if now:
            texts[language] = now
    return texts


def _box(text: str) -> Box:
    numbers: Sequence[float] = [float(word) for word in text.replace(",", " ").split()]
    x0, y0, x1, y1 = numbers
    return x0, y0, x1, y1
