"""The console as a child of the front, which opens its port first."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

from dicom_node.children import Child, tethered
from dicom_node.dicomweb.child import open_port
from dicom_node.dimse.tls import server_context
from dicom_node.settings import Settings


def console_child(settings: Settings, environment: Mapping[str, str]) -> tuple[Child, socket.socket]:
    """The child, and the listening socket that it inherits: to be closed once it has ended.

    Raises
    ------
    NodeError
        If the port cannot be listened at.
    SettingsError
        If a certificate cannot be used.
    """
    if settings.console.tls is not None:
        server_context(settings.console.tls)
    opened = open_port(settings.console.host, settings.console.port, "console.port, or console.enabled = false")
    command = [sys.executable, "-m", "dicom_node.console.server", str(opened.fileno())]
    return Child("console", tethered(command), environment, inherits=(opened.fileno(),)), opened
