"""What the library leaves open to whoever it talks to: errors of its own, and memory without end.

Both sides of an association are guarded: peers that connect to the listener, and peers that this node connects to.
"""

from __future__ import annotations

import queue
from contextlib import suppress
from io import BytesIO
from typing import Final

import structlog
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ

LONGEST: Final = 16 << 20
"""PDUs and messages of peers that are asked, in bytes; objects are no messages."""
_INVALID_PDU: Final = "Evt19"
"""The library's name of the event "unrecognized or invalid PDU received" (PS3.8 table 9-10): it aborts, AA-8."""
_ASKED: Final = frozenset({"Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})
"""What the user of the association asks for: to accept, reject, send, release, abort."""
ENDED: Final = "Sta13"
"""Aborted or released; what is waited for is the end of the connection."""
ASKED_TO_RELEASE: Final = "Sta8"
"""By a peer that answers nothing any more."""

log = structlog.get_logger(__name__)


def guard(association: Association, longest: int = LONGEST, longest_object: int = LONGEST) -> None:
    """Abort an association over what the library would fail by; to be called when its connection opens.

    Parameters
    ----------
    association : Association
    longest : int
        A PDU, or a message that is no object, in bytes: the library reads them into memory.
    longest_object : int
        The data set of a C-STORE request, in bytes, where the library holds it in memory.
    """
    _abort_on_errors(association)
    _read_no_longer_pdu(association, longest)

    def received(_event: evt.Event) -> None:
        message = association.dimse.message  # it is there until it is whole
        if message is None:
            return
        command, data_set = message.encoded_command_set, message.data_set
        held = max(command.tell() if command else 0, data_set.tell() if data_set else 0)
        if held > (longest_object if isinstance(message, C_STORE_RQ) else longest):
            log.warning("message too long", peer=_peer(association))
            message.encoded_command_set, message.data_set = BytesIO(), BytesIO()
            association.dul.event_queue.put(_INVALID_PDU)

    association.bind(evt.EVT_PDU_RECV, received)


def _abort_on_errors(association: Association) -> None:
    """Have the upper layer abort where what a peer sends makes the library raise.

    Left alone it ends the thread that serves the connection, with a traceback for an answer.
    """
    machine = association.dul.state_machine
    act = machine.do_action

    def guarded(event: str) -> None:
        if machine.current_state == ENDED and event in _ASKED:
            # Moot, and no event of this state. Left in its queue it would be found again and again.
            with suppress(queue.Empty):  # one that was found twice
                association.dul.to_provider_queue.get_nowait()
            return
        try:
            act(event)
        except Exception as error:  # an outermost edge: commands and items that are none raise whatever comes of them
            if event == _INVALID_PDU:
                raise
            log.warning("message not understood", peer=_peer(association), error=type(error).__name__)
            association.dul._kill_thread = False  # the library has given it up by now
            association.dul.event_queue.put(_INVALID_PDU)

    machine.do_action = guarded  # type: ignore[method-assign]


def _read_no_longer_pdu(association: Association, limit: int) -> None:
    """Have the connection closed where a peer announces a longer PDU: the library reads it into memory as a whole."""
    transport = association.dul.socket
    assert transport is not None  # noqa: S101 - the connection is open
    recv = transport.recv

    def limited(nr_bytes: int) -> bytearray:
        if nr_bytes > limit:
            log.warning("PDU too long", peer=_peer(association), bytes=nr_bytes)
            raise ConnectionAbortedError(f"the peer announces a PDU of more than {limit >> 20} MiB")
        return recv(nr_bytes)

    transport.recv = limited  # type: ignore[method-assign]


def _peer(association: Association) -> str:
    peer = association.requestor if association.is_acceptor else association.acceptor
    return str(peer.ae_title or "").strip()
