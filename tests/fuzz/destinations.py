"""The sender's side: destinations that answer what no peer would, by DICOM and by HTTP."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import wire
from client_hello import client_hello
from mutations import mutated
from parser_targets import BOUNDARY, _meta
from scripted_scp import Request, ScriptedScp

from dicom_node.dicomweb.client import Client
from dicom_node.dicomweb.files import ArrivingFile
from dicom_node.dimse import scu
from dicom_node.dimse.association import Timeouts
from dicom_node.dimse.query import Server, find, keys
from dicom_node.dimse.retrieve import get, move
from dicom_node.dimse.stored_file import StoredFile
from dicom_node.dimse.tls import client_context
from dicom_node.dimse.ups import DimseUps
from dicom_node.intake.storage import Storage
from dicom_node.ledger import Ledger
from dicom_node.settings import Settings, TlsSettings
from dicom_node.spool import Spool
from engine.errors import MedregaError

SECONDS = 30
"""A destination is given up by then, whatever it does: the timeouts here are 1 s."""
_TIMEOUTS = Timeouts(association=1, dimse=1)


class _HostileScp(ScriptedScp):
    """Mutates half of what it says."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(self._worse, maximum=chance.choice((0, 6, 7, 12, 16384, 1 << 31)))
        self._chance = chance

    def _accepted(self, request: bytes) -> bytes:
        accepted = super()._accepted(request)
        return mutated(accepted, self._chance) if self._chance.random() < 0.3 else accepted

    def _worse(self, request: Request) -> bytes | None:
        stored = (
            wire.store("2.999.7.3", wire.ct_image("2.999.7", "2.999.7.3", 300)) if self._chance.random() < 0.2 else []
        )
        answer = b"".join(stored) + request.answer(self._chance.choice((0, 0, 0xB000, 0xA700, 0xFF00, 0x0122, 0xFFFF)))
        kind = self._chance.randrange(8)
        if kind == 0:
            return None
        return (
            answer * (1 + 4 * (kind == 1)) if kind < 4 else mutated(answer, self._chance, (wire.ABORT, wire.RELEASE_RQ))
        )


def _dicom(files: list[StoredFile], storage: Storage, chance: random.Random) -> None:
    with _HostileScp(chance) as scp, suppress(MedregaError):
        server, uid = Server(scp.peer, "A", _TIMEOUTS), "1.2.3"
        identifier = keys("STUDY", {"StudyInstanceUID": uid})
        ups = DimseUps(lambda: server)
        calls: tuple[Callable[[], object], ...] = (
            lambda: scu.echo(scp.peer, timeouts=_TIMEOUTS),
            lambda: find(server, identifier, limit=3),
            lambda: move(server, identifier, "A"),
            lambda: get(server, identifier, storage, "A"),
            lambda: ups.get(uid),
            lambda: ups.change_state(uid, "IN PROGRESS", uid),
        )
        if chance.random() < 0.5:
            chance.choice(calls)()
        else:
            results = scu.send(files, scp.peer, timeouts=_TIMEOUTS, fast=chance.random() < 0.8)
            assert len(results) == len(files)


def _tls(_files: list[StoredFile], _storage: Storage, chance: random.Random) -> None:
    said = b"\x16\x03\x03" + struct.pack(">H", chance.choice((0, 40, 16384, 65535))) + chance.randbytes(40)
    answer = chance.choice((said, b"\x15\x03\x03\0\2\2\x28", chance.randbytes(200), mutated(client_hello(), chance)))
    context = client_context(TlsSettings(verify="none"))
    with _hostile(answer, b"") as port, suppress(MedregaError):
        scu.echo(scu.Peer("A", "127.0.0.1", port), timeouts=_TIMEOUTS, tls=context)


def _http(files: list[StoredFile], _storage: Storage, chance: random.Random) -> None:
    uids = {"00081155": {"vr": "UI", "Value": [files[0].sop_instance_uid]}}
    module = json.dumps({"00081199": {"vr": "SQ", "Value": [uids]}}).encode()
    matches = json.dumps([{"0020000D": {"vr": "UI", "Value": ["1.2"]}, "00100010": {"vr": "PN"}}]).encode()
    cut = BOUNDARY.encode()
    parts = (
        b"--"
        + cut
        + b"\r\nContent-Type: application/dicom\r\n\r\n"
        + files[0].path.read_bytes()
        + b"\r\n--"
        + cut
        + b"--"
    )
    calls: tuple[tuple[bytes, bytes, Callable[[Client], object]], ...] = (
        (b"application/dicom+json", module, lambda client: client.store(files)),
        (b"application/dicom+json", matches, lambda client: client.query("STUDY", {"StudyInstanceUID": "1.2"})),
        (
            b'multipart/related; type="application/dicom"; boundary=' + cut,
            parts,
            lambda client: client.retrieve("1.2", _read),
        ),
        (b"application/dicom+json", matches, lambda client: client.exchange("POST", "/workitems", body=[{}])),
    )
    kind, body, call = chance.choice(calls)
    status = chance.choice((b"200 OK", b"200 OK", b"200 OK", b"202 Accepted", b"409 Conflict", b"503 No", b"301 Moved"))
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + b"\r\nContent-Length: %d\r\n\r\n"
    if chance.random() < 0.6:
        body = mutated(body, chance)
        answer = head % len(body) + body
    else:
        answer = mutated(head % len(body) + body, chance)
    with (
        _hostile(answer, b"\r\n\r\n") as port,
        Client(f"http://127.0.0.1:{port}", timeouts=_TIMEOUTS) as client,
        suppress(MedregaError),
    ):
        call(client)


def _read(file: ArrivingFile) -> None:
    for _ in file.data_set:
        pass


@contextmanager
def _hostile(answer: bytes, end: bytes) -> Iterator[int]:
    """A server that answers whatever it is asked, up to such an end, with the same, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    connection.settimeout(0.2)
                    while end not in connection.recv(1 << 20, socket.MSG_PEEK):
                        pass
                    connection.recv(1 << 20)
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def attacking(folder: Path) -> Iterator[Callable[[random.Random, int], tuple[int, list[str]]]]:
    """Two files to send; what is given plays a batch of destinations, one after another."""
    for number in (1, 2):
        content = _meta("1.2.840.10008.1.2") + wire.ct_image("2.999.7", f"2.999.7.{number}", 30_000)
        (folder / f"{number}.dcm").write_bytes(content)

    files = [StoredFile.open(path) for path in sorted(folder.glob("*.dcm"))]
    stack = ExitStack()
    ledger = Ledger.open(Settings(data={"path": folder / "data"}))  # type: ignore[arg-type]  # pydantic makes a table
    stack.callback(ledger.close)
    storage = Storage(Spool(folder / "data"), ledger)

    def batch(chance: random.Random, size: int) -> tuple[int, list[str]]:
        wrong = []
        for _ in range(size):
            state, begin = chance.getstate(), time.monotonic()
            play = chance.choice((_dicom, _dicom, _http, _http, _tls))
            try:
                play(files, storage, chance)
            except Exception as error:
                wrong.append(f"{play.__name__}: {type(error).__name__}: {error}; state {hash(state)}")
            if time.monotonic() - begin > SECONDS:
                wrong.append(f"{play.__name__} took {time.monotonic() - begin:.0f} s")
        end = time.monotonic() + SECONDS
        while (left := threading.active_count()) > 8 and time.monotonic() < end:
            time.sleep(0.1)
        return size, wrong + ([f"{left} threads are left"] if left > 8 else [])

    with stack:
        yield batch
