"""The verification and storage SCU (PS3.4 A and B): echo a peer, and send stored files to it byte for byte.

Commands and delivery use the same one. Files go in the transfer syntax they are stored in, in one association; where a
peer refuses that, in Explicit or Implicit VR Little Endian with the same content.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_node.dimse.association import MAX_CONTEXTS, Peer, PeerError, Timeouts, associate
from dicom_node.dimse.send_path import SendPath, usable
from dicom_node.dimse.status import Kind, meaning_of
from dicom_node.dimse.stored_file import StoredFile, find_files
from dicom_node.dimse.transcoding import FALLBACKS, TranscodingError, transcode
from engine.study import READ_ERRORS

__all__ = [
    "SUCCESS",
    "Peer",
    "PeerError",
    "SendResult",
    "StoredFile",
    "Timeouts",
    "associate",
    "echo",
    "find_files",
    "send",
]

SUCCESS: Final = 0x0000
_TIMEOUTS: Final = Timeouts()
_BROKEN_OFF: Final = "the peer broke the association off"


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
        """Whether the peer has the object: success, or a warning about what it stored."""
        return self.status is not None and meaning_of(self.status).stored

    @classmethod
    def of(cls, file: StoredFile, status: int) -> SendResult:
        """The result that a status means. The words are the Standard's: the peer's comment may quote the data set."""
        meaning = meaning_of(status)
        if meaning.kind is Kind.SUCCESS:
            return cls(file, status)
        reason = f"status 0x{status:04X}, {meaning.words}" + (f" ({meaning.advice})" if meaning.advice else "")
        return cls(file, status, reason, retry=meaning.kind is Kind.TRANSIENT)


def echo(
    peer: Peer,
    calling_aet: str = "MEDREGA",
    timeouts: Timeouts = _TIMEOUTS,
    *,
    tls: ssl.SSLContext | None = None,
) -> float:
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
    with associate(peer, [build_context(Verification)], calling_aet, timeouts, tls=tls) as association:
        if not association.accepted_contexts:
            raise PeerError(f"{peer} does not take C-ECHO", retry=False, answered=True)
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
    timeouts: Timeouts = _TIMEOUTS,
    *,
    tls: ssl.SSLContext | None = None,
    fast: bool = True,
    on_result: Callable[[SendResult], None] | None = None,
) -> list[SendResult]:
    """Send files by C-STORE in one association (more only where 128 presentation contexts do not suffice).

    Parameters
    ----------
    files : sequence of StoredFile
    peer : Peer
    calling_aet : str
    timeouts : Timeouts
    tls : ssl.SSLContext, optional
        In the clear without.
    fast : bool
        By the node's own data path (`dicom_node.dimse.send_path`) where it can be used.
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
        with associate(peer, contexts, calling_aet, timeouts, tls=tls) as association:
            with _Sender(association, fast=fast) as sender:
                lost = False
                for file in batch:
                    # The library takes a moment to see that a peer is gone; a file sent then would wait in vain.
                    result = SendResult(file, None, _BROKEN_OFF, retry=True) if lost else sender.store(file)
                    lost = result.status is None and result.retry
                    results.append(result)
                    if on_result is not None:
                        on_result(result)
            if lost:
                association.abort()
    return results


class _Sender:
    """Sends by one association: a context manager."""

    def __init__(self, association: Association, *, fast: bool) -> None:
        self._association = association
        self._accepted: Mapping[tuple[str, str], int] = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0])): int(context.context_id or 0)
            for context in association.accepted_contexts
        }
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._path = self._stack.enter_context(SendPath(association)) if fast and usable(association) else None

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def store(self, file: StoredFile) -> SendResult:
        if not self._association.is_established:
            return SendResult(file, None, _BROKEN_OFF, retry=True)
        try:
            as_sent = self._acceptable(file)
        except TranscodingError as error:
            return SendResult(file, None, f"the peer does not take its transfer syntax, and {error}")
        if as_sent is None:
            return SendResult(
                file,
                None,
                "the peer does not take this SOP class in its transfer syntax, nor in those that it can be had in",
            )
        try:
            if self._path is not None:
                context_id = self._accepted[as_sent.sop_class_uid, as_sent.transfer_syntax_uid]
                status = self._path.store(as_sent, context_id)
            else:
                status = self._association.send_c_store(as_sent.path).get("Status")
        except READ_ERRORS as error:
            return SendResult(file, None, f"the file cannot be read ({type(error).__name__})")
        finally:
            if as_sent is not file:
                as_sent.path.unlink(missing_ok=True)
        if status is None:
            return SendResult(file, None, "the peer did not answer in time or broke the association off", retry=True)
        return SendResult.of(file, int(status))

    def _acceptable(self, file: StoredFile) -> StoredFile | None:
        """The file, or the same object in a transfer syntax that the peer takes; None if it takes none."""
        for syntax in (file.transfer_syntax_uid, *FALLBACKS):
            if (file.sop_class_uid, syntax) in self._accepted:
                if syntax == file.transfer_syntax_uid:
                    return file
                if self._folder is None:
                    self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="medrega-")))
                return transcode(file, syntax, self._folder)
        return None


def _batches(files: Sequence[StoredFile]) -> Iterator[tuple[list[StoredFile], list[PresentationContext]]]:
    """Cut the files so that the contexts of each part fit one association; one transfer syntax a context (PS3.5 10)."""
    batch: list[StoredFile] = []
    pairs: dict[tuple[str, str], None] = {}
    for file in files:
        wanted = dict.fromkeys((file.sop_class_uid, syntax) for syntax in (file.transfer_syntax_uid, *FALLBACKS))
        if len(pairs | wanted) > MAX_CONTEXTS:
            yield batch, [build_context(*pair) for pair in pairs]
            batch, pairs = [], {}
        batch.append(file)
        pairs |= wanted
    if batch:
        yield batch, [build_context(*pair) for pair in pairs]
