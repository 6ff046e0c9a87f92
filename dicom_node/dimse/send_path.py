"""The fast send path: C-STORE requests (PS3.7 9.1.1) from the file straight to the socket.

pynetdicom keeps everything else: negotiation, release, abort, TLS, timers. In the established state (Sta6 of PS3.8 9.2)
the path parks the two threads of an association and has the socket to itself::

     Sta6, nothing under way          ┌─────────────────────────────┐
     ────────── take ───────────────▶ │ REQUEST  command and data   │ ◀──────────────┐
                                      │ set, many PDUs a write      │                │ the next file
                                      └──────────────┬──────────────┘                │
                                                     ▼                               │
                                      ┌─────────────────────────────┐   an ordinary  │
                                      │ RESPONSE  awaited           │ ───────────────┘
                                      └──────────────┬──────────────┘   C-STORE-RSP
     ◀───────── give back ───────────────────────────┘
     anything else: PDUs but P-DATA-TF, responses in fragments or to another request, the peer gone, no answer in time.
     The library reads what was received of it, byte for byte, and does what it always does.

Files are read in pieces of `_PIECE` bytes, which is all the memory that an object of any size takes. The library's
events of PDUs and messages are not triggered for what goes this way.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
from typing import Any, Final, Self

import pynetdicom
import structlog
from pynetdicom.association import Association

from dicom_node.dimse.stored_file import StoredFile

TESTED: Final = ("3.0.4",)
"""Versions of pynetdicom whose inner workings this was tested with."""
_PIECE: Final = 1 << 18
_LARGEST_PDU: Final = 1 << 17
_SMALLEST_PDU: Final = 1 << 10
_LARGEST_ANSWER: Final = 1 << 14
_HEADER: Final = struct.Struct(">BxIIBB")
"""Of a P-DATA-TF with one value (PS3.8 9.3.5): type, length; the value's length, context and control header."""
_ELEMENT: Final = struct.Struct("<HHI")
_P_DATA: Final = 4
_COMMAND: Final = 1
_LAST: Final = 2
_C_STORE_RQ: Final = 0x0001
_C_STORE_RSP: Final = 0x8001
_LOW: Final = 2
_NO_DATA_SET: Final = 0x0101

log = structlog.get_logger(__name__)
_told: set[str] = set()


def usable(association: Association) -> bool:
    """Whether the path can be used on this association; the library's own is there for the others."""
    if pynetdicom.__version__ not in TESTED:
        if pynetdicom.__version__ not in _told:
            _told.add(pynetdicom.__version__)
            log.warning("the fast send path was not tested with this pynetdicom and is off", tested=TESTED)
        return False
    longest = association.acceptor.maximum_length
    return longest is not None and (longest == 0 or longest >= _SMALLEST_PDU)


class SendPath:
    """The socket of an established association, for C-STORE requests; a context manager.

    Parameters
    ----------
    association : Association
        As requestor, with nothing under way.
    """

    def __init__(self, association: Association) -> None:
        self._association = association
        self._provider = association.dul
        transport = association.dul.socket
        assert transport is not None  # noqa: S101 - an established association has one
        self._transport = transport
        self._wanted = False
        self._parked, self._free = threading.Event(), threading.Event()
        self._received = bytearray()
        self._socket: socket.socket | None = None
        self._message_id = 0
        payload = min(association.acceptor.maximum_length or _LARGEST_PDU, _LARGEST_PDU) - 6 & ~1
        self._stride = _HEADER.size + payload
        count = max(1, _PIECE // self._stride)
        self._view = memoryview(bytearray(count * self._stride))
        self._values = [
            self._view[begin + _HEADER.size : begin + self._stride] for begin in range(0, len(self._view), self._stride)
        ]

    def __enter__(self) -> Self:
        # Instance attributes stand before the class's methods; both go when the association does.
        self._library_looks, self._library_receives = self._provider._is_transport_event, self._transport.recv
        self._provider._is_transport_event = self._look  # type: ignore[method-assign]
        self._transport.recv = self._recv  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()

    def store(self, file: StoredFile, context_id: int) -> int | None:
        """Send a file as it is.

        Parameters
        ----------
        file : StoredFile
        context_id : int
            An accepted presentation context of its SOP class and transfer syntax.

        Returns
        -------
        int or None
            The response's status; None where none came, and none will.

        Raises
        ------
        OSError
            If the file cannot be opened, or has no data set; nothing was sent.
        """
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size - file.offset
            if size <= 0:
                raise EOFError("the file ends before its data set")
            if not self._take():
                return None
            os.lseek(descriptor, file.offset, os.SEEK_SET)
            self._message_id = self._message_id % 0xFFFF + 1
            try:
                self._send_command(file, context_id)
                self._send_data_set(descriptor, size, context_id)
                status = self._answer(context_id)
            except (OSError, EOFError):
                # The peer is gone, takes nothing, does not answer, or the file has shrunk: no way on from here.
                self._give_back()
                self._association.abort()
                return None
        finally:
            os.close(descriptor)
        return status if status is not None else self._library_answers()

    def _send_command(self, file: StoredFile, context_id: int) -> None:
        command = _command(file.sop_class_uid, file.sop_instance_uid, self._message_id)
        head = _HEADER.pack(_P_DATA, len(command) + 6, len(command) + 2, context_id, _COMMAND | _LAST)
        assert self._socket is not None  # noqa: S101 - taken
        if isinstance(self._socket, ssl.SSLSocket) or not hasattr(socket, "MSG_MORE"):
            self._socket.sendall(head + command)
        else:
            self._socket.sendall(head + command, socket.MSG_MORE)  # in one packet with what follows

    def _send_data_set(self, descriptor: int, size: int, context_id: int) -> None:
        assert self._socket is not None  # noqa: S101 - taken
        payload = self._stride - _HEADER.size
        for begin in range(0, len(self._view), self._stride):
            _HEADER.pack_into(self._view, begin, _P_DATA, payload + 6, payload + 2, context_id, 0)
        while size > 0:
            full, rest = divmod(min(size, payload * len(self._values)), payload)
            values = self._values[:full]
            if rest:
                values = [*values, self._values[full][:rest]]
            wanted = full * payload + rest
            if os.readv(descriptor, values) != wanted:
                raise EOFError("the file became shorter while it was sent")
            size -= wanted
            if size == 0:
                length = len(values[-1])
                begin = (len(values) - 1) * self._stride
                _HEADER.pack_into(self._view, begin, _P_DATA, length + 6, length + 2, context_id, _LAST)
            self._socket.sendall(self._view[: wanted + len(values) * _HEADER.size])

    def _answer(self, context_id: int) -> int | None:
        """The status of an ordinary response; None for anything else, which then stands in `_received`."""
        assert self._socket is not None  # noqa: S101 - taken
        seconds = self._association.dimse_timeout
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            if len(self._received) >= 6:
                kind, length = struct.unpack_from(">BxI", self._received)
                if kind != _P_DATA or length > _LARGEST_ANSWER:
                    return None
                if len(self._received) >= 6 + length:
                    break
            if deadline is not None:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                received = self._socket.recv(4096)
            finally:
                self._socket.settimeout(seconds)
            if not received:
                return None
            self._received += received
        status = _status(bytes(self._received[: 6 + length]), context_id, self._message_id)
        if status is not None:
            del self._received[: 6 + length]
        return status

    def _library_answers(self) -> int | None:
        """Let the library read what the peer says, and wait for its message as it does itself."""
        self._release_provider()
        _, response = self._association.dimse.get_msg(block=True)
        self._association._reactor_checkpoint.set()
        if response is None:
            self._association._handle_no_response()
            return None
        status = self._association._check_received_status(response).get("Status")
        return None if status is None else int(status)

    def _take(self) -> bool:
        """Park the association's threads; False if it has ended."""
        if self._socket is not None:
            return True
        association = self._association
        association._reactor_checkpoint.clear()
        self._parked.clear()
        self._free.clear()
        self._wanted = True
        while not (self._parked.wait(0.05) and association._is_paused):
            if not (association.is_established and self._provider.is_alive()):
                self._release_provider()
                association._reactor_checkpoint.set()
                return False
        if self._transport.socket is None:
            self._give_back()
            return False
        self._socket = self._transport.socket
        self._socket.settimeout(association.dimse_timeout)
        return True

    def _give_back(self) -> None:
        self._release_provider()
        self._association._reactor_checkpoint.set()

    def _release_provider(self) -> None:
        if self._socket is not None:
            self._socket.settimeout(None)
            self._socket = None
            self._provider._idle_timer.restart()
        self._wanted = False
        self._free.set()

    def _look(self) -> bool:
        """In the place of the provider's own, in its thread: whether the peer sent something."""
        if self._wanted:
            self._parked.set()
            self._free.wait()
            return False
        if self._received:
            self._provider._read_pdu_data()
            return True
        return self._library_looks()

    def _recv(self, nr_bytes: int) -> bytearray:
        """In the place of the transport's own: first what the path has received and not used."""
        taken = self._received[:nr_bytes]
        del self._received[:nr_bytes]
        return taken + self._library_receives(nr_bytes - len(taken)) if len(taken) < nr_bytes else taken


def _command(sop_class_uid: str, sop_instance_uid: str, message_id: int) -> bytes:
    """A C-STORE-RQ command set (PS3.7 9.3.1.1), Implicit VR Little Endian."""
    elements = b"".join(
        (
            _uid(0x0002, sop_class_uid),
            _number(0x0100, _C_STORE_RQ),
            _number(0x0110, message_id),
            _number(0x0700, _LOW),
            _number(0x0800, 1),
            _uid(0x1000, sop_instance_uid),
        )
    )
    return _ELEMENT.pack(0, 0, 4) + len(elements).to_bytes(4, "little") + elements


def _uid(element: int, value: str) -> bytes:
    encoded = value.encode("ascii")
    encoded += b"\0" * (len(encoded) % 2)
    return _ELEMENT.pack(0, element, len(encoded)) + encoded


def _number(element: int, value: int) -> bytes:
    return _ELEMENT.pack(0, element, 2) + value.to_bytes(2, "little")


def _status(pdu: bytes, context_id: int, message_id: int) -> int | None:
    """The status in a P-DATA-TF that is a whole C-STORE-RSP (PS3.7 9.3.1.2) to a request; None if it is another."""
    if len(pdu) < _HEADER.size:
        return None
    _, length, value_length, context, control = _HEADER.unpack_from(pdu)
    if (value_length + 4, context, control) != (length, context_id, _COMMAND | _LAST):
        return None
    found: dict[int, Any] = {}
    place = _HEADER.size
    while place < len(pdu):
        if place + _ELEMENT.size > len(pdu):
            return None
        group, element, size = _ELEMENT.unpack_from(pdu, place)
        place += _ELEMENT.size
        if group != 0 or place + size > len(pdu):
            return None
        if size == 2:
            found[element] = int.from_bytes(pdu[place : place + 2], "little")
        place += size
    expected = {0x0100: _C_STORE_RSP, 0x0120: message_id, 0x0800: _NO_DATA_SET}
    if any(found.get(element) != value for element, value in expected.items()):
        return None
    status = found.get(0x0900)
    return status if isinstance(status, int) else None
