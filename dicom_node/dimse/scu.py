"""The verification and storage SCU (PS3.4 A and B): echo a peer, and send stored files to it byte for byte.

Commands and delivery use the same one. Files go in the transfer syntax they are stored in, in one association; only
where a peer refuses Explicit VR Little Endian are they encoded anew in the default transfer syntax (PS3.5 10.1).
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from dicom_node.settings.sources import Endpoint
from engine.errors import NodeError, NotDicomError, SettingsError

# pynetdicom keeps these for the whole process: files are streamed instead of parsed, and its stock handlers, which
# write data sets to the log, are never bound.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.LOG_HANDLER_LEVEL = "none"

SUCCESS = 0x0000
_BROKEN_OFF = "the peer broke the association off"
_MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: odd one-byte identifiers


class PeerError(NodeError):
    """A peer cannot be reached, refuses the association, or breaks it off.

    Parameters
    ----------
    retry : bool
        False for a refusal that stays until someone changes the settings of either side.
    """

    def __init__(self, message: str, *, advice: str = "", retry: bool = True) -> None:
        super().__init__(message, advice=advice)
        self.retry = retry


@dataclass(frozen=True, slots=True)
class Peer:
    """An application entity on the network."""

    aet: str
    host: str
    port: int

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
            raise SettingsError(f"{endpoint.name} has no AE title and port: it is reached by {endpoint.protocol}")
        return cls(endpoint.aet, endpoint.host, endpoint.port)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a peer, in seconds: for its answer to the association request, and to each message."""

    association: float = 30
    dimse: float = 60


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A DICOM file as its file meta information (PS3.10 7.1) describes it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @classmethod
    def open(cls, path: Path) -> StoredFile:
        """Read the file meta information only.

        Raises
        ------
        NotDicomError
            If there is none, or it lacks one of the three UIDs.
        """
        try:
            meta = read_file_meta_info(path)
        except OSError as error:
            raise NotDicomError(f"cannot be read ({error.strerror})") from None
        except (InvalidDicomError, ValueError, NotImplementedError):
            raise NotDicomError("not a DICOM file") from None
        keywords = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
        uids = [str(meta.get(keyword, "")) for keyword in keywords]
        if not all(uids):
            missing = ", ".join(keyword for keyword, uid in zip(keywords, uids, strict=True) if not uid)
            raise NotDicomError(f"its file meta information lacks {missing}")
        return cls(path, *uids)


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of one file.

    Parameters
    ----------
    status : int or None
        The C-STORE response's status (PS3.4 B.2.3); None where none came.
    reason : str
        In words, empty for plain success.
    retry : bool
        Whether sending the same file again may succeed.
    """

    file: StoredFile
    status: int | None
    reason: str = ""
    retry: bool = False

    @property
    def ok(self) -> bool:
        """Whether the peer has the object: success, or a warning that it stored it with changes."""
        return self.status is not None and code_to_category(self.status) in ("Success", "Warning")


def find_files(paths: Iterable[Path]) -> tuple[list[StoredFile], list[tuple[Path, NotDicomError]]]:
    """DICOM files among files and folders, in order of their names, and those that are none."""
    files: list[StoredFile] = []
    refused: list[tuple[Path, NotDicomError]] = []
    for given in paths:
        for path in sorted(p for p in given.rglob("*") if p.is_file()) if given.is_dir() else [given]:
            try:
                files.append(StoredFile.open(path))
            except NotDicomError as error:
                refused.append((path, error))
    return files, refused


def echo(peer: Peer, calling_aet: str = "MEDREGA", timeouts: Timeouts = Timeouts()) -> float:
    """Verify a peer by C-ECHO.

    Returns
    -------
    float
        Seconds from connecting to the answer.

    Raises
    ------
    PeerError
    """
    begin = time.perf_counter()
    with associate(peer, [build_context(Verification)], calling_aet, timeouts) as association:
        if not association.accepted_contexts:
            raise PeerError(f"{peer} does not take C-ECHO", retry=False)
        response = association.send_c_echo()
        if "Status" not in response:
            raise PeerError(f"{peer} accepted the association and did not answer C-ECHO")
        if response.Status != SUCCESS:
            raise PeerError(f"{peer} answered C-ECHO with status 0x{response.Status:04X}")
    return time.perf_counter() - begin


def send(
    files: Sequence[StoredFile],
    peer: Peer,
    calling_aet: str = "MEDREGA",
    timeouts: Timeouts = Timeouts(),
    *,
    on_result: Callable[[SendResult], None] | None = None,
) -> list[SendResult]:
    """Send files by C-STORE in one association (more only where 128 presentation contexts do not suffice).

    Parameters
    ----------
    on_result : callable, optional
        Called after each file, for progress.

    Returns
    -------
    list of SendResult
        One for each file, in order; a refusal of one file does not stop the others. After the peer broke the
        association off, the rest have no status and may be tried again.

    Raises
    ------
    PeerError
        If no association comes about.
    """
    results: list[SendResult] = []
    for batch, contexts in _batches(files):
        with associate(peer, contexts, calling_aet, timeouts) as association:
            lost = False
            for file in batch:
                # The library takes a moment to see that a peer is gone; a file sent in that moment waits in vain.
                result = SendResult(file, None, _BROKEN_OFF, retry=True) if lost else _store(association, file)
                lost = result.status is None and result.retry
                results.append(result)
                if on_result is not None:
                    on_result(result)
    return results


def _store(association: Association, file: StoredFile) -> SendResult:
    if not association.is_established:
        return SendResult(file, None, _BROKEN_OFF, retry=True)
    accepted = {
        (str(context.abstract_syntax), str(context.transfer_syntax[0])) for context in association.accepted_contexts
    }
    as_stored = (file.sop_class_uid, file.transfer_syntax_uid) in accepted
    if not as_stored and (
        file.transfer_syntax_uid != ExplicitVRLittleEndian
        or (file.sop_class_uid, str(ImplicitVRLittleEndian)) not in accepted
    ):
        return SendResult(file, None, "the peer does not take this SOP class in this transfer syntax")
    try:
        response = association.send_c_store(file.path if as_stored else pydicom.dcmread(file.path))
    except (OSError, InvalidDicomError) as error:
        return SendResult(file, None, f"the file cannot be read ({type(error).__name__})")
    if "Status" not in response:
        return SendResult(file, None, "the peer did not answer in time or broke the association off", retry=True)
    status = int(response.Status)
    if status == SUCCESS:
        return SendResult(file, status)
    # The Standard's words; the peer's own comment may quote the data set.
    words = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", "not in the Standard"))[1]
    # 0xA7xx is out of resources (PS3.4 table B.2-1): the one refusal that passes by itself.
    return SendResult(file, status, f"status 0x{status:04X}, {words.lower()}", retry=status & 0xFF00 == 0xA700)


def _batches(files: Sequence[StoredFile]) -> Iterator[tuple[list[StoredFile], list[PresentationContext]]]:
    """Cut the files so that the contexts of each part fit one association."""
    batch: list[StoredFile] = []
    pairs: dict[tuple[str, str], None] = {}
    for file in files:
        wanted = {(file.sop_class_uid, file.transfer_syntax_uid): None}
        if file.transfer_syntax_uid == ExplicitVRLittleEndian:
            wanted[file.sop_class_uid, str(ImplicitVRLittleEndian)] = None
        if len(pairs | wanted) > _MAX_CONTEXTS:
            yield batch, [build_context(*pair) for pair in pairs]
            batch, pairs = [], {}
        batch.append(file)
        pairs |= wanted
    if batch:
        yield batch, [build_context(*pair) for pair in pairs]


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

    Raises
    ------
    PeerError
        If the peer cannot be reached, rejects the association or aborts it.
    """
    entity = AE(calling_aet)
    entity.connection_timeout = entity.acse_timeout = timeouts.association
    entity.dimse_timeout = entity.network_timeout = timeouts.dimse
    connected: list[str] = []

    def opened(event: evt.Event) -> None:
        connected.append(peer.host)
        transport = event.assoc.dul.socket
        if transport is not None and transport.socket is not None:
            # Without it each message waits for the peer's delayed acknowledgement, some 45 ms.
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=list(islice(contexts, _MAX_CONTEXTS)),
            ae_title=peer.aet,
            evt_handlers=[(evt.EVT_CONN_OPEN, opened), *handlers],
            ext_neg=[*roles],
            tls_args=(tls, peer.host) if tls is not None else None,
        )
    except OSError:  # the library looks the name up outside of what it catches; a name server comes back, as peers do
        raise PeerError(
            f"the host name of {peer} cannot be resolved", advice="is it right, and does DNS work?"
        ) from None
    if not association.is_established:
        raise _refusal(association, peer, bool(connected))
    try:
        yield association
    except BaseException:  # an association left open would hold one of the peer's places, whatever went wrong
        association.abort()
        raise
    if association.is_established:
        association.release()


def _refusal(association: Association, peer: Peer, connected: bool) -> PeerError:
    if not connected:
        return PeerError(f"{peer} cannot be reached", advice="is it running, and are host, port and firewall right?")
    if association.rejected_contexts and not association.accepted_contexts:
        return PeerError(f"{peer} takes none of these SOP classes and transfer syntaxes", retry=False)
    if association.is_rejected:
        answer = association.acceptor.primitive
        permanent = getattr(answer, "result", None) == 0x01
        reason = getattr(answer, "reason_str", "no reason given").lower()
        advice = ""
        if "calling ae" in reason:
            advice = f"let {association.requestor.ae_title} in at the peer"
        elif "called ae" in reason:
            advice = f"is {peer.aet} its right AE title?"
        return PeerError(f"{peer} rejected the association: {reason}", advice=advice, retry=not permanent)
    return PeerError(f"{peer} broke the association request off or did not answer it")
