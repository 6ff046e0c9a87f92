"""The guard before the DICOMweb server: who gets in, for how long one may be silent, and the line in the log."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf
from typing import Final

import anyio.to_thread
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.audit import Action, AuditEvent, Outcome, Trail
from dicom_node.dicomweb.store import BodyError
from dicom_node.dicomweb.users import ANYONE, Users
from dicom_node.intake.identity import is_uid
from dicom_node.settings.section import is_local_host

_DRAINED: Final = 4 << 20
"""So much of a body that is not wanted is read before the answer, which many clients look for when all is sent."""
_DRAIN_SECONDS: Final = 5
"""For so long, and for as long again once the answer is sent."""
_READ: Final = "medrega.read"
"""In a request's scope: whether its body has been read to the end."""
_UIDS: Final = ("study", "series", "instance")

log = structlog.get_logger(__name__)


class Guard:
    """Lets only known users in, ends what has gone silent, and writes one line a request: who, what by UID, and how.

    Nothing is raised to the server, which closes a connection whose answer was not finished.
    """

    def __init__(self, application: ASGIApp, users: Users, timeout_seconds: float, trail: Trail) -> None:
        self._trail = trail
        self._application = application
        self._users = users
        self._timeout = timeout_seconds
        # Who guesses with many connections is no faster, and holds up nobody who is known.
        self._guesses = anyio.CapacityLimiter(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        status = 0

        async def receive_in_time() -> Message:
            if scope[_READ]:
                return await receive()  # what comes now is the end of the connection, and may take its time
            try:
                message = await asyncio.wait_for(receive(), self._timeout)
            except TimeoutError:
                raise BodyError("the client went silent in the middle of its request", 408) from None
            scope[_READ] = not message.get("more_body", False)
            return message

        async def send_in_time(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["Cache-Control"] = "no-store"  # no browser or proxy keeps a patient
            try:
                await asyncio.wait_for(send(message), self._timeout)
            except TimeoutError:
                raise BodyError("the client stopped reading", 408) from None

        user = None
        scope[_READ] = False
        try:
            headers = Headers(scope=scope)
            authorization = headers.get("authorization", "")
            user = self._users.recognise(authorization)
            if user is None:
                user = await anyio.to_thread.run_sync(self._users.identify, authorization, limiter=self._guesses)
            scope["user"] = user
            if user is None:
                answer = PlainTextResponse("credentials are missing or wrong\n", 401)
                for challenge in self._users.challenges:
                    answer.headers.append("WWW-Authenticate", challenge)
                await answer_early(answer, scope, receive_in_time, send_in_time)
                if "authorization" in headers:  # many clients ask without first, to hear what is wanted
                    # Whoever it was: the name that they gave may be a password.
                    who, address = "unknown", (scope.get("client") or (None,))[0]
                    denied = AuditEvent(Action.ACCESS_DENIED, who, address, None, Outcome.MINOR_FAILURE, "DICOMweb")
                    await anyio.to_thread.run_sync(self._trail.write, denied)
            elif "transfer-encoding" in headers and "content-length" in headers:
                # Whoever stands between may have seen another end of it (RFC 9112 6.1).
                answer = PlainTextResponse("a body has one length\n", 400, headers={"Connection": "close"})
                await answer_early(answer, scope, receive_in_time, send_in_time)
            elif user is ANYONE and not is_local_host(headers.get("host", "")):
                # A page in a browser of this machine may have had its own name point here (DNS rebinding).
                answer = PlainTextResponse("without users only localhost is served\n", 403)
                await answer_early(answer, scope, receive_in_time, send_in_time)
            else:
                await self._application(scope, receive_in_time, send_in_time)
        except BodyError as error:
            log.warning("request broken off", reason=str(error))
        except Exception as error:  # the outermost edge of a request: its words may quote a data set
            log.error("unexpected error in a request", exc_info=error)
            if status == 0:
                await PlainTextResponse("internal error\n", 500)(scope, receive_in_time, send_in_time)
        finally:
            named = scope.get("path_params", {})
            known = {name: named[name] for name in _UIDS if is_uid(named.get(name, ""))}
            log.info(
                "request",
                user=user.name if user else "",
                address=(scope.get("client") or ("",))[0],
                method=scope["method"],
                operation=getattr(scope.get("endpoint"), "__name__", ""),
                status=status,
                **known,
            )


async def answer_early(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request whose body is not wanted: read a little of it, answer, and hang up where there is still more.

    A connection closed while bytes of it are unread is reset, and the client may lose the answer: the rest is read for
    a moment, until the client has seen the answer and hangs up.
    """
    asks_first = "expect" in Headers(scope=scope)  # and has sent nothing yet

    async def drain(most: float) -> None:
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not (scope[_READ] or asks_first) and size < most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    size += len(message.get("body", b""))

    async def send_before_the_end(message: Message) -> None:
        if message["type"] == "http.response.body" and not scope[_READ]:
            await send({**message, "more_body": True})
            await drain(inf)
            message = {"type": "http.response.body"}
        await send(message)

    await drain(_DRAINED)
    if not scope[_READ]:
        answer.headers["Connection"] = "close"
    await answer(scope, receive, send_before_the_end)
