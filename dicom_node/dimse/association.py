"""Associations with peers (PS3.8): who they are, how long they may take, and why one does not come about."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation, UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext

from dicom_node.dimse.guard import ASKED_TO_RELEASE, ENDED, LONGEST, guard
from dicom_node.dimse.status import rejection_of
from dicom_node.dimse.tls import diagnose
from dicom_node.settings.section import secret_of
from dicom_node.settings.sources import Endpoint
from engine.errors import NodeError, SettingsError

# pynetdicom keeps these for the whole process: files are streamed instead of parsed, and its stock handlers, which
# write data sets to the log, are never bound.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.LOG_HANDLER_LEVEL = "none"

_SHORTEST_PDU: Final = 8
"""Bytes of a presentation data value (PS3.8 9.3.5.1) with one byte of a message: they are of even length (annex E)."""
MAX_CONTEXTS: Final = 128  # PS3.8 9.3.2.2: odd one-byte identifiers


class PeerError(NodeError):
    """A peer cannot be reached, refuses the association, or breaks it off.

    Parameters
    ----------
    retry : bool
        False for a refusal that stays until someone changes the settings of either side.
    answered : bool
        Whether the peer is there and talks to us, and what it refuses is what we ask for.
    """

    def __init__(self, message: str, *, advice: str = "", retry: bool = True, answered: bool = False) -> None:
        super().__init__(message, advice=advice)
        self.retry = retry
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Peer:
    """An application entity on the network, and who we say that we are (PS3.7 D.3.3.7) where it asks for a user."""

    aet: str
    host: str
    port: int
    user: str | None = None
    passcode_file: Path | None = None

    def __str__(self) -> str:
        return f"{self.aet}@{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Read ``AET@HOST:PORT``.

        Raises
        ------
        SettingsError
            If the text has another form.
        """
        match = re.fullmatch(r"(?P<aet>[^@\\]{1,16})@(?P<host>[^@\s]+):(?P<port>\d{1,5})", text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise SettingsError(f"{text!r} is no AET@HOST:PORT", advice="for example PACS@192.168.1.20:104")
        return cls(match["aet"].strip(), match["host"].strip("[]"), int(match["port"]))

    @classmethod
    def of(cls, endpoint: Endpoint) -> Peer:
        """The peer that a table of the settings names.

        Raises
        ------
        SettingsError
            If it is reached by DICOMweb.
        """
        if endpoint.aet is None or endpoint.port is None:
            raise SettingsError(
                f"{endpoint.name} has no AE title and port: it is reached by {endpoint.protocol}",
                advice=f"medrega-pacs destinations probe {endpoint.name} asks it whether it answers",
            )
        return cls(endpoint.aet, endpoint.host, endpoint.port, endpoint.user, endpoint.password_file)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a peer, in seconds: for its answer to the association request, and to each message."""

    association: float = 30
    dimse: float = 60


@contextmanager
def associate(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    calling_aet: str,
    timeouts: Timeouts,
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[evt.EventHandlerType] = (),
    tls: ssl.SSLContext | None = None,
    longest_object: int = LONGEST,
) -> Iterator[Association]:
    """An association with a peer, released at the end and aborted when the block is left by an exception.

    Parameters
    ----------
    peer : Peer
    contexts : sequence of PresentationContext
        Only the first 128 are proposed.
    calling_aet : str
    timeouts : Timeouts
    roles : sequence of SCP_SCU_RoleSelectionNegotiation
        PS3.7 D.3.3.4, where the peer is to send on this association too (C-GET).
    handlers : sequence
        Of events, as the library takes them.
    tls : ssl.SSLContext, optional
        In the clear without.
    longest_object : int
        Bytes of an object that the peer sends on this association, where it may (C-GET).

    Raises
    ------
    PeerError
        If the peer cannot be reached, rejects the association or aborts it.
    SettingsError
        If the peer's passcode cannot be read.
    """
    entity = AE(calling_aet)
    entity.connection_timeout = entity.acse_timeout = timeouts.association
    entity.dimse_timeout = entity.network_timeout = timeouts.dimse
    connected: list[socket.socket] = []

    def opened(event: evt.Event) -> None:
        transport = event.assoc.dul.socket
        if transport is not None and transport.socket is not None:
            connected.append(transport.socket)
            # Without it each message waits for the peer's delayed acknowledgement, some 45 ms.
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            guard(event.assoc, longest_object=longest_object)

    def moved(event: evt.Event) -> None:
        if event.next_state in (ENDED, ASKED_TO_RELEASE):  # the library lets who waits for an answer wait on
            event.assoc.dimse.msg_queue.put((None, None))

    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=list(islice(contexts, MAX_CONTEXTS)),
            ae_title=peer.aet,
            evt_handlers=[(evt.EVT_CONN_OPEN, opened), (evt.EVT_FSM_TRANSITION, moved), *handlers],
            ext_neg=[*roles, *_identity(peer)],
            tls_args=(tls, peer.host) if tls is not None else None,
        )
    except OSError:  # the library looks the name up outside of what it catches; a name server comes back, as peers do
        raise PeerError(
            f"the host name of {peer} cannot be resolved", advice="is it right, and does DNS work?"
        ) from None
    try:
        if not association.is_established:
            raise _refusal(association, peer, bool(connected), timeouts, tls)
        try:
            if 0 < (association.acceptor.maximum_length or 0) < _SHORTEST_PDU:
                raise PeerError(f"{peer} takes PDUs that are too short to hold anything", retry=False)
            yield association
        except BaseException:  # an association left open would hold one of the peer's places, whatever went wrong
            association.abort()
            raise
        if association.is_established:
            association.release()
    finally:
        for connection in connected:
            connection.close()  # the library leaves it open where the peer closed it first


def _identity(peer: Peer) -> list[UserIdentityNegotiation]:
    if peer.user is None:
        return []
    item = UserIdentityNegotiation()
    item.user_identity_type = 1 if peer.passcode_file is None else 2  # the name alone, or with a passcode
    item.primary_field = peer.user.encode()
    item.secondary_field = b"" if peer.passcode_file is None else secret_of(peer.passcode_file).encode()
    return [item]


def _refusal(
    association: Association, peer: Peer, connected: bool, timeouts: Timeouts, tls: ssl.SSLContext | None
) -> PeerError:
    refused = association.rejected_contexts or association.is_rejected
    why = diagnose(peer.host, peer.port, tls, timeouts.association) if tls is not None and not refused else ""
    if why:
        return PeerError(f"no TLS connection with {peer} comes about: {why}", advice="check the tls settings")
    if not connected:
        return PeerError(f"{peer} cannot be reached", advice="is it running, and are host, port and firewall right?")
    if association.rejected_contexts and not association.accepted_contexts:
        return PeerError(
            f"{peer} takes none of these SOP classes and transfer syntaxes",
            advice="let the peer take them from us, or choose another output profile for it",
            retry=False,
            answered=True,
        )
    if association.is_rejected:
        answer = association.acceptor.primitive
        result, source, reason = (getattr(answer, name, None) for name in ("result", "result_source", "diagnostic"))
        rejection = rejection_of(result, source, reason, association.requestor.ae_title, peer.aet)
        return PeerError(
            f"{peer} rejected the association: {rejection.words}",
            advice=rejection.advice,
            retry=not rejection.permanent,
        )
    advice = "" if tls is not None else "does it expect TLS?"
    return PeerError(f"{peer} broke the association request off or did not answer it", advice=advice)
