"""A storage SCP made of sockets alone: it records what it gets, PDU by PDU, and answers as it is told."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from wire import command, data, element, item, pdu

from dicom_node.dimse.scu import Peer

_NO_DATA_SET = b"\1\1"
RELEASE_RP = b"\6\0\0\0\0\4\0\0\0\0"


@dataclass(frozen=True)
class Request:
    """A request as it came; `sizes` are the PDUs' lengths."""

    number: int
    context_id: int
    command: dict[int, bytes]
    data_set: bytes
    sizes: tuple[int, ...]

    @property
    def message_id(self) -> int:
        return int.from_bytes(self.command.get(0x0110, b""), "little")  # a C-CANCEL has none

    def response(self, status: int = 0, *more: bytes, message_id: int | None = None) -> bytes:
        """The command set of a response."""
        elements = [
            element(0x0002, self._uid(0x0002) or self._uid(0x0003)),
            element(0x0100, 0x8000 | int.from_bytes(self.command[0x0100], "little")),
            element(0x0120, self.message_id if message_id is None else message_id),
            element(0x0800, 0x0101),
            element(0x0900, status),
            *more,
        ]
        if uid := self._uid(0x1000) or self._uid(0x1001):
            elements.append(element(0x1000, uid))
        return command(*elements)

    def _uid(self, number: int) -> bytes:
        return self.command.get(number, b"").rstrip(b"\0")

    def answer(self, status: int = 0) -> bytes:
        """An ordinary response."""
        return data(item(self.context_id, 3, self.response(status)))


Answer = Callable[[Request], bytes | None]
"""What is sent back; None closes the connection."""


@dataclass
class _Partial:
    context_id: int = 0
    command: bytes = b""
    data_set: bytearray = field(default_factory=bytearray)
    sizes: list[int] = field(default_factory=list)


class ScriptedScp:
    """Listens on loopback; as a context it is ended.

    Parameters
    ----------
    answer : callable
    accepts : callable
        Whether a SOP class in a transfer syntax is accepted.
    maximum : int
        Of PDUs; 0 for none.
    on_data : callable
        Called with the length of each PDU of a data set, before the next is read.
    keep : bool
        Whether data sets are kept.
    """

    def __init__(
        self,
        answer: Answer = Request.answer,
        *,
        accepts: Callable[[str, str], bool] = lambda _class, _syntax: True,
        maximum: int = 16384,
        on_data: Callable[[int], object] = lambda _: None,
        keep: bool = True,
    ) -> None:
        self.requests: list[Request] = []
        self.ends: list[bytes] = []
        self._answer, self._accepts, self._maximum, self._on_data, self._keep = answer, accepts, maximum, on_data, keep
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._listen)

    @property
    def peer(self) -> Peer:
        return Peer("SCRIPTED", "127.0.0.1", self._listening.getsockname()[1])

    def __enter__(self) -> ScriptedScp:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(20)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self._converse(connection)
            except (ConnectionError, TimeoutError):
                self.ends.append(b"")

    def _converse(self, connection: socket.socket) -> None:
        connection.sendall(self._accepted(_pdu(connection)[6:]))
        partial = _Partial()
        while True:
            got = _pdu(connection)
            if not got or got[0] != 4:
                self.ends.append(got[:1])
                if got[:1] == b"\5":
                    connection.sendall(RELEASE_RP)
                return
            place = 6
            while place < len(got):
                length, context_id, control = struct.unpack_from(">IBB", got, place)
                value = got[place + 6 : place + 4 + length]
                place += 4 + length
                partial.context_id = context_id
                if control & 1:
                    partial.command += value
                else:
                    partial.data_set += value if self._keep else b""
                    partial.sizes.append(len(got) - 6)
                    self._on_data(len(got) - 6)
            if control == 2 or (control == 3 and _elements(partial.command)[0x0800] == _NO_DATA_SET):
                request = Request(
                    len(self.requests),
                    partial.context_id,
                    _elements(partial.command),
                    bytes(partial.data_set),
                    tuple(partial.sizes),
                )
                self.requests.append(request)
                partial = _Partial()
                answer = self._answer(request)
                if answer is None:
                    self.ends.append(b"")
                    return
                connection.sendall(answer)

    def _accepted(self, request: bytes) -> bytes:
        def sub(kind: int, value: bytes) -> bytes:
            return struct.pack(">BxH", kind, len(value)) + value

        items = b""
        for kind, value in _items(request[68:]):
            if kind == 0x20:
                inner = list(_items(value[4:]))
                abstract = next(found for kind, found in inner if kind == 0x30).decode()
                syntax = next(found for kind, found in inner if kind == 0x40)
                result = 0 if self._accepts(abstract, syntax.decode()) else 4
                items += sub(0x21, struct.pack(">BxBx", value[0], result) + sub(0x40, syntax))
        user = sub(0x51, struct.pack(">I", self._maximum)) + sub(0x52, b"1.2.3.4")
        return pdu(2, request[:68] + sub(0x10, b"1.2.840.10008.3.1.1.1") + items + sub(0x50, user))


def _items(content: bytes) -> list[tuple[int, bytes]]:
    found, place = [], 0
    while place < len(content):
        kind, length = struct.unpack_from(">BxH", content, place)
        found.append((kind, content[place + 4 : place + 4 + length]))
        place += 4 + length
    return found


def _elements(content: bytes) -> dict[int, bytes]:
    found, place = {}, 0
    while place < len(content):
        group, number, length = struct.unpack_from("<HHI", content, place)
        assert group == 0
        found[number] = content[place + 8 : place + 8 + length]
        place += 8 + length
    return found


def _pdu(connection: socket.socket) -> bytes:
    head = _exactly(connection, 6)
    return head + _exactly(connection, int.from_bytes(head[2:], "big")) if len(head) == 6 else b""


def _exactly(connection: socket.socket, count: int) -> bytes:
    taken = bytearray()
    while len(taken) < count and (part := connection.recv(count - len(taken))):
        taken += part
    return bytes(taken)
