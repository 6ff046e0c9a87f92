"""Retrieve SCU (PS3.4 C.4.2, C.4.3): C-MOVE to this node's listener, and C-GET on the association itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.dimse.query import Server
from dicom_node.dimse.scu import PeerError
from dicom_node.dimse.sop_classes import PRIOR_MESSAGE, storage_sop_classes
from dicom_node.intake.identity import RefusedError
from dicom_node.intake.storage import Arrival, Storage
from engine.errors import NodeError
from engine.study import READ_ERRORS

RETRIEVE_STATUS: Final[Mapping[int, tuple[str, str]]] = {
    0x0122: ("it does not take this SOP class", ""),
    0x0124: ("it does not allow this", "let this node's AE title retrieve at the peer"),
    0x0110: ("it failed to process the request", ""),
    0x0210: ("it takes the request for a duplicate", ""),
    0x0211: ("it does not know the operation", ""),
    0x0212: ("it takes an argument of the request for wrong", ""),
    0xA701: ("it is out of resources and cannot count the matches", ""),
    0xA702: ("it is out of resources and cannot send the images", ""),
    0xA801: (
        "it does not know the move destination",
        "enter this node's AE title, host and port at the peer",
    ),
    0xA900: ("the identifier does not match the SOP class", "is the peer a study root server?"),
    0xAA00: ("none of the frames asked for are in the object", ""),
    0xAA01: ("it cannot make a new object of the frames", ""),
    0xAA02: ("it cannot extract the frames", ""),
    0xAA03: ("frames were asked of an object that has none", ""),
    0xAA04: ("frames were asked for in two ways", ""),
    0xB000: ("some images could not be sent", ""),
    0xFE00: ("the retrieval was cancelled", ""),
}
"""In words, with advice: PS3.4 tables C.4-2, C.4-3 and Y.3.2, PS3.7 annex C; what is not here is unable to process."""
_TRANSIENT: Final = (0xA701, 0xA702)
_SUCCESS: Final = 0x0000
_WARNING: Final = 0xB000
_PENDING: Final = 0xFF00
_MESSAGE: Final = 1
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


@dataclass(frozen=True, slots=True)
class Progress:
    """The sub-operations of a retrieval, as the peer counts them.

    Parameters
    ----------
    remaining : int or None
        None where the peer does not say.
    """

    remaining: int | None = None
    completed: int = 0
    failed: int = 0
    warned: int = 0

    @property
    def total(self) -> int | None:
        """How many there are in all."""
        done = self.completed + self.failed + self.warned
        return None if self.remaining is None else self.remaining + done


@dataclass(frozen=True, slots=True)
class Retrieved:
    """How a retrieval ended.

    Parameters
    ----------
    completed, failed : int
        Objects that arrived, and that did not.
    status : int or None
        Of the final response; None where there is none, as in WADO-RS.
    reason : str
        In words; empty where everything arrived.
    advice : str
    retry : bool
        Whether the same may succeed later.
    cancelled : bool
    not_kept : int
        Of those that arrived, results of this node's own, which are not stored again.
    """

    completed: int
    failed: int = 0
    status: int | None = None
    reason: str = ""
    advice: str = ""
    retry: bool = False
    cancelled: bool = False
    not_kept: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything arrived."""
        return not self.reason and not self.failed

    @property
    def explained(self) -> str:
        """The reason, with the advice behind it where there is some."""
        return f"{self.reason} ({self.advice})" if self.advice else self.reason


class Cancel:
    """The wish to end a retrieval; it may come from another thread, once and for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._tell: Callable[[], None] | None = None

    @property
    def asked(self) -> bool:
        """Whether it was asked for."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask for it: the peer is told at once."""
        with self._lock:
            if not self._asked.is_set():
                self._asked.set()
                if self._tell is not None:
                    self._tell()

    def bind(self, tell: Callable[[], None]) -> None:
        """Say how the peer is told."""
        with self._lock:
            self._tell = tell
            if self._asked.is_set():
                tell()


OnProgress = Callable[[Progress], None]


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
        found = _follow(server, association, responses, model, message, on_progress, cancel or Cancel())
    if found.failed and not found.advice:
        found = replace(found, advice="does this node run, and does the peer reach its listener?")
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
    with server.associate([build_context(model), *contexts], roles=roles, handlers=handlers) as association:
        if not any(context.abstract_syntax == model for context in association.accepted_contexts):
            raise PeerError(f"{server.peer} does not take C-GET", advice='set retrieve = "move"', retry=False)
        responses = association.send_c_get(identifier, model, msg_id=_MESSAGE)
        found = _follow(server, association, responses, model, _MESSAGE, on_progress, cancel or Cancel())
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


def _follow(
    server: Server,
    association: Association,
    responses: Iterator[tuple[Dataset, Dataset | None]],
    model: str,
    message: int,
    on_progress: OnProgress,
    cancel: Cancel,
) -> Retrieved:
    """Follow the responses of a C-MOVE or C-GET to the final one."""
    peer = server.peer
    seen = Progress()

    def tell() -> None:
        if association.is_established:
            with suppress(RuntimeError, ValueError):  # it ended in this moment
                association.send_c_cancel(message, query_model=model)

    cancel.bind(tell)
    try:
        for response, _failed in responses:
            if "Status" not in response:
                break
            seen = _progress(response, seen)
            on_progress(seen)
            code = int(response.Status)
            if code != _PENDING:
                return _conclusion(server, code, seen, cancelled=cancel.asked)
    except (*READ_ERRORS, RuntimeError) as error:  # the library's, where a peer breaks off within a message
        if isinstance(error, NodeError):
            raise
        log.debug("retrieval broken off", error=type(error).__name__)
    reason = f"{peer} broke off or went silent for longer than {server.timeouts.dimse:g} s"
    return Retrieved(seen.completed + seen.warned, seen.failed, None, reason, retry=True, cancelled=cancel.asked)


def _progress(response: Dataset, before: Progress) -> Progress:
    def count(name: str, otherwise: int | None) -> int | None:
        value = response.get(f"NumberOf{name}Suboperations")
        return int(value) if value is not None else otherwise

    final = int(response.Status) != _PENDING
    return Progress(
        # PS3.7 9.1.4.1.6: absent in final responses, but for cancelled ones
        count("Remaining", 0 if final else before.remaining),
        count("Completed", before.completed) or 0,
        count("Failed", before.failed) or 0,
        count("Warning", before.warned) or 0,
    )


def _conclusion(server: Server, code: int, seen: Progress, *, cancelled: bool) -> Retrieved:
    arrived = seen.completed + seen.warned
    if code == _SUCCESS and not seen.failed:
        return Retrieved(arrived, 0, code)
    words, advice = RETRIEVE_STATUS.get(code, ("it is unable to process the request", ""))
    if code in (_WARNING, _SUCCESS):
        if not seen.failed:
            return Retrieved(arrived, 0, code)  # a warning of sub-operations that only warned: everything is there
        words, advice = f"{seen.failed} of {arrived + seen.failed} images could not be sent", ""
    reason = f"status 0x{code:04X} of {server.peer}: {words}"
    return Retrieved(
        arrived,
        seen.failed,
        code,
        reason,
        advice,
        retry=code in _TRANSIENT or code == _WARNING,
        cancelled=cancelled or code == 0xFE00,
    )
