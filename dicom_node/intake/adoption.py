"""Adoption: files that are in place in the spool without an entry in the ledger.

A listener was killed between the two: what is in place and perhaps not entered has a second name under ``incoming/``,
so that a look there finds it while the node runs (`Adopter`). Or the ledger was lost, or a power cut took its last
moments: every file is looked at before the node listens. Their senders did not hear Success or did; either way the
object is whole, synced and wanted, so it is entered, and a sender that sends it again is told that it is there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

import structlog

from dicom_node.intake.identity import identify
from dicom_node.ledger import Ledger
from dicom_node.ledger.database import DatabaseError
from dicom_node.ledger.records import ReceivedInstance
from dicom_node.spool import Spool, content_of, is_conflict, split
from engine.errors import NodeError
from engine.study import READ_ERRORS

_BATCH = 500
_LOOK_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


def adopt(spool: Spool, ledger: Ledger) -> int:
    """Enter every file that has no entry; how many. Call it before anything is received."""
    torn = spool.remove_torn()
    if torn:
        log.warning("files torn by a power cut removed; their senders did not hear Success", files=torn)
    adopted = 0
    for batch in _batches(spool.instances()):
        known = ledger.intake.known_paths(batch)
        for path in batch:
            if path in known:
                continue
            try:
                _enter(ledger, describe(spool, path))
                adopted += 1
            except NodeError as error:
                log.warning("file in the spool left aside", reason=str(error))
    if adopted:
        log.warning("files without an entry adopted", files=adopted)
    return adopted


def adopt_left(spool: Spool, ledger: Ledger) -> int:
    """Enter what processes that are gone put into place and did not enter; how many.

    Raises
    ------
    NodeError
        If the ledger fails; what is left then is found again.
    """
    adopted = 0
    for incoming in spool.left_in_place():
        try:
            received = describe(spool, incoming)
        except NodeError:
            place = None
        else:
            place = spool.place_of(incoming, received.study_instance_uid, received.sop_instance_uid)
            if place is not None and not ledger.intake.known_paths([place]):
                try:
                    _enter(ledger, replace(received, path=place))
                    adopted += 1
                except DatabaseError as error:
                    if not error.of_the_rows:
                        raise
                    log.warning("file in the spool left aside", reason=str(error))
        if place is None:  # its other name is not of this node's making: it was half written
            log.warning("file that was arriving removed")
        spool.path(incoming).unlink(missing_ok=True)
    if adopted:
        log.warning("files of a process that is gone adopted", files=adopted)
    return adopted


def _enter(ledger: Ledger, received: ReceivedInstance) -> None:
    if is_conflict(received.path):
        ledger.intake.record_conflict(received)
    else:
        ledger.intake.record(received, adopted=True)


class Adopter:
    """Adopts what a process left that was killed while the node runs on, and removes what that had half written.

    Parameters
    ----------
    spool : Spool
    ledger : Ledger
    """

    def __init__(self, spool: Spool, ledger: Ledger) -> None:
        self._spool = spool
        self._ledger = ledger
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="adopter", daemon=True)

    def start(self) -> None:
        """Look regularly, from a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                self._spool.clean()
                adopt_left(self._spool, self._ledger)
            except (NodeError, OSError) as error:
                log.warning("files of a process that is gone wait for adoption", reason=type(error).__name__)


def describe(spool: Spool, path: str) -> ReceivedInstance:
    """Make an instance's entry anew from its file.

    Raises
    ------
    NodeError
        If the file is not as the spool writes files.
    """
    meta, offset = split(spool.path(path))
    try:
        with content_of(spool.path(path), offset) as content:
            identity = identify(content, str(meta.TransferSyntaxUID))
        return ReceivedInstance(
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
            sop_class_uid=str(meta.MediaStorageSOPClassUID),
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
            calling_aet=str(meta.get("SendingApplicationEntityTitle") or ""),
            called_aet=str(meta.get("ReceivingApplicationEntityTitle") or ""),
            path=path,
        )
    except READ_ERRORS as error:
        raise NodeError(f"a file in the spool cannot be read ({type(error).__name__})") from None


def _batches(paths: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(paths)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
