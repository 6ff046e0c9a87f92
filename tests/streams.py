"""The same bytes into the fast and the stock receive path: streams, ordinary and hostile, and what came of each."""

from __future__ import annotations

import fcntl
import gc
import itertools
import logging
import os
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import wire
from hypothesis import strategies as st
from ports import free_port
from pynetdicom.association import Association
from sqlalchemy import text

from dicom_node.dimse.listener import Listener
from dicom_node.intake.storage import Receiving
from dicom_node.ledger import Ledger
from dicom_node.settings import ListenerSettings
from dicom_node.spool import Spool

Durability = Literal["instance", "association"]
STUDY = "2.999.1.2"
"""Stands in every stream for a study of its own; all studies' UIDs are as long as this one."""

_COLUMNS = (
    "series_instance_uid, sop_instance_uid, sop_class_uid, transfer_syntax_uid, calling_aet, called_aet, path, "
    "run_id is null"
)

_ODD_UIDS = ("1.02", "..", "", "1\\2", "1.2 ", "1." * 40)

# Streams.

_among = cache(st.sampled_from)  # drawing from a strategy that was drawn from before takes half the time


@st.composite
def messages(draw: st.DrawFn) -> list[bytes]:
    """The PDUs of one message, as senders make them."""
    kind = draw(_among(("store",) * 6 + ("echo", "cancel", "other")))
    context = draw(_among((1,) * 12 + (3, 5, 0, 255)))
    if kind == "echo":
        return [wire.data(wire.item(draw(_among((3, 3, 3, 1, 9))), 3, wire.echo_rq()))]
    if kind == "cancel":
        cancel = wire.command(wire.element(0x100, 0xFFF), wire.element(0x120, 1), wire.element(0x800, 0x101))
        return [wire.data(wire.item(context, 3, cancel))]
    if kind == "other":
        find = wire.command(
            wire.element(2, "1.2.840.10008.5.1.4.1.2.1.1"),
            wire.element(0x100, draw(_among((0x20, 0x21, 0x8001, 0x8030, 0x140, 0x99)))),
            wire.element(0x110, 5),
            wire.element(0x700, 0),
            wire.element(0x800, 0x101),
        )
        return [wire.data(wire.item(context, 3, find))]
    sop = f"2.999.{draw(st.integers(1, 3))}"
    size = draw(_among((0, 10, 600, 5000, 40_000)))
    data_set = wire.ct_image(STUDY, sop if draw(st.integers(0, 9)) else "2.999.77", size)
    data_set = draw(st.sampled_from((data_set,) * 9 + (b"", b"\xff" * 40, data_set[:30])))
    command = draw(commands(sop))
    cut = draw(st.sampled_from((0,) * 6 + (1, 20, len(command) - 1)))
    parts = [wire.item(context, 1, command[:cut])] if cut else []
    parts.append(wire.item(context, 3, command[cut:]))
    step = draw(_among((100_000, 16_378, 4090, 1000))) if size > 1000 else draw(_among((65_530, 200)))
    pieces = [data_set[begin : begin + step] for begin in range(0, max(1, len(data_set)), step)]
    other = draw(st.sampled_from((context,) * 15 + (3, 7)))
    parts += [wire.item(context, 0, piece) for piece in pieces[:-1]]
    parts.append(wire.item(other, draw(_among((2,) * 9 + (6, 0))), pieces[-1]))
    pdus: list[bytes] = []
    while parts:
        count = draw(_among((1, 1, 1, 2, 3)))
        pdus.append(wire.data(*parts[:count]))
        parts = parts[count:]
    return pdus


@st.composite
def commands(draw: st.DrawFn, sop: str) -> bytes:
    """A C-STORE-RQ command set, most of them in order."""
    elements = {
        0x0002: wire.element(0x0002, draw(_among((wire.CTImageStorage,) * 12 + ("1.2.3", "", "x" * 70)))),
        0x0100: wire.element(0x0100, 1),
        0x0110: wire.element(0x0110, draw(_among((1, 2, 65_535)))),
        0x0700: wire.element(0x0700, draw(_among((0,) * 12 + (1, 2, 3)))),
        0x0800: wire.element(0x0800, draw(_among((1,) * 12 + (0, 0x102, 0x101)))),
        0x1000: wire.element(0x1000, draw(st.sampled_from((sop,) * 12 + _ODD_UIDS))),
    }
    extra = draw(_among((0,) * 8 + (0x1030, 0x1031, 0x0902, 0x0003)))
    if extra:
        elements[extra] = wire.element(extra, draw(_among(("MOVER", 7, b"\0\0", "A" * 17))))
    for number in draw(_among(((),) * 12 + ((0x0110,), (0x1000,), (0x0100,), (0x0800,), (0x0002,)))):
        del elements[number]
    ordered = [elements[number] for number in sorted(elements)]
    if not draw(st.integers(0, 15)):
        ordered.reverse()
    return wire.command(*ordered) if draw(st.integers(0, 9)) else b"".join(ordered)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Some messages, perhaps with faults, in the pieces in which they are sent."""
    pdus = [pdu for message in draw(st.lists(messages(), min_size=1, max_size=3)) for pdu in message]
    for _ in range(draw(_among((0, 0, 1, 1, 2)))):
        pdus = [pdu for pdu in pdus if pdu] or [wire.ABORT]
        at = draw(st.integers(0, len(pdus) - 1))
        fault = draw(st.integers(0, 9))
        if fault == 0:
            pdus[at] = pdus[at][: draw(st.integers(0, len(pdus[at])))]
        elif fault == 1:
            pdus = [*pdus[:at], pdus[at][: draw(st.integers(1, len(pdus[at])))]]
        elif fault == 2:
            pdus.insert(at, pdus[draw(st.integers(0, len(pdus) - 1))])
        elif fault == 3 and len(pdus) > 1:
            del pdus[at]
        elif fault == 4:
            odd = (wire.ABORT, wire.RELEASE_RQ, wire.associate_rq(), wire.pdu(4, b""), wire.pdu(9, b"abc"), b"\4")
            pdus.insert(at, draw(st.sampled_from((*odd, wire.pdu(6, bytes(4)), wire.data(wire.item(1, 2, b""))))))
        elif fault == 5:
            pdus[at] = _with_number(pdus[at], 2, draw(st.sampled_from((0, 1, 4, 5, 7, len(pdus[at]) + 20, 1 << 25))))
        elif fault == 6:
            lengths = (0, 1, 2, 3, len(pdus[at]), max(0, len(pdus[at]) - 11), 1 << 31, (1 << 32) - 1)
            pdus[at] = _with_number(pdus[at], 6, draw(st.sampled_from(lengths)))
        elif fault == 7 and len(pdus[at]) > 12:
            place = draw(st.integers(10, 11))
            pdus[at] = pdus[at][:place] + bytes([draw(st.integers(0, 255))]) + pdus[at][place + 1 :]
        else:
            place = draw(st.integers(0, max(0, len(pdus[at]) - 1)))
            pdus[at] = pdus[at][:place] + bytes([draw(st.integers(0, 255))]) + pdus[at][place + 1 :]
    pieces: list[bytes] = []
    for pdu in pdus:
        cut = draw(st.sampled_from((0, 0, 0, 0, 3, 6, 11, 13, len(pdu) // 2)))
        pieces += [pdu[:cut], pdu[cut:]] if 0 < cut < len(pdu) else [pdu]
    if draw(st.integers(0, 3)):
        pieces.append(wire.RELEASE_RQ)
    return [piece for piece in pieces if piece]


def _with_number(pdu: bytes, at: int, number: int) -> bytes:
    return pdu[:at] + struct.pack(">I", number) + pdu[at + 4 :] if len(pdu) >= at + 4 else pdu


# What comes of them.


@dataclass(frozen=True)
class Outcome:
    """What a listener did with a stream."""

    answers: tuple[bytes, ...]
    files: tuple[tuple[str, bytes], ...]
    entries: tuple[tuple[Any, ...], ...]

    def told(self) -> str:
        """In short, for a message."""
        return f"{self.answers} {[(name, len(content)) for name, content in self.files]} {self.entries}"


class Side:
    """A listener with its spool and ledger, one of two that are compared."""

    def __init__(self, folder: Path, *, fast: bool, durability: Durability) -> None:
        self.port = free_port()
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite3'}")
        self.ledger.migrate()
        self.spool = Spool(folder / "data")
        self.listener = Listener(
            ListenerSettings(port=self.port, fast=fast, max_associations=200, durability=durability),
            self.spool,
            self.ledger,
        )
        self._keep = self.listener.keep
        self.listener.keep = self._kept  # type: ignore[method-assign]
        self.listener.start()

    def close(self) -> None:
        self.listener.stop(2)
        self.ledger.close()

    def _kept(self, association: Association, receiving: Receiving) -> None:
        association.at_work = True  # type: ignore[attr-defined]
        try:
            self._keep(association, receiving)
        finally:
            association.at_work = False  # type: ignore[attr-defined]

    def play(self, pieces: list[bytes], study: str, settle: int, seconds: float) -> Outcome:
        """Send a stream piece by piece, each when nothing of the one before is under way any more."""
        with wire.Wire(self.port, 60) as connection:
            accepted = connection.associate()
            assert accepted[:1] == b"\2"
            association = _association(connection.socket.getsockname()[1])
            for piece in _for_study(pieces, study):
                with suppress(OSError):
                    connection.send(piece)
                _settle(association, settle, seconds)
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_WR)
            answers = tuple(_until_abort(connection))
        if association is not None:
            association.join(20)
            association.dul.join(20)
        return Outcome(answers, tuple(self._files(study)), self._entries(study))

    def _files(self, study: str) -> Iterator[tuple[str, bytes]]:
        folder = self.spool.root / "studies" / study
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            yield path.name, path.read_bytes()

    def _entries(self, study: str) -> tuple[tuple[Any, ...], ...]:
        query = text(f"SELECT {_COLUMNS} FROM instance WHERE study_instance_uid = :study ORDER BY path")  # noqa: S608
        with self.ledger._database.read() as session:
            return tuple(tuple(row) for row in session.execute(query, {"study": study}))


def _for_study(pieces: list[bytes], study: str) -> Iterator[bytes]:
    """The pieces, cut once more where a PDU ends: what follows it would come while the library still deals with it."""
    stream = b"".join(pieces).replace(STUDY.encode(), study.encode())
    ends = {*itertools.accumulate(map(len, pieces)), *_pdu_ends(stream)}
    for begin, end in itertools.pairwise(sorted({0, *ends})):
        yield stream[begin:end]


def _pdu_ends(stream: bytes) -> Iterator[int]:
    """As their lengths say, up to the first one of no known type."""
    at = 0
    while at + 6 <= len(stream) and 1 <= stream[at] <= 7:
        at += 6 + int.from_bytes(stream[at + 2 : at + 6], "big")
        if at <= len(stream):
            yield at


def _until_abort(connection: wire.Wire) -> Iterator[bytes]:
    """The association ends with an abort; the rest of a broken stream may be answered with thousands more."""
    while answer := connection.receive():
        yield answer
        if answer[:1] == b"\7":
            return


def _association(port: int) -> Association | None:
    """The listener's end of a connection."""
    for thread in threading.enumerate():
        if isinstance(thread, Association) and thread.is_acceptor and thread.requestor.port == port:
            return thread
    return None


def _settle(association: Association | None, times: int, seconds: float) -> None:
    """Wait until nothing of what was sent is under way: seen so many times, a round of the library's loop apart."""
    if association is None:
        return
    seen, end = 0, time.monotonic() + seconds
    while seen < times and time.monotonic() < end:
        time.sleep(0.0012)
        seen = seen + 1 if _is_settled(association) else 0


def _is_settled(association: Association) -> bool:
    provider = association.dul
    if not provider.is_alive():
        return True
    if provider.state_machine.current_state == "Sta8" and association.is_alive() and not association._kill:
        return False  # a release is answered when the entries are made, which a busy disk holds up
    queues = [provider.event_queue, provider.to_provider_queue]
    if association.is_alive() and not association._kill:
        queues += [association.dimse.msg_queue, provider.to_user_queue]
    if any(queue.queue for queue in queues) or getattr(association, "at_work", False):
        return False
    transport = provider.socket.socket if provider.socket is not None else None
    if transport is None:
        return True
    try:
        waiting = struct.unpack("i", fcntl.ioctl(transport.fileno(), termios.FIONREAD, bytes(4)))[0]
    except (OSError, ValueError):
        return True
    return not waiting


class Pair:
    """Both sides, and as many streams at once as there are places; objects are synced one by one or not."""

    def __init__(self, folder: Path, places: int, *, durability: Durability) -> None:
        for name in ("fast", "stock"):
            (folder / name).mkdir()
        self.fast, self.stock = (
            Side(folder / name, fast=name == "fast", durability=durability) for name in ("fast", "stock")
        )
        self._pool = ThreadPoolExecutor(places)
        gc.collect()
        gc.freeze()  # the library collects after every sixtieth connection, and all threads wait for that
        self._numbers = iter(range(1_000_000, 9_999_999))
        self.played = 0

    def close(self) -> None:
        self._pool.shutdown()
        self.fast.close()
        self.stock.close()
        gc.unfreeze()

    def compare(self, pieces: list[list[bytes]]) -> None:
        """Play streams into both sides; each must come to the same."""
        for stream, (fast, stock) in zip(pieces, self._pool.map(self._play, pieces), strict=True):
            assert fast == stock, f"{fast.told()} {stock.told()} {[(len(piece), piece[:200]) for piece in stream]}"
        self.played += len(pieces)

    def _play(self, pieces: list[bytes]) -> tuple[Outcome, Outcome]:
        # On a busy machine the stock side's threads may need longer to come to rest.
        for settle, seconds in ((3, 0.5), (30, 5), (100, 20)):
            study = f"2.{next(self._numbers)}"
            outcomes = self.fast.play(pieces, study, settle, seconds), self.stock.play(pieces, study, settle, seconds)
            if outcomes[0] == outcomes[1]:
                break
        return outcomes

    def leftovers(self) -> list[str]:
        return [path.name for side in (self.fast, self.stock) for path in (side.spool.root / "incoming").iterdir()]


@contextmanager
def quiet_threads() -> Iterator[None]:
    """The library's threads end with an error on some streams; that is what is compared, and no news."""
    hook, library = threading.excepthook, logging.getLogger("pynetdicom")
    threading.excepthook = lambda _arguments: None
    level = library.level  # pytest keeps what is logged until a test is over, tracebacks with all that they refer to
    library.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        threading.excepthook = hook
        library.setLevel(level)


def count(default: int) -> int:
    return int(os.environ.get("STREAMS", default))
