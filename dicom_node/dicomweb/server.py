"""The DICOMweb server's process: a child of the front, whose socket it is given.

The front opens the port, so that one that is taken is told at start, and nobody is turned away while the child is
started again. The child keeps nothing that a kill could lose: what it has acknowledged is in the spool and the ledger,
and what it was receiving is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import sys
from typing import Any, ClassVar, Final

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dicom_node.dicomweb.application import make_application
from dicom_node.dimse.tls import server_context
from dicom_node.intake.storage import Storage
from dicom_node.intake.transfers import Transfers
from dicom_node.ledger import Ledger
from dicom_node.logs import set_up_logging
from dicom_node.metrics import process as metrics
from dicom_node.queue.wake import Bell
from dicom_node.settings import Settings
from dicom_node.settings.tls import TlsSettings
from dicom_node.spool import Spool

DRAIN_SECONDS: Final = 5
"""How long requests under way go on when the server is to stop."""
_KEEP_ALIVE_SECONDS: Final = 30
_HEAD_SECONDS: Final = 15
"""How long a client may take for a request's header fields, and to take what is still sent on a closed connection."""
_LARGEST_HEAD: Final = 16_384

log = structlog.get_logger(__name__)


class Protocol(H11Protocol):
    """HTTP/1.1 without patience for who connects and says nothing, says it slowly, or reads no answers."""

    stalled_seconds: ClassVar[float] = 30
    """How long a client may take nothing of an answer."""
    _stalled = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own
        """Look after the connection for as long as it lasts."""
        super().connection_made(transport)
        self._watch_again()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no longer."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _watch_again(self) -> None:
        closing, unsent = self.transport.is_closing(), self._unsent()
        self._timer = self.loop.call_later(_HEAD_SECONDS, self._watch, self.cycle, closing, unsent)

    def _unsent(self) -> int:
        return self.transport.get_write_buffer_size() if self.flow.write_paused else 0

    def _watch(self, cycle: Any, closing: bool, unsent: int) -> None:
        nothing_came = (
            self.conn.their_state is h11.IDLE and self.cycle is cycle and self.timeout_keep_alive_task is None
        )
        self._stalled = self._stalled + _HEAD_SECONDS if unsent and unsent == self._unsent() else 0
        if closing or nothing_came or self._stalled >= self.stalled_seconds:
            self.transport.abort()
        else:
            self._watch_again()


class Server(uvicorn.Server):
    """A server whose end does not wait for the slowest of its clients."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, let those under way end for a while, then break them off."""

        def break_off() -> None:
            for connection in list(self.server_state.connections):
                connection.transport.abort()

        timer = asyncio.get_running_loop().call_later(DRAIN_SECONDS, break_off)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def make_server(settings: Settings, storage: Storage, transfers: Transfers) -> Server:
    """The server, ready to run.

    Raises
    ------
    SettingsError
        If a certificate, password or token cannot be read.
    """
    tls = settings.dicomweb.tls
    config = uvicorn.Config(
        make_application(settings, storage, transfers),
        http=type("PatientProtocol", (Protocol,), {"stalled_seconds": settings.dicomweb.timeout_seconds}),
        ws="none",
        lifespan="off",
        loop="asyncio",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.dicomweb.max_connections + 1,  # it counts the one that asks
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=_LARGEST_HEAD,
        ssl_context_factory=(lambda _config, _default: renewing_context(tls)) if tls is not None else None,
    )
    config.load()
    return Server(config)


def renewing_context(tls: TlsSettings) -> ssl.SSLContext:
    """A context whose certificate is the one of the files when a client connects; a new `ca` needs a restart."""
    context = server_context(tls)

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = server_context(tls)

    context.sni_callback = renew
    return context


def serve(settings: Settings, descriptor: int) -> None:
    """Serve on an open socket until SIGTERM or SIGINT."""
    set_up_logging(settings.log)
    metrics.begin(settings)
    # What the guard tells of a request is all; the library would say it again.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    # Before uvicorn takes signals, and after, when it raises the one that ended it once more.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    ledger = Ledger.open(settings)
    bell = Bell(settings)
    transfers = Transfers(ledger, bell.ring)
    try:
        spool = Spool.of(settings)
        storage = Storage(spool, ledger)
        server = make_server(settings, storage, transfers)
        transfers.start()
        with socket.socket(fileno=descriptor) as opened:
            log.info("serving DICOMweb", host=settings.dicomweb.host, port=settings.dicomweb.port)
            server.run([opened])
    finally:
        transfers.stop()
        bell.close()
        ledger.close()


def main(arguments: list[str]) -> None:
    """``python -m dicom_node.dicomweb.server DESCRIPTOR``: a server whose settings are in its environment."""
    serve(Settings(), int(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
