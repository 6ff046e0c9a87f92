"""The association edge: hostile conversations with a real listener process, checked after each batch."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import wire
from mutations import mutated
from ports import free_port
from program import Program
from pynetdicom.sop_class import ModalityWorklistInformationFind, StorageCommitmentPushModel, UnifiedProcedureStepPush

from dicom_node.dimse import scu
from dicom_node.dimse.association import PeerError, Timeouts
from dicom_node.settings import Settings

_CONTEXTS = (
    (1, wire.CTImageStorage, "1.2.840.10008.1.2"),
    (3, wire.VERIFICATION, "1.2.840.10008.1.2"),
    (5, StorageCommitmentPushModel, "1.2.840.10008.1.2"),
    (7, ModalityWorklistInformationFind, "1.2.840.10008.1.2"),
    (9, UnifiedProcedureStepPush, "1.2.840.10008.1.2"),
)
_LAST = b"\6\7"
"""Types of the PDUs that nothing comes after: A-RELEASE-RP and A-ABORT."""
_SEVERAL = 6
"""Conversations at a time."""


class Edge:
    """A listener that is attacked; `batch` returns what it found and how many conversations it led."""

    def __init__(self, folder: Path, program: Program, port: int) -> None:
        self._folder, self._program, self._port = folder, program, port
        self._peer = scu.Peer("MEDREGA", "127.0.0.1", port)
        self._number = self._batches = 0
        self.kept = 0
        """Objects that were acknowledged and found."""
        self._acknowledged: list[str] = []

    def answers(self) -> bool:
        """Whether it answers C-ECHO."""
        try:
            scu.echo(self._peer, timeouts=Timeouts(20, 20))
        except PeerError:
            return False
        return True

    def batch(self, chance: random.Random, size: int) -> tuple[int, list[str]]:
        """So many conversations; now and then with hundreds of half-open connections beside them."""
        self._batches += 1
        half_open = 1000 if self._batches % 20 == 5 else 30
        plays = [(self._conversation(chance), chance.random()) for _ in range(size)]
        with ExitStack() as idle, ThreadPoolExecutor(_SEVERAL) as pool:
            for number in range(half_open):
                with suppress(OSError):
                    one = idle.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=5))
                    one.sendall(wire.associate_rq()[: (0, 1, 6, 40)[number % 4]])
            list(pool.map(lambda play: self._play(*play), plays))
        if self._batches in (1, 5):  # threads, libraries; and what as many as may come at once need of memory
            self._program.mark()
        wrong = self._program.faults(self.answers)
        kept = {path.name for path in (self._folder / "data" / "studies").rglob("*.dcm")}
        lost = [uid for uid in self._acknowledged if not any(name.startswith(uid) for name in kept)]
        self.kept += len(self._acknowledged) - len(lost)
        self._acknowledged.clear()
        if self._batches == 3 and not self.kept:
            wrong.append("nothing was ever acknowledged: the conversations are not what they should be")
        return size + half_open, wrong + [f"{uid} was acknowledged and is not on the disk" for uid in lost]

    def _conversation(self, chance: random.Random) -> list[bytes]:
        self._number += 1
        study = f"2.999.{self._number % 7}"
        sop = f"2.999.9.{self._number}"
        stored = wire.store(sop, wire.ct_image(study, sop, chance.choice((0, 100, 5000, 200_000))))
        odd = chance.choice((0x20, 0x21, 0x8001, 0x140, 0x150, 0x120, 0x100, 0xFFF, 0x99))
        asked = wire.command(
            wire.element(2, str(chance.choice(_CONTEXTS)[1])),
            wire.element(0x100, odd),
            wire.element(0x110, 5),
            wire.element(0x700, 0),
            wire.element(0x800, 1),
            wire.element(0x1000, "1.2.840.10008.1.20.1.1"),
            wire.element(0x1008, 1),
        )
        context = chance.choice(_CONTEXTS)[0]
        other = [wire.data(wire.item(context, 3, asked)), *wire.fragments(wire.ct_image("1.2", "1.3", 10), context)]
        pdus = [wire.associate_rq(contexts=_CONTEXTS)]
        for _ in range(chance.choice((1, 2, 3))):
            pdus += chance.choice((stored, stored, other, [wire.data(wire.item(3, 3, wire.echo_rq()))]))
        pdus.append(chance.choice((wire.RELEASE_RQ, wire.RELEASE_RQ, wire.ABORT, b"")))
        pieces = tuple(pdus)
        for _ in range(chance.choice((0, 1, 1, 2))):
            at = chance.randrange(len(pdus))
            kind = chance.randrange(6)
            if kind == 0:
                pdus[at] = _longer(pdus[at], chance)
            elif kind == 1:
                pdus.insert(at, chance.choice(pieces))
            elif kind == 2:
                del pdus[at:]
                break
            else:
                pdus[at] = mutated(pdus[at], chance, pieces)
        return pdus

    def _play(self, pdus: list[bytes], way: float) -> None:
        with suppress(OSError), wire.Wire(self._port, 6) as connection:
            for number, pdu in enumerate(pdus):
                if way < 0.1:  # slowly
                    for at in range(0, min(len(pdu), 40), 5):
                        connection.send(pdu[at : at + 5])
                        time.sleep(0.005)
                    pdu = pdu[40:]
                elif way < 0.2 and number == len(pdus) - 1:
                    linger = struct.pack("ii", 1, 0)  # reset in the middle of it
                    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    connection.send(pdu[: len(pdu) // 2])
                    return
                connection.send(pdu)
                if number == 0:  # what comes before the association is accepted ends it
                    self._note(connection.receive())
            if way < 0.6:  # the others hear every answer, as senders do
                connection.socket.shutdown(socket.SHUT_WR)
            for answer in iter(connection.receive, b""):
                self._note(answer)
                if answer[0] in _LAST:
                    break

    def _note(self, answer: bytes) -> None:
        """Remember what was acknowledged: a C-STORE-RSP with Success and its UID."""
        if answer[:1] == b"\4" and b"\0\0\x00\x01\2\0\0\0\1\x80" in answer and wire.status_of(answer) == 0:
            place = answer.find(b"\0\0\x00\x10")
            length = int.from_bytes(answer[place + 4 : place + 8], "little")
            self._acknowledged.append(answer[place + 8 : place + 8 + length].rstrip(b"\0 ").decode("latin-1"))


def _longer(pdu: bytes, chance: random.Random) -> bytes:
    """A PDU that claims another length."""
    claimed = chance.choice((0, 1, 3, len(pdu), len(pdu) + 9, 1 << 24, 1 << 31, (1 << 32) - 1))
    return pdu[:2] + struct.pack(">I", claimed) + pdu[6:]


@contextmanager
def attacked(folder: Path, *, fast: bool = True) -> Iterator[Callable[[random.Random, int], tuple[int, list[str]]]]:
    """A listener process, ready; what is given plays a batch."""
    settings = Settings(
        data={"path": folder / "data", "minimum_free_mib": 0},  # type: ignore[arg-type]  # pydantic makes a table of it
        listener={  # type: ignore[arg-type]
            "port": free_port(),
            "fast": fast,
            "max_associations": 300,
            "max_associations_per_peer": 300,
            "acse_timeout_seconds": 2,
            "dimse_timeout_seconds": 3,
            "network_timeout_seconds": 3,
        },
    )
    with Program("dicom_node.dimse.process", settings, folder) as program:
        edge = Edge(folder, program, settings.listener.port)
        end = time.monotonic() + 90
        while not edge.answers():
            assert time.monotonic() < end, program.log.read_text()
            assert program.process.poll() is None, program.log.read_text()
            time.sleep(0.1)
        yield edge.batch
