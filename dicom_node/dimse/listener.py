"""The verification and storage SCP (PS3.4 A and B): an image is synced, in place and in the ledger before Success."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import Final, cast

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import AssociationServer

from dicom_node.dimse.sop_classes import storage_sop_classes, transfer_syntaxes
from dicom_node.intake.identity import RefusedError
from dicom_node.intake.storage import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION, Arrival, Storage
from dicom_node.ledger import Ledger
from dicom_node.settings import ListenerSettings
from dicom_node.spool import Spool
from engine.errors import NodeError

# For the whole process: the stock handlers write data sets to the log.
_config.LOG_HANDLER_LEVEL = "none"

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
_PULSE_SECONDS: Final = 0.5
_BACKLOG: Final = 128
"""Connections that may wait to be accepted; the library's five make a burst of senders wait a second or more."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Activity:
    """What an association is sending: the study of its last image, and when bytes came last (monotonic)."""

    study_instance_uid: str
    heard: float
    told: float


class Listener:
    """A storage SCP.

    Parameters
    ----------
    settings : ListenerSettings
    spool : Spool
    ledger : Ledger
    """

    def __init__(self, settings: ListenerSettings, spool: Spool, ledger: Ledger) -> None:
        self._settings = settings
        self._storage = Storage(spool, ledger)
        self._ledger = ledger
        self._server: AssociationServer | None = None
        self._activities: dict[Association, _Activity] = {}
        self._activities_lock = threading.Lock()
        self._stopping = threading.Event()
        self._pulse = threading.Thread(target=self._tell_activity, name="listener-pulse", daemon=True)

    def start(self) -> None:
        """Listen.

        Raises
        ------
        NodeError
            If the port cannot be listened at.
        """
        settings = self._settings
        entity = AE(settings.aet)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION
        entity.require_called_aet = True
        entity.require_calling_aet = list(settings.calling_aets)
        entity.maximum_associations = settings.max_associations
        entity.maximum_pdu_size = settings.max_pdu_bytes
        entity.acse_timeout = settings.acse_timeout_seconds
        entity.dimse_timeout = settings.dimse_timeout_seconds
        entity.network_timeout = settings.network_timeout_seconds
        entity.add_supported_context(Verification)
        for sop_class in storage_sop_classes():
            entity.add_supported_context(sop_class, list(transfer_syntaxes()))
        try:
            self._server = entity.start_server(
                (settings.host, settings.port),
                block=False,
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._opened),
                    (evt.EVT_CONN_CLOSE, self._closed),
                    (evt.EVT_REJECTED, self._rejected),
                    (evt.EVT_ABORTED, self._aborted),
                    (evt.EVT_PDU_RECV, self._heard),
                    (evt.EVT_C_ECHO, lambda _event: SUCCESS),
                    (evt.EVT_C_STORE, self._store),
                ],
            )
        except OSError as error:
            raise NodeError(
                f"port {settings.port} of {settings.host} cannot be listened at: {error.strerror}",
                advice="another program may listen there; set listener.port",
            ) from None
        if self._server is not None and self._server.socket is not None:
            self._server.socket.listen(_BACKLOG)
        self._pulse.start()
        log.info("listening", aet=settings.aet, host=settings.host, port=settings.port)

    def stop(self, drain_seconds: float = 0) -> None:
        """Take no more associations, let those that are open end for a while, then abort them."""
        server = self._server
        if server is None:
            return
        self._server = None
        self._stopping.set()
        self._pulse.join()
        server.shutdown()  # nobody gets in any more; open associations go on
        end = time.monotonic() + drain_seconds
        while _established(server) and time.monotonic() < end:
            time.sleep(0.05)
        for association in _established(server):
            association.abort()

    def _opened(self, event: evt.Event) -> None:
        _acknowledge_at_once(event.assoc)
        connection = _connection(event.assoc)
        if connection is not None:
            # A peer that stalls within a PDU is let go; between PDUs the library itself looks at the time.
            connection.settimeout(self._settings.network_timeout_seconds)

    def _closed(self, event: evt.Event) -> None:
        if event.assoc.requestor.primitive is None:
            # It never asked for an association (a monitor's probe). Waiting for that would hold one of the places of
            # those who do until the ACSE timeout.
            event.assoc.dul.to_user_queue.put(None)  # type: ignore[arg-type]  # what the library takes for no answer
        with self._activities_lock:
            activity = self._activities.pop(event.assoc, None)
        if activity is not None:
            self._touch({activity.study_instance_uid})

    def _rejected(self, event: evt.Event) -> None:
        requestor = event.assoc.requestor
        reason = getattr(event.assoc.acceptor.primitive, "reason_str", "")
        log.warning(
            "association rejected", calling_aet=_title(requestor.ae_title), address=requestor.address, reason=reason
        )

    def _aborted(self, event: evt.Event) -> None:
        log.warning("association aborted", calling_aet=_title(event.assoc.requestor.ae_title))

    def _heard(self, event: evt.Event) -> None:
        _acknowledge_at_once(event.assoc)
        activity = self._activities.get(event.assoc)
        if activity is not None:
            activity.heard = time.monotonic()

    def _tell_activity(self) -> None:
        """Tell the ledger of studies whose next image is on its way, so that a slow one does not close the study."""
        while not self._stopping.wait(_PULSE_SECONDS):
            with self._activities_lock:
                fresh = [activity for activity in self._activities.values() if activity.heard > activity.told]
                for activity in fresh:
                    activity.told = activity.heard
            self._touch({activity.study_instance_uid for activity in fresh})

    def _touch(self, study_instance_uids: set[str]) -> None:
        try:
            self._ledger.intake.touch(study_instance_uids)
        except NodeError as error:
            log.warning("quiet time not reset", reason=str(error))

    def _store(self, event: evt.Event) -> Dataset:
        """Keep an object; the answer's status is one of PS3.4 table B.2-1."""
        calling_aet = _title(event.assoc.requestor.ae_title)
        try:
            return self._receive(event, calling_aet)
        except RefusedError as error:
            return _refuse(error.status, error, calling_aet)
        except NodeError as error:
            # The disk is full or failed, or the ledger did: the sender keeps the object and sends it again.
            return _refuse(OUT_OF_RESOURCES, error, calling_aet)

    def _receive(self, event: evt.Event, calling_aet: str) -> Dataset:
        request = cast(C_STORE, event.request)
        transfer_syntax = event.context.transfer_syntax
        data = request.DataSet
        dataset = data.getbuffer() if data is not None else memoryview(b"")
        arrival = Arrival(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(transfer_syntax),
            calling_aet=calling_aet,
            called_aet=_title(event.assoc.requestor.primitive.called_ae_title),  # type: ignore[union-attr]
        )
        with self._storage.begin(arrival) as receiving:
            receiving.write(dataset)
            kept = receiving.finish()
        if kept.stored is not None:
            self._follow(event.assoc, kept.study_instance_uid)
        return _status(SUCCESS)

    def _follow(self, association: Association, study_instance_uid: str) -> None:
        now = time.monotonic()
        with self._activities_lock:
            self._activities[association] = _Activity(study_instance_uid, now, now)


def _established(server: AssociationServer) -> list[Association]:
    """Open associations, without connections that never asked for one (a monitor's probe)."""
    return [association for association in server.active_associations if association.is_established]


def _acknowledge_at_once(association: Association) -> None:
    """Without it senders that gather small packets (Nagle) wait 40 ms an image for a delayed acknowledgement."""
    connection = _connection(association)
    if connection is None:
        return
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_QUICKACK"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    except OSError:
        return  # the peer has gone; the association ends by itself


def _connection(association: Association) -> socket.socket | None:
    transport = association.dul.socket
    return transport.socket if transport is not None else None


def _title(title: object) -> str:
    return str(title or "").strip()


def _status(status: int, comment: str = "") -> Dataset:
    response = Dataset()
    response.Status = status
    if comment:
        response.ErrorComment = comment[:64]  # (0000,0902) LO
    return response


def _refuse(status: int, error: NodeError, calling_aet: str) -> Dataset:
    log.warning("object refused", status=f"0x{status:04X}", reason=str(error), calling_aet=calling_aet)
    return _status(status, str(error))
