"""Unified Procedure Step SCU (PS3.4 CC): a pull performer's services by DIMSE, and the events that it is told of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import structlog
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepWatch,
)

from dicom_node.dimse.query import Server, find
from dicom_node.dimse.scu import PeerError
from engine.errors import NodeError
from engine.study import READ_ERRORS

UPS_STATUS: Final[Mapping[int, str]] = {
    0x0110: "it failed to process the request",
    0x0112: "it has no such workitem",
    0x0122: "it does not take this SOP class",
    0x0124: "it does not allow this",
    0xA700: "it is out of resources",
    0xC300: "the workitem may no longer be updated",
    0xC301: "the transaction UID is not the workitem's",
    0xC302: "the workitem is already in progress",
    0xC303: "a workitem only becomes SCHEDULED when it is made",
    0xC304: "the workitem lacks what its final state demands",
    0xC307: "it has no such workitem",
    0xC308: "it does not know this node's AE title",
    0xC310: "the workitem is not in progress yet",
    0xC311: "the workitem is completed already",
    0xC312: "the performer cannot be reached",
    0xC313: "the performer chooses not to cancel",
    0xC314: "the action does not fit the workitem",
    0xC315: "it sends no event reports",
}
"""PS3.4 tables CC.2.1-2, CC.2.2-2, CC.2.3-3, CC.2.6-2, and PS3.7 annex C."""
WRONG_TRANSACTION: Final = 0xC301
CONFLICTS: Final = (0xC300, WRONG_TRANSACTION, 0xC302, 0xC310, 0xC311)
"""What says that a workitem is not, or no longer, in a state in which this performer may work on it."""
UNKNOWN: Final = (0x0112, 0xC307)
_CHANGE_STATE: Final = 1
_SUBSCRIBE: Final = 3
_CANCEL_REQUESTED: Final = 2
"""Event type (PS3.4 table CC.2.4-1)."""
_WANTED: Final = (
    "InputInformationSequence",
    "InputReadinessState",
    "ProcedureStepState",
    "ReferencedRequestSequence",
    "ScheduledProcessingParametersSequence",
    "ScheduledWorkitemCodeSequence",
    "StudyInstanceUID",
)

log = structlog.get_logger(__name__)


class UpsError(PeerError):
    """A worklist refuses what it is asked for.

    Parameters
    ----------
    status : int or None
        Of the response; None where none came.
    """

    def __init__(self, message: str, *, status: int | None = None, retry: bool = True) -> None:
        super().__init__(message, retry=retry)
        self.status = status

    @property
    def lost(self) -> bool:
        """Whether it says that the workitem is not this performer's, or no longer."""
        return self.status in CONFLICTS or self.status in UNKNOWN


class DimseUps:
    """A worklist by DIMSE; see `dicom_node.worklist.ups.Ups`.

    Parameters
    ----------
    server : callable
        The worklist with the certificates of now.
    """

    def __init__(self, server: Callable[[], Server]) -> None:
        self._connect = server

    @property
    def _server(self) -> Server:
        return self._connect()

    def find(self, keys: Dataset) -> list[Dataset]:
        """Workitems that match (PS3.4 CC.2.8)."""
        return find(self._server, keys, UnifiedProcedureStepPull)

    def get(self, uid: str) -> Dataset:
        """A workitem's attributes (CC.2.7)."""
        tags = [Tag(keyword) for keyword in _WANTED]
        with self._pull() as association:
            status, found = association.send_n_get(
                tags, UnifiedProcedureStepPush, UID(uid), meta_uid=UnifiedProcedureStepPull
            )
            self._check(status)
        if found is None:
            raise UpsError(f"{self._server.peer} answered with a workitem that cannot be decoded", retry=False)
        return found

    def change_state(self, uid: str, state: str, transaction_uid: str) -> None:
        """IN PROGRESS, COMPLETED or CANCELED (CC.2.1)."""
        information = Dataset()
        information.TransactionUID = transaction_uid
        information.ProcedureStepState = state
        self._action(uid, _CHANGE_STATE, information, UnifiedProcedureStepPull)

    def update(self, uid: str, transaction_uid: str, changes: Dataset) -> None:
        """Change a claimed workitem's attributes (CC.2.6)."""
        modified = Dataset()
        modified.update(changes)
        modified.TransactionUID = transaction_uid
        with self._pull() as association:
            status, _ = association.send_n_set(
                modified, UnifiedProcedureStepPush, UID(uid), meta_uid=UnifiedProcedureStepPull
            )
            self._check(status)

    def subscribe(self, uid: str, aet: str) -> None:
        """Ask to be told of a workitem's events at an AE title (CC.2.3)."""
        information = Dataset()
        information.ReceivingAE = aet
        information.DeletionLock = "FALSE"
        self._action(uid, _SUBSCRIBE, information, UnifiedProcedureStepWatch)

    def _action(self, uid: str, action: int, information: Dataset, context: str) -> None:
        with self._associate(context) as association:
            status, _ = association.send_n_action(
                information, action, UnifiedProcedureStepPush, UID(uid), meta_uid=context
            )
            self._check(status)

    def _pull(self) -> AbstractContextManager[Association]:
        return self._associate(UnifiedProcedureStepPull)

    @contextmanager
    def _associate(self, sop_class: str) -> Iterator[Association]:
        try:
            with self._server.associate([build_context(sop_class)]) as association:
                yield association
        except (*READ_ERRORS, RuntimeError) as error:  # the library's, where a peer breaks off within a message
            if isinstance(error, NodeError):
                raise
            raise UpsError(f"{self._server.peer} broke off ({type(error).__name__})") from None

    def _check(self, response: Dataset) -> None:
        peer = self._server.peer
        if "Status" not in response:
            raise UpsError(f"{peer} broke off or did not answer in time")
        status = int(response.Status)
        if status in (0x0000, 0x0001) or status & 0xF000 == 0xB000:  # 0xB304, 0xB306: it is in that state already
            return
        words = UPS_STATUS.get(status, "it is unable to process the request")
        raise UpsError(f"status 0x{status:04X} of {peer}: {words}", status=status, retry=status in (0x0110, 0xA700))


class UpsEvents:
    """The UPS Event SOP class at the listener (PS3.4 CC.2.4): worklists tell of workitems that were subscribed to.

    Parameters
    ----------
    ask_cancel : callable
        Called with a workitem's UID where someone asks that it be canceled; whether it is one of this node's.
    """

    sop_classes: tuple[str, ...] = (UnifiedProcedureStepEvent,)

    def __init__(self, ask_cancel: Callable[[str], bool]) -> None:
        self._ask_cancel = ask_cancel

    def equip(self, entity: AE) -> list[evt.EventHandlerType]:
        """Have a listener take reports; returns its handlers."""
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        entity.add_supported_context(UnifiedProcedureStepEvent, syntaxes, scu_role=True, scp_role=True)
        return [(evt.EVT_N_EVENT_REPORT, self._reported)]

    def _reported(self, event: evt.Event) -> tuple[int, None]:
        """Take a report; of states and progress the worklist itself is asked."""
        uid = str(getattr(event.request, "AffectedSOPInstanceUID", "") or "")
        if event.event_type == _CANCEL_REQUESTED:
            try:
                known = self._ask_cancel(uid)
            except NodeError as error:
                log.warning("a request to cancel was not kept", workitem=uid, reason=str(error))
                return 0x0110, None
            log.info("a workitem is to be canceled", workitem=uid, known=known)
        return 0x0000, None
