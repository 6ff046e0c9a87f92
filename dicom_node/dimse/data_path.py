"""The fast receive path: C-STORE requests (PS3.7 9.1.1) from the socket straight into the spool.

pynetdicom keeps everything else: negotiation, C-ECHO and every other service, release, abort, timers, TLS. The path
stands in for one method of its upper layer provider, the one that looks whether the peer sent something, and for the
one that reads from the socket, so that both read from one buffer. It runs in the provider's own thread::

                          pynetdicom's state machine (PS3.8 9.2)
     Sta1 ... Sta5 ──────────────▶ Sta6 established ──────────────▶ Sta7 ... Sta13
                                    │           ▲
           nothing is under way:    │           │  anything that is not an ordinary C-STORE request:
           no message half read,    │           │  PDUs but P-DATA-TF, other services, commands in fragments,
           none waiting, the        │           │  unknown contexts, empty or overlong values, the peer gone;
           association's thread     │           │  the library reads it from the buffer, byte for byte, and its
           parked                   ▼           │  thread is let go
                             ┌───────────────────────┐
                       ┌────▶│ COMMAND               │   a P-DATA-TF that begins with a whole C-STORE-RQ
                       │     └───────────┬───────────┘   command set in an accepted storage context
       response sent,  │                 ▼
       in place        │     ┌───────────────────────┐   each fragment is written as it comes; the thread
       before Success  └─────│ DATA SET              │   leaves between two PDUs where the library has
                             └───────────────────────┘   something to send, and comes back

In DATA SET, what is out of the ordinary (a fragment of a command or of another context, an empty value, an item that
ends beyond its PDU) is given back as well: a message with the fragments so far is put into the library, and the rest of
the PDU is read by it. The library never sees a PDU that the path has dealt with, so ``EVT_PDU_RECV`` and
``EVT_DIMSE_RECV`` are not triggered for these; `Store.heard` is called instead.

A peer that stalls within a PDU is let go after the association's network timeout, and so is one that takes longer than
that for a whole PDU. One that is silent between PDUs is the library's: its idle timer aborts the association.
"""

from __future__ import annotations

import os
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import pynetdicom
import structlog
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from dicom_node.dimse.sop_classes import PRIOR_MESSAGE
from dicom_node.intake.storage import Receiving
from engine.errors import NodeError

TESTED: Final = ("3.0.4",)
"""Versions of pynetdicom whose inner workings the path is known to fit."""

_BUFFER: Final = 1 << 18
_LARGEST: Final = 1 << 24
"""Longest PDU, and longest part of a data set, that is ever held in memory: what the library itself has to read."""
_LONGEST_COMMAND: Final = 1 << 14
_LOOK_MS: Final = 50
"""How long the thread waits for bytes before it looks whether the library has something to send."""
_PATIENCE: Final = 8
"""How many rounds of the library's loop (1 ms each) its other thread has to come to rest."""
_ROUND: Final = 0.001
_SHORT_ROUND: Final = 0.0001
"""Seconds that a round of the library's loop takes, and takes while the peer waits for this side's next word."""
_ANSWERS_SOON: Final = frozenset({"Sta3", "Sta8"})
_P_DATA: Final = 4
_MOST_PARTS: Final = 256
"""How many values are written by one system call; the system takes 1024."""
_NO_DATA_SET: Final = b"\1\1"
_STORE_RQ: Final = b"\1\0"
_STORE_RSP: Final = b"\1\x80"
_PRIORITIES: Final = frozenset({b"\0\0", b"\1\0", b"\2\0"})
_PRIOR_MESSAGE: Final = PRIOR_MESSAGE.to_bytes(2, "little")

_PDU: Final = struct.Struct(">BxI")
_ITEM: Final = struct.Struct(">IB")
_ELEMENT: Final = struct.Struct("<HHI")
_UID: Final = re.compile(rb"(?!.{65})(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_ORIGINATOR: Final = re.compile(rb"[0-9A-Za-z_. -]{0,16}")

log = structlog.get_logger(__name__)


class Store(Protocol):
    """What a listener does with objects, whichever way they are read."""

    def begin(
        self, association: Association, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> Receiving:
        """Make ready for an object; raises `NodeError` where it is refused."""

    def keep(self, association: Association, receiving: Receiving) -> None:
        """Keep an object that has arrived whole; raises `NodeError` where it is refused."""

    def refuse(self, association: Association, error: NodeError) -> tuple[int, str]:
        """Status (PS3.4 table B.2-1) and comment for an object that is not taken."""

    def heard(self, association: Association) -> None:
        """Bytes came."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE-RQ command set (PS3.7 9.3.1.1)."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str

    @classmethod
    def parse(cls, command: bytes) -> StoreRequest | None:
        """Read an ordinary one; None for every other command set, and for one that is out of the ordinary."""
        at, end, last = 0, len(command), -1
        values: dict[int, bytes] = {}
        while at + 8 <= end:
            group, element, length = _ELEMENT.unpack_from(command, at)
            at += 8
            if group or element <= last or at + length > end:
                return None
            last = element
            values[element] = command[at : at + length]
            at += length
        if at != end or not _NEEDED <= values.keys() <= _KNOWN or len(values.get(0x0000, bytes(4))) != 4:
            return None
        message, data_set = values[0x0110], values[0x0800]
        if values[0x0100] != _STORE_RQ or values[0x0700] not in _PRIORITIES or not len(message) == len(data_set) == 2:
            return None
        sop_class, sop_instance = values[0x0002].removesuffix(b"\0"), values[0x1000].removesuffix(b"\0")
        if data_set == _NO_DATA_SET or not (_UID.fullmatch(sop_class) and _UID.fullmatch(sop_instance)):
            return None
        if 0x1030 in values and not _ORIGINATOR.fullmatch(values[0x1030]):
            return None
        if 0x1031 in values and (len(values[0x1031]) != 2 or values[0x1031] == _PRIOR_MESSAGE):
            return None  # perhaps fetched as a prior
        return cls(int.from_bytes(message, "little"), sop_class.decode(), sop_instance.decode())

    def response(self, status: int, comment: str = "") -> bytes:
        """Encode the C-STORE-RSP command set (PS3.7 9.3.1.2)."""
        text = comment.encode("ascii", "replace")
        body = b"".join(
            (
                _element(0x0002, _padded(self.sop_class_uid.encode(), b"\0")),
                _element(0x0100, _STORE_RSP),
                _element(0x0120, self.message_id.to_bytes(2, "little")),
                _element(0x0800, _NO_DATA_SET),
                _element(0x0900, status.to_bytes(2, "little")),
                _element(0x0902, _padded(text, b" ")) if text else b"",
                _element(0x1000, _padded(self.sop_instance_uid.encode(), b"\0")),
            )
        )
        return _element(0x0000, len(body).to_bytes(4, "little")) + body


_NEEDED: Final = frozenset({0x0002, 0x0100, 0x0110, 0x0700, 0x0800, 0x1000})
_KNOWN: Final = _NEEDED | {0x0000, 0x1030, 0x1031}


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _padded(value: bytes, filler: bytes) -> bytes:
    return value + filler if len(value) % 2 else value


def why_not() -> str:
    """Why the fast path cannot be used here; empty where it can."""
    if pynetdicom.__version__ not in TESTED:
        return f"pynetdicom {pynetdicom.__version__} is not a version that it was tested with ({', '.join(TESTED)})"
    if not (hasattr(os, "readv") and hasattr(select, "poll")):
        return "this system lacks readv or poll"
    return ""


def install(association: Association, store: Store) -> None:
    """Receive an association's C-STORE requests by the fast path; to be called when its connection opens."""
    _DataPath(association, store)


class _Checkpoint(threading.Event):
    """Where the association's thread waits in every round; here also until there is something for it to do."""

    def __init__(self) -> None:
        super().__init__()
        self.work = threading.Event()
        self.parked = False
        self.set()

    def set(self) -> None:
        super().set()
        self.work.set()  # whoever lets the thread go on wants it to look

    def wait(self, timeout: float | None = None) -> bool:
        self.parked = True
        while True:
            super().wait(timeout)
            self.work.wait(timeout)
            if timeout is not None or self.is_set():
                break
        self.parked = False
        return self.is_set()


class _DataPath:
    """One association's; every method but the constructor runs in the provider's thread."""

    def __init__(self, association: Association, store: Store) -> None:
        provider = association.dul
        assert provider.socket is not None  # noqa: S101 - the connection is open
        assert provider.socket.socket is not None  # noqa: S101
        self._association = association
        self._store = store
        self._provider = provider
        provider._run_loop_delay = _SHORT_ROUND  # the request is there
        self._connection = provider.socket.socket
        self._timeout = association.network_timeout or 3600.0
        if self._connection.gettimeout() is None:
            self._connection.settimeout(self._timeout)  # also makes the descriptor one that never blocks
        self._read = self._read_tls if isinstance(self._connection, ssl.SSLSocket) else self._read_plain
        self._poll = select.poll()
        self._poll.register(self._connection, select.POLLIN)
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0
        self._given_back = b""
        self._deadline: float | None = None
        self._lost = False
        self._patience = _PATIENCE
        self._forget()
        self._checkpoint = _Checkpoint()
        association._reactor_checkpoint = self._checkpoint
        self._library_looks: Callable[[], bool] = provider._is_transport_event
        provider._is_transport_event = self._look  # type: ignore[method-assign]
        provider.socket.recv = self._recv  # type: ignore[method-assign]
        association.bind(evt.EVT_CONN_CLOSE, lambda _event: self._abandon())

    def _forget(self) -> None:
        self._request: StoreRequest | None = None
        self._command_set = b""
        self._context_id = 0
        self._receiving: Receiving | None = None
        self._refusal: NodeError | None = None
        self._unwritten: list[memoryview] = []
        """Values of the data set that stand in the buffer, before its beginning."""

    def _abandon(self) -> None:
        receiving = self._receiving
        self._forget()
        if receiving is not None:
            receiving.abandon()

    # What the library calls.

    def _look(self) -> bool:
        """In the place of the library's own: whether the peer sent something; its event is queued then."""
        self._deadline = None
        state = self._provider.state_machine.current_state
        self._provider._run_loop_delay = _SHORT_ROUND if state in _ANSWERS_SOON else _ROUND
        if state == "Sta6":
            if self._request is not None or self._undisturbed():
                self._patience = _PATIENCE
                return self._receive()
            if self._resting() and self._patience:
                self._patience -= 1
                return False
        elif self._request is not None:
            self._abandon()
        if self._begin == self._end:
            heard = self._library_looks()
        else:
            self._provider._read_pdu_data()
            heard = True
        if heard:
            self._checkpoint.work.set()
        return heard

    def _recv(self, nr_bytes: int) -> bytearray:
        """In the place of the socket's own: so many bytes, or fewer where the peer has closed the connection."""
        if nr_bytes > _LARGEST:
            raise ConnectionAbortedError("the peer announces a PDU of more than 16 MiB")
        given, self._given_back = self._given_back, b""
        taken = bytearray(given)
        while len(taken) < nr_bytes:
            try:
                self._more()
            except ConnectionResetError:
                break
            part = min(nr_bytes - len(taken), self._end - self._begin)
            taken += self._view[self._begin : self._begin + part]
            self._begin += part
        return taken

    def _resting(self) -> bool:
        """Whether nothing that came before is still with the library."""
        association = self._association
        return (
            association.dimse.message is None
            and not association.dimse.msg_queue.queue
            and not self._provider.to_user_queue.queue
            and not self._provider.idle_timer_expired()
            and not association._kill
        )

    def _undisturbed(self) -> bool:
        """Whether the association's thread has nothing to do and is parked, so that answers keep their order.

        This thread alone gives it work. A look at the queue before the look at the thread is therefore enough: what
        it took from the queue it took after it had left its parking place, and it comes back when that is done.
        """
        if not (self._association.is_established and self._resting()):
            return False
        self._checkpoint.work.clear()
        return self._checkpoint.parked

    # Reading.

    def _read_plain(self, into: memoryview) -> int:
        return os.readv(self._connection.fileno(), (into,))

    def _read_tls(self, into: memoryview) -> int:
        connection = self._connection
        assert isinstance(connection, ssl.SSLSocket)  # noqa: S101 - chosen by that
        if not connection.pending() and not self._poll.poll(0):
            raise BlockingIOError
        return connection.recv_into(into)

    def _fill(self) -> bool:
        """Read what has come; False where nothing came for a moment."""
        self._write()
        if self._begin == self._end:
            self._begin = self._end = 0
        elif self._end == _BUFFER or self._begin > _BUFFER // 2:
            rest = bytes(self._view[self._begin : self._end])
            self._view[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        try:
            count = self._read(self._view[self._end :])
        except BlockingIOError:
            acknowledge_at_once(self._connection)
            if not self._poll.poll(_LOOK_MS):
                return False
            try:
                count = self._read(self._view[self._end :])
            except BlockingIOError:
                return False
        if not count:
            raise ConnectionResetError
        self._end += count
        self._store.heard(self._association)
        return True

    def _more(self) -> None:
        """More bytes of a PDU that has begun.

        Raises
        ------
        ConnectionResetError
            If the peer has closed the connection.
        TimeoutError
            If the PDU takes too long, or the association is to be aborted from this side.
        """
        while self._begin == self._end:
            self._wait()

    def _need(self, count: int) -> None:
        """Have so many bytes of a PDU in the buffer, in one piece; raises what `_more` does."""
        while self._end - self._begin < count:
            self._wait()

    def _wait(self) -> None:
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._timeout
        # Whether anything comes or not: a byte now and then is no end of a PDU.
        self._lost = self._lost or now > self._deadline or self._association._sent_abort
        if self._lost:
            raise TimeoutError("the peer stalls within a PDU")
        self._fill()

    # The path itself.

    def _receive(self) -> bool:
        """Deal with C-STORE requests until something else comes, or nothing."""
        provider = self._provider
        heard = False
        try:
            while self._pdu_has_begun():
                self._need(_PDU.size)
                kind, length = _PDU.unpack_from(self._buffer, self._begin)
                if kind != _P_DATA or not (self._data(length) if self._request is not None else self._command(length)):
                    break
                self._deadline = None
                provider._idle_timer.restart()
                heard = True
            else:
                return heard
        except OSError:
            pass  # the library finds the same when it reads
        except BaseException:  # whatever it is goes on to the library, and leaves no half object and no parked thread
            self._abandon()
            self._checkpoint.work.set()
            raise
        self._abandon()
        self._checkpoint.work.set()
        provider._read_pdu_data()
        return True

    def _pdu_has_begun(self) -> bool:
        """Wait for the next PDU; False where the library has something to do first."""
        provider = self._provider
        while self._begin == self._end:
            if provider.to_provider_queue.queue or provider.event_queue.queue or provider._kill_thread:
                return False
            if not self._fill() and provider.idle_timer_expired():
                self._abandon()
                self._checkpoint.work.set()
                return False
        return True

    def _command(self, length: int) -> bool:
        """Begin an object; False, with nothing taken from the buffer, where the PDU begins with anything else."""
        if length < 6:
            return False
        self._need(12)
        item, context_id = _ITEM.unpack_from(self._buffer, self._begin + 6)
        if self._buffer[self._begin + 11] & 3 != 3 or not 2 <= item <= min(length - 4, _LONGEST_COMMAND):
            return False
        self._need(10 + item)
        command_set = bytes(self._view[self._begin + 12 : self._begin + 10 + item])
        request = StoreRequest.parse(command_set)
        context = self._association._accepted_cx.get(context_id)
        if request is None or context is None or context.abstract_syntax != request.sop_class_uid:
            return False
        if not _is_storage(request.sop_class_uid) or self._association.acceptor.accepted_common_extended:
            return False
        self._begin += 10 + item
        self._request, self._command_set, self._context_id = request, command_set, context_id
        try:
            self._receiving = self._store.begin(
                self._association, request.sop_class_uid, request.sop_instance_uid, str(context.transfer_syntax[0])
            )
        except NodeError as error:
            self._refusal = error  # the peer is told once it has sent the data set
        return self._items(length - 4 - item)

    def _data(self, length: int) -> bool:
        self._begin += _PDU.size
        return self._items(length)

    def _items(self, left: int) -> bool:
        """Deal with the presentation data values (PS3.8 9.3.5.1) of which the rest of a PDU is made."""
        complete = False
        while left:
            if left < 5:
                return self._give_back(left)
            self._need(5)
            item, context_id = _ITEM.unpack_from(self._buffer, self._begin)
            if not 1 <= item <= left - 4:
                return self._give_back(left)
            if complete:  # as the library does: what follows the last fragment in its PDU is not looked at
                self._begin += 5
                self._skip(item - 1)
            else:
                if item < 2 or context_id != self._context_id:
                    return self._give_back(left)
                self._need(6)
                control = self._buffer[self._begin + 5]
                if control & 1:
                    return self._give_back(left)
                self._begin += 6
                self._take(item - 2)
                complete = bool(control & 2)
            left -= 4 + item
        if complete:
            self._finish()
        return True

    def _take(self, count: int) -> None:
        """Have a value, or the rest of one, written with what else has come."""
        while count:
            if self._begin == self._end:
                self._more()
            part = min(count, self._end - self._begin)
            self._unwritten.append(self._view[self._begin : self._begin + part])
            if len(self._unwritten) == _MOST_PARTS:
                self._write()
            self._begin += part
            count -= part

    def _write(self) -> None:
        if not self._unwritten:
            return
        parts, self._unwritten = self._unwritten, []
        if self._receiving is not None:
            try:
                self._receiving.write(*parts)
            except NodeError as error:
                self._refusal = error
                self._receiving.abandon()
                self._receiving = None

    def _skip(self, count: int) -> None:
        while count:
            if self._begin == self._end:
                self._more()
            part = min(count, self._end - self._begin)
            self._begin += part
            count -= part

    def _give_back(self, left: int) -> bool:
        """Leave the message to the library: what came of it, and the rest of this PDU as a PDU of its own."""
        self._write()
        receiving = self._receiving
        if receiving is None or receiving.size > _LARGEST:
            self._given_back = b"\xff" * _PDU.size  # a PDU of no known type: the association is aborted
            return False
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((self._context_id, b"\3" + self._command_set))
        if receiving.size:
            with receiving.content() as content:
                primitive.presentation_data_value_list.append((self._context_id, b"\0" + bytes(content)))
        message = DIMSEMessage()
        message.decode_msg(primitive, self._association)
        self._association.dimse.message = message
        self._given_back = _PDU.pack(_P_DATA, left)
        return False

    def _finish(self) -> None:
        """Keep the object and answer."""
        self._write()
        request, receiving = self._request, self._receiving
        assert request is not None  # noqa: S101 - an object has begun
        status, comment = 0, ""
        try:
            if self._refusal is not None:
                raise self._refusal
            assert receiving is not None  # noqa: S101 - not refused
            self._store.keep(self._association, receiving)
        except NodeError as error:
            status, comment = self._store.refuse(self._association, error)
        context_id = self._context_id
        self._abandon()
        self._answer(request, context_id, status, comment)

    def _answer(self, request: StoreRequest, context_id: int, status: int, comment: str) -> None:
        command_set = request.response(status, comment)
        largest = self._association.dimse.maximum_pdu_size
        if largest and len(command_set) + 6 > largest:
            response = C_STORE()
            response.MessageIDBeingRespondedTo = request.message_id
            response.AffectedSOPClassUID = request.sop_class_uid
            response.AffectedSOPInstanceUID = request.sop_instance_uid
            response.Status = status
            if comment:
                response.ErrorComment = comment  # type: ignore[assignment]
            self._association.dimse.send_msg(response, context_id)
            return
        value = len(command_set) + 2
        self._send(_PDU.pack(_P_DATA, value + 4) + _ITEM.pack(value, context_id) + b"\3" + command_set)

    def _send(self, answer: bytes) -> None:
        sent = 0
        if not isinstance(self._connection, ssl.SSLSocket):
            with suppress(OSError):  # the library waits until the peer takes it, or finds that it has gone
                sent = os.write(self._connection.fileno(), answer)
        if sent < len(answer):
            transport = self._provider.socket
            assert transport is not None  # noqa: S101 - the state machine is in Sta6
            transport.send(answer[sent:])


@lru_cache  # bounded: a peer says what it likes
def _is_storage(sop_class_uid: str) -> bool:
    return uid_to_service_class(sop_class_uid) is StorageServiceClass


def acknowledge_at_once(connection: socket.socket) -> None:
    """Without it senders that gather small packets (Nagle) wait 40 ms an image for a delayed acknowledgement."""
    if hasattr(socket, "TCP_QUICKACK"):
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        except OSError:
            return  # the peer has gone; the association ends by itself
