"""The console's process: a child of the front, whose socket it is given, or a command of its own."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from typing import Final

import structlog
import uvicorn

from dicom_node.console.application import make_application
from dicom_node.dicomweb.server import Protocol, Server, renewing_context
from dicom_node.ledger import Ledger
from dicom_node.logs import set_up_logging
from dicom_node.settings import Settings
from dicom_node.spool import Spool

_KEEP_ALIVE_SECONDS: Final = 30
_MOST_CONNECTIONS: Final = 256

log = structlog.get_logger(__name__)


def make_server(settings: Settings, ledger: Ledger, spool: Spool) -> Server:
    """The server, ready to run.

    Raises
    ------
    SettingsError
        If a certificate cannot be read.
    """
    console = settings.console
    tls = console.tls
    config = uvicorn.Config(
        make_application(settings, ledger, spool),
        http=Protocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(console.proxies),
        forwarded_allow_ips=list(console.proxies),
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        ssl_context_factory=(lambda _config, _default: renewing_context(tls)) if tls is not None else None,
    )
    config.load()
    return Server(config)


def serve(settings: Settings, opened: socket.socket) -> None:
    """Serve on an open socket until SIGTERM or SIGINT."""
    set_up_logging(settings.log)
    # What the pages log themselves is all; the library would say it again, with addresses that name studies.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    # Before uvicorn takes signals, and after, when it raises the one that ended it once more.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    ledger = Ledger.open(settings)
    try:
        server = make_server(settings, ledger, Spool.of(settings))
        log.info("serving the console", host=settings.console.host, port=settings.console.port)
        server.run([opened])
    finally:
        ledger.close()


def main(arguments: list[str]) -> None:
    """``python -m dicom_node.console.server DESCRIPTOR``: a server whose settings are in its environment."""
    with socket.socket(fileno=int(arguments[0])) as opened:
        serve(Settings(), opened)


if __name__ == "__main__":
    main(sys.argv[1:])
