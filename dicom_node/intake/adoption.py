"""Adoption: files that are in place in the spool without an entry in the ledger.

A listener was killed between the two, or the ledger's disk lost its last moments. Their senders did not hear Success or
did; either way the object is whole, synced and wanted, so it is entered, and a sender that sends it again is told that
it is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import structlog

from dicom_node.intake.identity import identify
from dicom_node.ledger import Ledger
from dicom_node.ledger.records import ReceivedInstance
from dicom_node.spool import Spool, content_of, is_conflict, split
from engine.errors import NodeError
from engine.study import READ_ERRORS

_BATCH = 500

log = structlog.get_logger(__name__)


def adopt(spool: Spool, ledger: Ledger) -> int:
    """Enter every file that has no entry; how many. Call it before anything is received."""
    adopted = 0
    for batch in _batches(spool.instances()):
        known = ledger.intake.known_paths(batch)
        for path in batch:
            if path in known:
                continue
            try:
                received = describe(spool, path)
                if is_conflict(path):
                    ledger.intake.record_conflict(received)
                else:
                    ledger.intake.record(received, adopted=True)
                adopted += 1
            except NodeError as error:
                log.warning("file in the spool left aside", reason=str(error))
    if adopted:
        log.warning("files without an entry adopted", files=adopted)
    return adopted


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
