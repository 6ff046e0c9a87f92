"""Retrieve SCU (PS3.4 C.4.2, C.4.3): C-MOVE to this node's listener, and C-GET on the association itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG4HP41,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import StoragePresentationContexts, build_context, build_role, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.dimse.query import Server
from dicom_node.dimse.scu import PeerError
from dicom_node.dimse.sop_classes import PRIOR_MESSAGE, storage_sop_classes
from dicom_node.dimse.suboperations import Cancel, OnProgress, Retrieved, follow
from dicom_node.intake.identity import RefusedError
from dicom_node.intake.storage import Arrival, Storage
from engine.errors import NodeError

_MESSAGE: Final = 1
_SUCCESS: Final = 0x0000
_CONTEXTS: Final = 127  # 128 of PS3.8 9.3.2.2, one of which is the retrieval's own
_SYNTAXES: Final = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2K,
    RLELossless,
    MPEG4HP41,
)
"""Those that archives keep images in. With all of them an association request is so long that servers refuse it."""

log = structlog.get_logger(__name__)


def move(
    server: Server,
    identifier: Dataset,
    destination: str,
    *,
    prior: bool = False,
    on_progress: OnProgress = lambda _: None,
    cancel: Cancel | None = None,
) -> Retrieved:
    """Have a peer send objects to an AE title of this node, whose listener must run (PS3.4 C.4.2).

    Parameters
    ----------
    server : Server
    identifier : Dataset
    destination : str
    prior : bool
        Whether they are to stand beside another study, and are no study of their own.
    on_progress, cancel : optional

    Raises
    ------
    PeerError
        If no association comes about.
    """
    model = StudyRootQueryRetrieveInformationModelMove
    with server.associate([build_context(model)]) as association:
        message = PRIOR_MESSAGE if prior else _MESSAGE
        responses = association.send_c_move(identifier, destination, model, msg_id=message)
        found = follow(server, association, responses, model, message, on_progress, cancel or Cancel())
    if found.failed and not found.advice:
        found = replace(found, advice="does this node run, and does the peer reach its listener?")
    elif (found.status or 0) & 0xF000 == 0xC000 and not found.completed:  # some say so instead of 0xA801
        found = replace(found, advice=f"has the peer {destination} among its destinations, with this node's address?")
    return found


def get(
    server: Server,
    identifier: Dataset,
    storage: Storage,
    called_aet: str,
    *,
    study_instance_uid: str = "",
    prior: bool = False,
    sop_classes: Sequence[str] = (),
    on_progress: OnProgress = lambda _: None,
    cancel: Cancel | None = None,
) -> Retrieved:
    """Have a peer send objects on this association (PS3.4 C.4.3); they come in through `Storage`.

    Parameters
    ----------
    server : Server
    identifier : Dataset
    storage : Storage
    called_aet : str
        Entry point of this node that they count as having come by.
    study_instance_uid : str
        The study that they must belong to; any without.
    prior : bool
        As of `move`.
    sop_classes : sequence of str
        Those that the study has, where that is known: each is proposed in every transfer syntax by itself, so that
        objects come as they are stored. Otherwise the common ones, each with the peer's choice of transfer syntax.
    on_progress, cancel : optional

    Raises
    ------
    PeerError
        If no association comes about.
    """
    model = StudyRootQueryRetrieveInformationModelGet
    contexts = _storage_contexts(sop_classes)
    # This side is the storage SCP of an association that it asks for (PS3.7 D.3.3.4).
    roles = [build_role(uid, scp_role=True) for uid in dict.fromkeys(str(c.abstract_syntax) for c in contexts)]
    incoming = _Incoming(storage, server.peer.aet, called_aet, study_instance_uid, prior)
    handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, incoming.store)]
    longest = storage.spool.limits.data_set_mib << 20
    with server.associate(
        [build_context(model), *contexts], roles=roles, handlers=handlers, longest_object=longest
    ) as association:
        if not any(context.abstract_syntax == model for context in association.accepted_contexts):
            raise PeerError(f"{server.peer} does not take C-GET", advice='set retrieve = "move"', retry=False)
        responses = association.send_c_get(identifier, model, msg_id=_MESSAGE)
        found = follow(server, association, responses, model, _MESSAGE, on_progress, cancel or Cancel())
    found = replace(found, not_kept=incoming.not_kept)
    if incoming.complaint and not found.cancelled:
        found = replace(found, reason=incoming.complaint, retry=incoming.retry, failed=max(found.failed, 1))
    return found


class _Incoming:
    """The storage SCP of a C-GET (PS3.4 C.4.3.2: statuses of the storage service class)."""

    def __init__(
        self, storage: Storage, calling_aet: str, called_aet: str, study_instance_uid: str, prior: bool
    ) -> None:
        self._storage = storage
        self._prior = prior
        self._calling_aet = calling_aet
        self._called_aet = called_aet
        self._study_instance_uid = study_instance_uid
        self.not_kept = 0
        self.complaint = ""
        self.retry = False

    def store(self, event: evt.Event) -> int:
        request = cast(C_STORE, event.request)
        arrival = Arrival(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            calling_aet=self._calling_aet,
            called_aet=self._called_aet,
            study_instance_uid=self._study_instance_uid,
            prior=self._prior,
        )
        try:
            with self._storage.begin(arrival) as receiving:
                receiving.write(request.DataSet.getbuffer() if request.DataSet is not None else b"")
                kept = receiving.finish()
        except NodeError as error:
            self.complaint = f"an object was refused: {error}"
            self.retry = error.retry
            status = error.status if isinstance(error, RefusedError) else 0xA700
            log.warning("object refused", status=f"0x{status:04X}", reason=str(error), calling_aet=self._calling_aet)
            return status
        self.not_kept += kept.stored is None and not self._prior
        return _SUCCESS


def _storage_contexts(sop_classes: Sequence[str]) -> list[PresentationContext]:
    known = [uid for uid in sop_classes if uid in storage_sop_classes()]
    if known and len(known) * len(_SYNTAXES) <= _CONTEXTS:
        return [build_context(uid, syntax) for uid in known for syntax in _SYNTAXES]
    if not known:
        common = [str(context.abstract_syntax) for context in StoragePresentationContexts]
        known = sorted(common, key=lambda uid: "Image Storage" not in UID(uid).name)
    return [build_context(uid, list(_SYNTAXES)) for uid in known[:_CONTEXTS]]
