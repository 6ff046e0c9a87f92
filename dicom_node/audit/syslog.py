"""To an audit repository: RFC 5424 messages over TLS (RFC 5425, PS3.15 A.6), with the trail itself as the queue."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import structlog

from dicom_node.audit.trail import FOLDER
from dicom_node.dimse.tls import client_context, explain
from dicom_node.settings import Settings
from dicom_node.settings.tls import TlsSettings
from engine.errors import SettingsError

_PRIORITY: Final = 85
"""Facility 10 (security), severity 5 (notice)."""
_AT_ONCE: Final = 1000
"""Records of one connection."""
_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_SENT: Final = "sent"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the trail: a file of it, and bytes from its beginning."""

    file: str = ""
    offset: int = 0


def syslog_message(record: dict[str, Any], host: str) -> bytes:
    """A record as a message of RFC 5424, in the frame of RFC 5425: its length, a blank, and it."""
    head = f"<{_PRIORITY}>1 {record['at']} {host} medrega-pacs {os.getpid()} DICOM+RFC3881 - \ufeff"
    message = (head + record["message"]).encode()
    return b"%d %s" % (len(message), message)


class Forwarder:
    """Sends what the trail gets to the repository of the settings, each record at least once and in order.

    Nothing in syslog says that a message was kept. A batch counts as sent when the repository has closed the
    connection in answer to ours, which it does behind the last message; else it is sent again.

    Parameters
    ----------
    settings : Settings
        With an ``audit.host``.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.audit.host is not None  # noqa: S101 - made only where there is one
        self._host, self._port = settings.audit.host, settings.audit.port
        self._tls = settings.audit.tls or TlsSettings()
        self._folder = settings.data.path / FOLDER
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send what waits, once, and end."""
        self._stopping.set()
        self._thread.join()

    def send(self) -> int:
        """Send what waits, up to a number of records; how many those were.

        Raises
        ------
        OSError
            If the repository was not reached, or did not take them.
        SettingsError
            If the certificates cannot be used.
        """
        batch = list(islice(waiting(self._folder), _AT_ONCE))
        if batch:
            host, end = os.uname().nodename, batch[-1][1]
            context = client_context(self._tls)
            with (
                socket.create_connection((self._host, self._port), _SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=self._host) as connection,
            ):
                connection.sendall(b"".join(syslog_message(record, host) for record, _ in batch))
                with suppress(ssl.SSLEOFError):  # it closed without a word, as some do, but in answer to ours
                    connection.unwrap()
            new = self._folder / "sent.new"
            new.write_text(json.dumps({"file": end.file, "offset": end.offset}), encoding="ascii")
            new.replace(self._folder / _SENT)
        return len(batch)

    def _run(self) -> None:
        pause, reached = _POLL_SECONDS, True
        while True:
            last = self._stopping.wait(pause)
            try:
                while self.send() == _AT_ONCE:
                    pass
            except (OSError, SettingsError) as error:
                words = error.explained if isinstance(error, SettingsError) else _why(error)
                if reached:
                    log.error("audit repository not reached; the trail keeps what it is to get", reason=words)
                pause, reached = min(2 * pause, _LONGEST_PAUSE), False
            else:
                if not reached:
                    log.info("audit repository reached again")
                pause, reached = _POLL_SECONDS, True
            if last:
                return


def _why(error: OSError) -> str:
    return explain(error) if isinstance(error, ssl.SSLError) else error.strerror or type(error).__name__


def _sent(folder: Path) -> Place:
    try:
        return Place(**json.loads((folder / _SENT).read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError):
        return Place()


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Files with something that was not sent, and from where on."""
    sent = _sent(folder)
    for path in sorted(folder.glob("*.jsonl")):
        if path.name >= sent.file:
            yield path, sent.offset if path.name == sent.file else 0


def waiting(folder: Path) -> Iterator[tuple[dict[str, Any], Place]]:
    """Records that were not sent yet, and the place behind each; what is no record stays behind."""
    for path, offset in _files(folder):
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # it is being written
                offset += len(line)
                with suppress(ValueError, TypeError, KeyError):
                    record = json.loads(line)
                    yield {"at": record["at"], "message": record["message"]}, Place(path.name, offset)


def unsent_bytes(folder: Path) -> int:
    """How much of the trail the repository does not have."""
    return sum(max(0, path.stat().st_size - offset) for path, offset in _files(folder))
