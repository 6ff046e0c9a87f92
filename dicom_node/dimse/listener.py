"""The verification and storage SCP (PS3.4 A and B): an image is synced and in place before Success."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection
from typing import Any, Final, Self, cast
from weakref import WeakSet

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import A_RELEASE_RQ
from pynetdicom.pdu_primitives import A_RELEASE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_node.audit import Action, AuditEvent, Outcome, Trail
from dicom_node.dimse import data_path
from dicom_node.dimse.admission import Admission, Server
from dicom_node.dimse.guard import guard
from dicom_node.dimse.services import Service, equip
from dicom_node.dimse.sop_classes import PRIOR_MESSAGE, storage_sop_classes, transfer_syntaxes
from dicom_node.dimse.tls import server_context
from dicom_node.dimse.users import Users
from dicom_node.intake.identity import RefusedError
from dicom_node.intake.storage import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION, Arrival, Receiving, Storage
from dicom_node.intake.transfers import Transfer, Transfers
from dicom_node.ledger import Ledger
from dicom_node.metrics import process as metrics
from dicom_node.settings import ListenerSettings, Settings
from dicom_node.settings.listener import User
from dicom_node.spool import Spool
from engine.errors import NodeError

# For the whole process: the stock handlers write data sets to the log.
_config.LOG_HANDLER_LEVEL = "none"

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700

log = structlog.get_logger(__name__)


class Listener:
    """A storage SCP.

    Parameters
    ----------
    settings : ListenerSettings
    spool : Spool
    ledger : Ledger
    called_aets : collection of str
        The AE titles it answers to, besides the settings' own.
    users : collection of User
        Who may ask for an association by user identity.
    services : collection of Service
        What it offers besides verification and storage.
    on_evidence : callable, optional
        Called after the end of an association that may have completed a study.
    trail : Trail, optional
        Is told of requests that are rejected.

    Raises
    ------
    SettingsError
        If a user's passcode cannot be read.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        spool: Spool,
        ledger: Ledger,
        *,
        called_aets: Collection[str] = (),
        users: Collection[User] = (),
        services: Collection[Service] = (),
        on_evidence: Callable[[], None] = lambda: None,
        trail: Trail | None = None,
    ) -> None:
        self._settings = settings
        self._trail = trail
        self._admission = Admission(
            settings, {settings.aet, *called_aets}, Users(users, required=settings.require_user)
        )
        unfit = data_path.why_not()
        if settings.fast and unfit:
            log.warning("the fast receive path is not used", reason=unfit)
        self._fast = settings.fast and not unfit
        self._storage = Storage(spool, ledger, synced=settings.durability == "instance", prompt=not self._fast)
        self._unsynced: dict[Association, list[str]] = {}
        self._services = services
        self._limits = spool.limits
        self._server: Server | None = None
        self._transfers = Transfers(ledger, on_evidence, flush=self._storage.flush)
        self._sent_by: dict[Association, Transfer] = {}
        self._over: WeakSet[Association] = WeakSet()
        self._opening = threading.Lock()

    @classmethod
    def of(
        cls,
        settings: Settings,
        spool: Spool,
        ledger: Ledger,
        services: Collection[Service],
        on_evidence: Callable[[], None],
    ) -> Self:
        """The listener of a node, in whichever of its processes."""
        return cls(
            settings.listener,
            spool,
            ledger,
            called_aets=settings.called_aets,
            users=settings.dimse_users,
            services=services,
            on_evidence=on_evidence,
            trail=Trail.of(settings),
        )

    def start(self) -> None:
        """Listen.

        Raises
        ------
        NodeError
            If the port cannot be listened at.
        SettingsError
            If the certificates cannot be used.
        """
        settings = self._settings
        tls = settings.tls
        if tls is not None:
            server_context(tls)  # said now, not to the first sender
        entity = AE(settings.aet)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION
        entity.maximum_associations = 1 << 20  # admission counts: here those that are being rejected would count too
        entity.maximum_pdu_size = settings.max_pdu_bytes
        entity.acse_timeout = settings.acse_timeout_seconds
        entity.dimse_timeout = settings.dimse_timeout_seconds
        entity.network_timeout = settings.network_timeout_seconds
        entity.add_supported_context(Verification)
        for sop_class in storage_sop_classes():
            entity.add_supported_context(sop_class, list(transfer_syntaxes()))
        services = [(kind, self._entered_before(answer)) for kind, answer, *_ in equip(entity, self._services)]
        try:
            self._server = server = Server(
                entity,
                (settings.host, settings.port),
                [
                    (evt.EVT_CONN_OPEN, self._opened),
                    (evt.EVT_CONN_CLOSE, self._closed),
                    (evt.EVT_REQUESTED, self._requested),
                    (evt.EVT_ACSE_RECV, self._asked_to_end),
                    (evt.EVT_RELEASED, self._released),
                    (evt.EVT_ABORTED, self._aborted),
                    (evt.EVT_PDU_RECV, self._heard),
                    (evt.EVT_C_ECHO, lambda _event: SUCCESS),
                    (evt.EVT_C_STORE, self._store),
                    *services,
                ],
                context=(lambda: server_context(tls)) if tls is not None else None,
                seconds=settings.acse_timeout_seconds,
                shared=settings.processes > 1,
            )
        except OSError as error:
            raise NodeError(
                f"port {settings.port} of {settings.host} cannot be listened at: {error.strerror}",
                advice="another program may listen there; set listener.port",
            ) from None
        server.start()
        self._storage.start()
        self._transfers.start()
        log.info("listening", aet=settings.aet, host=settings.host, port=settings.port, tls=tls is not None)

    def stop(self, drain_seconds: float = 0) -> None:
        """Take no more associations, let those that are open end for a while, then abort them."""
        server = self._server
        if server is None:
            return
        self._server = None
        self._admission.stop()
        server.shutdown()  # nobody gets in any more; open associations go on
        end = time.monotonic() + drain_seconds
        while _established(server) and time.monotonic() < end:
            time.sleep(0.05)
        for association in _established(server):
            association.abort()
        self._transfers.stop()
        self._storage.stop()

    def _opened(self, event: evt.Event) -> None:
        _acknowledge_at_once(event.assoc)
        connection = _connection(event.assoc)
        if connection is not None:
            # A peer that stalls within a PDU is let go; between PDUs the library itself looks at the time.
            connection.settimeout(self._settings.network_timeout_seconds)
            if self._fast:
                data_path.install(event.assoc, self)
            guard(event.assoc, self._limits.pdu_mib << 20, self._limits.data_set_mib << 20)

    def _closed(self, event: evt.Event) -> None:
        if event.assoc.requestor.primitive is None:
            # It never asked for an association (a monitor's probe). Waiting for that would hold one of the places of
            # those who do until the ACSE timeout.
            answers: Any = event.assoc.dul.to_user_queue
            answers.put(None)  # what the library takes for no answer
        with self._opening:
            self._over.add(event.assoc)
        self._admission.leave(event.assoc)
        self._sync(event.assoc)
        self._ended(event)
        self._sent_by.pop(event.assoc, None)

    def _asked_to_end(self, event: evt.Event) -> None:
        """The release is answered after this: its sender finds in the ledger what it brought.

        With durability by association it is answered only if all is on the disk.
        """
        primitive = event.primitive  # type: ignore[attr-defined]  # what this event brings
        if not isinstance(primitive, A_RELEASE):
            return
        if not self._sync(event.assoc):
            event.assoc.acse.send_abort(0)
        self._flush()

    def _flush(self) -> None:
        try:
            self._storage.flush()
        except NodeError as error:
            log.warning("received images not entered yet", reason=str(error))

    def _entered_before(self, answer: Callable[[evt.Event], Any]) -> Callable[[evt.Event], Any]:
        """A handler of a service, which finds in the ledger whatever senders were told that is here."""

        def answered(event: evt.Event) -> Any:
            self._flush()
            return answer(event)

        return answered

    def _sync(self, association: Association) -> bool:
        try:
            self._storage.spool.sync(self._unsynced.pop(association, ()))
        except NodeError as error:
            log.error("images not synced", calling_aet=_title(association.requestor.ae_title), reason=str(error))
            return False
        return True

    def _ended(self, event: evt.Event) -> None:
        transfer = self._sent_by.get(event.assoc)
        if transfer is not None:
            transfer.end()

    def _requested(self, event: evt.Event) -> None:
        association = event.assoc
        request = association.requestor.primitive
        association._server.asked(association)  # type: ignore[union-attr]  # it is ours
        rejection = self._admission.admit(association)
        if rejection is None:
            # Not when the connection opened: of one that ends before it has asked, the library may not tell.
            with self._opening:
                if association not in self._over:  # by the connection's own thread, before this one came so far
                    self._sent_by[association] = self._transfers.open()
            metrics.accepted(_title(request.calling_ae_title))  # type: ignore[union-attr]
            return
        metrics.rejected(rejection.words)
        log.warning(
            "association rejected",
            calling_aet=_title(request.calling_ae_title),  # type: ignore[union-attr]
            called_aet=_title(request.called_ae_title),  # type: ignore[union-attr]
            address=association.requestor.address,
            reason=rejection.words,
        )
        association.acse.send_reject(rejection.result, rejection.source, rejection.reason)
        association.kill()
        if self._trail is not None:
            self._trail.write(
                AuditEvent(
                    Action.ASSOCIATION_REFUSED,
                    _title(request.calling_ae_title),  # type: ignore[union-attr]
                    association.requestor.address,
                    outcome=Outcome.MINOR_FAILURE,
                    detail=rejection.words,
                )
            )

    def _released(self, event: evt.Event) -> None:
        metrics.ended("released")
        self._ended(event)

    def _aborted(self, event: evt.Event) -> None:
        metrics.ended("aborted")
        log.warning("association aborted", calling_aet=_title(event.assoc.requestor.ae_title))

    def _heard(self, event: evt.Event) -> None:
        _acknowledge_at_once(event.assoc)
        self.heard(event.assoc)
        if isinstance(event.pdu, A_RELEASE_RQ) and event.assoc in self._sent_by:
            self._sent_by[event.assoc].released = True

    def _store(self, event: evt.Event) -> Dataset:
        """Keep an object; the answer's status is one of PS3.4 table B.2-1."""
        request = cast(C_STORE, event.request)
        data = request.DataSet
        try:
            with self.begin(
                event.assoc,
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax),
                prior=self._is_prior(request),
            ) as receiving:
                receiving.write(data.getbuffer() if data is not None else b"")
                self.keep(event.assoc, receiving)
        except NodeError as error:
            return _status(*self.refuse(event.assoc, error))
        return _status(SUCCESS)

    def _is_prior(self, request: C_STORE) -> bool:
        """Whether an object comes by a C-MOVE of this node's that fetches a prior (PS3.7 9.1.1.1.6)."""
        originator = _title(request.MoveOriginatorApplicationEntityTitle)
        return request.MoveOriginatorMessageID == PRIOR_MESSAGE and originator == self._settings.aet

    # What the data path calls, and the library's way with it.

    def begin(
        self,
        association: Association,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        *,
        prior: bool = False,
    ) -> Receiving:
        """Make ready for an object."""
        arrival = Arrival(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            calling_aet=_title(association.requestor.ae_title),
            called_aet=_title(association.requestor.primitive.called_ae_title),  # type: ignore[union-attr]
            prior=prior,
        )
        return self._storage.begin(arrival)

    def keep(self, association: Association, receiving: Receiving) -> None:
        """Keep an object that has arrived whole."""
        kept = receiving.finish()
        if kept.stored is not None:
            if self._settings.durability == "association":
                self._unsynced.setdefault(association, []).append(kept.path)
            transfer = self._sent_by.get(association)
            if transfer is not None:  # it is None once the connection is closed
                transfer.image(kept.study_instance_uid, receiving.images_of_study)

    def refuse(self, association: Association, error: NodeError) -> tuple[int, str]:
        """Status and comment for an object that is not taken."""
        # Else the disk is full or failed, or the ledger did: the sender keeps the object and sends it again.
        status = error.status if isinstance(error, RefusedError) else OUT_OF_RESOURCES
        calling_aet = _title(association.requestor.ae_title)
        metrics.refused(status)
        log.warning("object refused", status=f"0x{status:04X}", reason=str(error), calling_aet=calling_aet)
        return status, str(error)[:64]  # (0000,0902) LO

    def heard(self, association: Association) -> None:
        """Bytes came."""
        transfer = self._sent_by.get(association)
        if transfer is not None:
            transfer.heard()


def _established(server: Server) -> list[Association]:
    """Open associations, without connections that never asked for one (a monitor's probe)."""
    return [association for association in server.active_associations if association.is_established]


def _acknowledge_at_once(association: Association) -> None:
    """Without it senders that gather small packets (Nagle) wait 40 ms an image for a delayed acknowledgement."""
    connection = _connection(association)
    if connection is None:
        return
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        return  # the peer has gone; the association ends by itself
    data_path.acknowledge_at_once(connection)


def _connection(association: Association) -> socket.socket | None:
    transport = association.dul.socket
    return transport.socket if transport is not None else None


def _title(title: object) -> str:
    return str(title or "").strip()


def _status(status: int, comment: str = "") -> Dataset:
    response = Dataset()
    response.Status = status
    if comment:
        response.ErrorComment = comment
    return response
