"""Retraction: delivered results are withdrawn at every destination that has them."""

from __future__ import annotations

import hashlib
from datetime import datetime

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.ledger import Ledger
from dicom_node.ledger.records import StoredResult
from dicom_node.ledger.retractions import KIND
from dicom_node.spool import Spool
from engine.errors import NodeError
from engine.study import READ_ERRORS
from sr_writer import RejectionReason, dump, write_retraction


def retract(
    ledger: Ledger, spool: Spool, study_instance_uid: str, reason: RejectionReason, created: datetime
) -> dict[str, int]:
    """Write a rejection note of what each destination has got of a study, and put it on its way there.

    Parameters
    ----------
    ledger : Ledger
    spool : Spool
    study_instance_uid : str
    reason : RejectionReason
    created : datetime
        Now, timezone aware.

    Returns
    -------
    dict of str to int
        How many results are withdrawn, by destination.

    Raises
    ------
    NodeError
        If nothing was delivered, the results are still on their way, were withdrawn already, or cannot be read.
    """
    run_id, delivered = ledger.retractions.delivered(study_instance_uid)
    made: dict[tuple[str, ...], StoredResult] = {}
    notes: dict[str, StoredResult] = {}
    for destination, results in delivered.items():
        key = tuple(result.sop_instance_uid for result in results)
        if key not in made:
            note = write_retraction([_header(spool, result) for result in results], reason, created)
            made[key] = _store(spool, run_id, note)
        notes[destination] = made[key]
    ledger.retractions.enter(run_id, notes, reason)
    return {destination: len(results) for destination, results in delivered.items()}


def _header(spool: Spool, result: StoredResult) -> Dataset:
    try:
        return dcmread(spool.path(result.path), stop_before_pixels=True)
    except READ_ERRORS as error:
        raise NodeError(f"a stored result cannot be read ({type(error).__name__})") from None


def _store(spool: Spool, run_id: str, note: Dataset) -> StoredResult:
    # A folder of its own, so that a later run does not take the note for one of the results that it supersedes.
    folder = f"{KIND}-{hashlib.sha256(note.SOPInstanceUID.encode('ascii')).hexdigest()[:12]}"
    path, digest = spool.store_result(run_id, folder, KIND, dump(note))
    return StoredResult(
        sop_instance_uid=str(note.SOPInstanceUID),
        sop_class_uid=str(note.SOPClassUID),
        series_instance_uid=str(note.SeriesInstanceUID),
        kind=KIND,
        sha256=digest,
        path=path,
    )
