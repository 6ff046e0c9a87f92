"""The sender's side: destinations that answer what no peer would, by DICOM and by HTTP."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import wire
from mutations import mutated
from parser_targets import BOUNDARY, _meta
from pydicom.dataset import Dataset
from pynetdicom import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from scripted_scp import Request, ScriptedScp

from dicom_node.dicomweb.client import Client
from dicom_node.dicomweb.files import ArrivingFile
from dicom_node.dimse import scu
from dicom_node.dimse.association import Timeouts, associate
from dicom_node.dimse.stored_file import StoredFile
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
        request.command.setdefault(0x1000, b"")  # of queries, which have none
        answer = request.answer(self._chance.choice((0, 0, 0xB000, 0xA700, 0xFF00, 0x0122, 0xFFFF)))
        kind = self._chance.randrange(8)
        if kind == 0:
            return None
        return (
            answer * (1 + 4 * (kind == 1)) if kind < 4 else mutated(answer, self._chance, (wire.ABORT, wire.RELEASE_RQ))
        )


def _dicom(folder: Path, chance: random.Random) -> None:
    files = [StoredFile.open(path) for path in sorted(folder.glob("*.dcm"))]
    with _HostileScp(chance) as scp, suppress(MedregaError):
        kind = chance.randrange(6)
        if kind == 0:
            scu.echo(scp.peer, timeouts=_TIMEOUTS)
        elif kind == 1:
            with associate(
                scp.peer, [build_context(StudyRootQueryRetrieveInformationModelFind)], "A", _TIMEOUTS
            ) as association:
                identifier = Dataset()
                identifier.QueryRetrieveLevel = "STUDY"
                for _ in association.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind):
                    pass
        else:
            results = scu.send(files, scp.peer, timeouts=_TIMEOUTS, fast=chance.random() < 0.8)
            assert len(results) == len(files)


def _http(folder: Path, chance: random.Random) -> None:
    files = [StoredFile.open(path) for path in sorted(folder.glob("*.dcm"))]
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
        _hostile_http(answer) as port,
        Client(f"http://127.0.0.1:{port}", timeouts=_TIMEOUTS) as client,
        suppress(MedregaError),
    ):
        call(client)


def _read(file: ArrivingFile) -> None:
    for _ in file.data_set:
        pass


@contextmanager
def _hostile_http(answer: bytes) -> Iterator[int]:
    """A server that answers whatever it is asked with the same, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    connection.settimeout(0.2)
                    while b"\r\n\r\n" not in connection.recv(1 << 20, socket.MSG_PEEK):
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

    def batch(chance: random.Random, size: int) -> tuple[int, list[str]]:
        wrong = []
        for _ in range(size):
            state, begin = chance.getstate(), time.monotonic()
            play = chance.choice((_dicom, _http))
            try:
                play(folder, chance)
            except Exception as error:
                wrong.append(f"{play.__name__}: {type(error).__name__}: {error}; state {hash(state)}")
            if time.monotonic() - begin > SECONDS:
                wrong.append(f"{play.__name__} took {time.monotonic() - begin:.0f} s")
        end = time.monotonic() + SECONDS
        while (left := threading.active_count()) > 8 and time.monotonic() < end:
            time.sleep(0.1)
        return size, wrong + ([f"{left} threads are left"] if left > 8 else [])

    yield batch
