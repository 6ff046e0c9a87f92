"""The DICOMweb server as a child of the front, which checks what it needs and opens its port first."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

from dicom_node.children import Child, tethered
from dicom_node.dicomweb.users import Users
from dicom_node.dimse.tls import server_context
from dicom_node.settings import Settings
from engine.errors import NodeError


def server_child(settings: Settings, environment: Mapping[str, str]) -> tuple[Child, socket.socket]:
    """The child, and the listening socket that it inherits: to be closed once it has ended.

    Raises
    ------
    NodeError
        If the port cannot be listened at.
    SettingsError
        If a certificate, password or token cannot be used.
    """
    Users(settings.dicomweb_users)
    if settings.dicomweb.tls is not None:
        server_context(settings.dicomweb.tls)
    opened = open_port(settings.dicomweb.host, settings.dicomweb.port, "dicomweb.port")
    command = [sys.executable, "-m", "dicom_node.dicomweb.server", str(opened.fileno())]
    return Child("dicomweb", tethered(command), environment, inherits=(opened.fileno(),)), opened


def open_port(host: str, port: int, setting: str) -> socket.socket:
    """A socket that listens; `setting` is the name of what says where.

    Raises
    ------
    NodeError
        If the port cannot be listened at.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(128)
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise NodeError(
            f"port {port} of {host} cannot be listened at: {error.strerror}",
            advice=f"another program may listen there; set {setting}",
        ) from None
    return opened
