"""Who gets in: connections, TLS handshakes, and which association requests are accepted (PS3.8 9.3.4).

A connection is looked at in a thread of its own until it has said something, so that one that is silent, slow, or
breaks its handshake off holds nobody up; the accepting thread only accepts. Only then does the library take it.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import structlog
from pynetdicom import AE, evt
from pynetdicom._globals import APPLICATION_CONTEXT_NAME
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer, RequestHandler

from dicom_node.dimse.tls import explain
from dicom_node.dimse.users import Users
from dicom_node.settings import ListenerSettings
from engine.errors import NodeError

_TLS_HANDSHAKE: Final = b"\x16"
"""First byte of a TLS record with a handshake (RFC 8446 5.1); none of a PDU (PS3.8 9.3.1)."""
_WAITING: Final = 100
"""Connections that may be open and not have asked for an association yet. With `max_associations` it keeps the
process below the 1024 descriptors that the library's `select` can look at."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21), and why in words."""

    result: int
    source: int
    reason: int
    words: str

    @property
    def transient(self) -> bool:
        """Whether the same request may be accepted later."""
        return self.result == 2


ADDRESS: Final = Rejection(1, 1, 1, "its address is not listed")
APPLICATION_CONTEXT: Final = Rejection(1, 1, 2, "application context name not supported")
CALLING_AE_TITLE: Final = Rejection(1, 1, 3, "calling AE title not recognised")
CALLED_AE_TITLE: Final = Rejection(1, 1, 7, "called AE title not recognised")
USER: Final = Rejection(1, 2, 1, "its user identity is not accepted")
PROTOCOL_VERSION: Final = Rejection(1, 2, 2, "protocol version not supported")  # the library's own answer
STOPPING: Final = Rejection(2, 3, 1, "temporary congestion: the node is stopping")
LIMIT: Final = Rejection(2, 3, 2, "local limit exceeded: too many associations")

REJECTIONS: Final = (
    ADDRESS,
    APPLICATION_CONTEXT,
    CALLING_AE_TITLE,
    CALLED_AE_TITLE,
    USER,
    PROTOCOL_VERSION,
    STOPPING,
    LIMIT,
)


class Admission:
    """Decides on association requests, and counts the associations that are open.

    Parameters
    ----------
    settings : ListenerSettings
    called_aets : collection of str
        The AE titles that the node answers to.
    users : Users
    """

    def __init__(self, settings: ListenerSettings, called_aets: Collection[str], users: Users) -> None:
        self._settings = settings
        self._places = -(-settings.max_associations // settings.processes)
        self._called_aets = frozenset(called_aets)
        self._networks = [ipaddress.ip_network(network) for network in settings.addresses]
        self._users = users
        self._peers: dict[Association, tuple[str, str]] = {}
        self._lock = threading.Lock()
        self._stopping = False

    def stop(self) -> None:
        """Admit nobody any more."""
        self._stopping = True

    def admit(self, association: Association) -> Rejection | None:
        """Decide on an association's request; None, and a place for it until it leaves, where it is accepted."""
        request = association.requestor.primitive
        assert isinstance(request, A_ASSOCIATE)  # noqa: S101 - it is asked for one
        calling_aet, called_aet = str(request.calling_ae_title), str(request.called_ae_title)
        address = str(association.requestor.address)
        if not self._knows(address):
            return ADDRESS
        if request.application_context_name != APPLICATION_CONTEXT_NAME:
            return APPLICATION_CONTEXT
        if called_aet not in self._called_aets:
            return CALLED_AE_TITLE
        if self._settings.calling_aets and calling_aet not in self._settings.calling_aets:
            return CALLING_AE_TITLE
        if not self._users.accept(association):
            return USER
        return self._take_a_place(association, (calling_aet, address))

    def leave(self, association: Association) -> None:
        """Its connection is closed."""
        with self._lock:
            self._peers.pop(association, None)

    def _knows(self, address: str) -> bool:
        if not self._networks:
            return True
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address):
            found = found.ipv4_mapped or found  # what comes by IPv4 to a socket that takes both
        return any(found in network for network in self._networks)

    def _take_a_place(self, association: Association, peer: tuple[str, str]) -> Rejection | None:
        settings = self._settings
        with self._lock:
            if self._stopping:
                return STOPPING
            # One whose thread has ended without a word of a closed connection holds no place.
            self._peers = {other: its for other, its in self._peers.items() if other.is_alive()}
            of_peer = sum(other == peer for other in self._peers.values())
            if len(self._peers) >= self._places or (
                settings.max_associations_per_peer is not None and of_peer >= settings.max_associations_per_peer
            ):
                return LIMIT
            self._peers[association] = peer
        return None


class Server(AssociationServer):
    """The accepting socket.

    Parameters
    ----------
    entity : AE
        With the presentation contexts that it supports.
    address : tuple of str and int
        Where to listen.
    handlers : list
        Of the library's events.
    context : callable or None
        Gives the TLS context of the next connection; None takes connections in the clear.
    seconds : float
        How long a connection may take until it has said something, its handshake included.
    shared : bool
        Whether other processes of the node listen at the same address (``SO_REUSEPORT``).
    """

    request_queue_size = 128
    """Connections that may wait to be accepted; the library's five make a burst of senders wait a second or more."""

    def __init__(
        self,
        entity: AE,
        address: tuple[str, int],
        handlers: list[evt.EventHandlerType],
        *,
        context: Callable[[], ssl.SSLContext] | None,
        seconds: float,
        shared: bool = False,
    ) -> None:
        self._context = context
        self._shared = shared
        self._seconds = seconds
        self._waiting: set[threading.Thread] = set()
        self._waiting_lock = threading.Lock()
        super().__init__(
            entity,
            address,
            entity.ae_title,
            _Shared(entity.supported_contexts),
            evt_handlers=handlers,
            request_handler=_Connection,
        )

    def server_bind(self) -> None:
        """Take the address."""
        if self._shared:
            assert self.socket is not None  # noqa: S101 - made before it is bound
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def start(self) -> None:
        """Accept connections, in a thread of its own, until `shutdown`."""
        self.ae._servers.append(self)  # type: ignore[arg-type]  # where shutdown takes it from
        threading.Thread(target=self.serve_forever, name="listener", daemon=True).start()

    def waiting(self) -> int:
        """Connections that are open and have not asked for an association yet."""
        with self._waiting_lock:
            self._waiting = {thread for thread in self._waiting if thread.ident is None or thread.is_alive()}
            return len(self._waiting)

    def waits(self, thread: threading.Thread) -> None:
        """A thread serves such a connection, from now on instead of this one."""
        with self._waiting_lock:
            self._waiting.discard(threading.current_thread())
            self._waiting.add(thread)

    def asked(self, association: Association) -> None:
        """It has asked."""
        with self._waiting_lock:
            self._waiting.discard(association)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Look at a connection in a thread of its own."""
        if self.waiting() >= _WAITING:
            log.warning("connection closed: too many wait", address=client_address[0])
            self.shutdown_request(request)
            return
        thread = threading.Thread(target=self._begin, args=(request, client_address), name="connection", daemon=True)
        self.waits(thread)
        thread.start()

    def _begin(self, connection: socket.socket, client_address: Any) -> None:
        try:
            ready = self._ready(connection)
            if ready is not None:
                self.finish_request(ready, client_address)
                return
        except (OSError, NodeError) as error:
            reason = explain(error) if isinstance(error, OSError) else str(error)
            log.warning("connection closed", address=client_address[0], reason=reason)
        self.shutdown_request(connection)

    def _ready(self, connection: socket.socket) -> socket.socket | None:
        """The connection as the library takes it; None for one that is closed without a word (a monitor's probe)."""
        connection.settimeout(self._seconds)
        try:
            first = connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            raise NodeError("the peer said nothing in time") from None
        if not first:
            return None
        if self._context is None:
            if first == _TLS_HANDSHAKE:
                raise NodeError("the peer speaks TLS, and this port does not")
            return connection
        if first != _TLS_HANDSHAKE:
            raise NodeError("the peer does not speak TLS, and this port asks for it")
        return self._context().wrap_socket(connection, server_side=True)


class _Shared(list[PresentationContext]):
    """Contexts that the library need not copy for each association: that takes 0.1 s, and it changes none of them."""

    def __deepcopy__(self, _memo: object) -> list[PresentationContext]:
        return self


class _Connection(RequestHandler):
    """Gives a connection to the library, and has it counted until it asks for an association."""

    server: Server

    def handle(self) -> None:
        association = self._create_association()
        self.server.waits(association)
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        association.start()
