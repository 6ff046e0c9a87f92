"""The metrics of a host that only works: it has no console to give them, and its ledger's are the front's to give."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

from dicom_node.metrics.exposition import Processes
from dicom_node.settings import Settings
from engine.errors import NodeError


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

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
