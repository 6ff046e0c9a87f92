"""A DICOMweb server in a thread of the test, with its spool and ledger, and requests written byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from node_bench import image
from pydicom import dcmwrite
from pydicom.dataset import Dataset

from dicom_node.dicomweb.server import make_server
from dicom_node.intake.storage import Storage
from dicom_node.intake.transfers import Transfers
from dicom_node.ledger import Ledger
from dicom_node.settings import Settings
from dicom_node.spool import Spool

BOUNDARY = "boundary of the test"
MULTIPART = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'


def encoded(dataset: Dataset | None = None, **elements: Any) -> bytes:
    """A DICOM file."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset if dataset is not None else image(**elements), enforce_file_format=True)
    return buffer.getvalue()


def body(*parts: bytes, content_type: str | None = "application/dicom") -> bytes:
    head = f"Content-Type: {content_type}\r\n".encode() if content_type else b""
    delimiter = f"--{BOUNDARY}".encode()
    return b"".join(delimiter + b"\r\n" + head + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def reasons(self, sequence: str, reason: str = "00081197") -> list[int]:
        return [item[reason]["Value"][0] for item in self.json.get(sequence, {}).get("Value", [])]


def read_answer(connection: socket.socket) -> Answer:
    """Read an answer to its end, which the server's closing or its length tells."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        assert chunk, f"the connection ended after {received!r}"
        received += chunk
    head, _, content = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "-1"))
    chunked = headers.get("transfer-encoding") == "chunked"
    while (chunked and not content.endswith(b"0\r\n\r\n")) or (not chunked and 0 <= len(content) < length):
        chunk = connection.recv(65536)
        if not chunk:
            break
        content += chunk
    if chunked:
        content = _joined(content)
    return Answer(int(first.split()[1]), headers, content)


def _joined(content: bytes) -> bytes:
    whole = b""
    while content:
        size, _, content = content.partition(b"\r\n")
        whole, content = whole + content[: int(size, 16)], content[int(size, 16) + 2 :]
    return whole


class Web:
    """The server, on loopback."""

    def __init__(self, folder: Path, *, minimum_free: int = 0, users: Sequence[dict[str, Any]] = (), **settings: Any):
        self.settings = Settings(
            data={"path": folder / "data"},  # type: ignore[arg-type]  # pydantic makes a table of it
            dicomweb={"enabled": True, **settings},  # type: ignore[arg-type]
            dicomweb_users=users,  # type: ignore[arg-type]
        )
        self.ledger = Ledger(f"sqlite:///{folder / 'web.sqlite3'}")
        self.ledger.migrate()
        self.spool = Spool(folder / "data", minimum_free)
        self.transfers = Transfers(self.ledger)
        self.server = make_server(self.settings, Storage(self.spool, self.ledger), self.transfers)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        scheme = "https" if self.settings.dicomweb.tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        # Connections wait in the socket's queue until the server is there.
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._thread.start()

    async def _serve(self) -> None:
        """What `uvicorn.Server.serve` does, without its ticks of a tenth of a second."""
        self.server.lifespan = self.server.config.lifespan_class(self.server.config)
        await self.server.startup([self._socket])
        await self._stopped.wait()
        await self.server.shutdown([self._socket])

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()
        self._socket.close()
        self.ledger.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(self, method: str, path: str, content: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own; underscores in the names of header fields are hyphens."""
        fields = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        if content is not None:
            fields.setdefault("Content-Length", str(len(content)))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        with self.connect() as connection:
            connection.sendall(head.encode("latin-1") + b"\r\n" + (content or b""))
            return read_answer(connection)

    def store(self, *parts: bytes, path: str = "/studies", content_type: str | None = "application/dicom") -> Answer:
        return self.ask("POST", path, body(*parts, content_type=content_type), Content_Type=MULTIPART)

    @property
    def files(self) -> list[Path]:
        """What is in place."""
        return sorted((self.spool.root / "studies").rglob("*.dcm"))

    @property
    def leftovers(self) -> list[Path]:
        return list((self.spool.root / "incoming").iterdir())
