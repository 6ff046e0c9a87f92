"""The metrics of a host that only works: it has no console to give them, and its ledger's are the front's to give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from dicom_node.metrics.exposition import Processes
from dicom_node.settings import Settings
from dicom_node.settings.section import is_local_host
from engine.errors import NodeError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def serve(settings: Settings) -> Callable[[], None]:
    """Serve at the port of the settings; returns what ends it.

    Raises
    ------
    NodeError
        If the port cannot be listened at.
    """
    registry = CollectorRegistry()
    registry.register(Processes(settings))
    port, host = settings.metrics.worker_port, settings.metrics.worker_host
    assert port is not None  # noqa: S101 - asked before
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise NodeError(
            f"port {port} of {host} cannot be listened at: {error.strerror}",
            advice="another program may listen there; set metrics.worker_port",
        ) from None
    if not settings.metrics.open_worker_port:
        server.set_app(_for_this_machine(make_wsgi_app(registry)))

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def _for_this_machine(application: WSGIApplication) -> WSGIApplication:
    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if is_local_host(environ.get("HTTP_HOST", "")):
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"only this machine is answered, as localhost\n"]

    return guarded
