"""Pulling: a study is fetched from its source on request, and queued as soon as all of it has arrived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from dicom_node.dimse.suboperations import Cancel, OnProgress, Progress, Retrieved
from dicom_node.intake.storage import Storage
from dicom_node.settings import Settings
from dicom_node.settings.sources import Source
from dicom_node.sources.archive import open_archive
from dicom_node.sources.counts import expected_instances
from engine.errors import NodeError

log = structlog.get_logger(__name__)


def pull(
    settings: Settings,
    source: Source,
    study_instance_uid: str,
    storage: Storage,
    *,
    series_instance_uids: Sequence[str] = (),
    entry: str | None = None,
    on_progress: OnProgress = lambda _: None,
    cancel: Cancel | None = None,
) -> Retrieved:
    """Fetch a study from a source.

    Parameters
    ----------
    settings : Settings
    source : Source
    study_instance_uid : str
    storage : Storage
        Of this node. Objects of a C-MOVE come in at its listener, which must run.
    series_instance_uids : sequence of str
        Only these series; the whole study without.
    entry : str, optional
        Entry point (AE title of this node) that the images count as sent to; the listener's own without.
    on_progress : callable, optional
    cancel : Cancel, optional

    Returns
    -------
    Retrieved
        How it ended; when everything arrived, the study is complete and waits no quiet time.

    Raises
    ------
    NodeError
        If the source cannot be reached or refuses to be asked, or has no such study.
    """
    calling_aet = settings.listener.aet
    expected = expected_instances(source, study_instance_uid, calling_aet)
    if expected is None:
        raise NodeError(f"{source.name} has no study {study_instance_uid}")
    on_progress(Progress(remaining=expected if not series_instance_uids else None))
    found = open_archive(source, calling_aet).retrieve(
        study_instance_uid, series_instance_uids, storage, entry or calling_aet, on_progress, cancel or Cancel()
    )
    if found.ok and not series_instance_uids and found.completed < expected:
        reason = f"{found.completed} of the {expected} images that {source.name} counts arrived"
        found = replace(found, failed=expected - found.completed, reason=reason, retry=True)
    log.info(
        "pulled",
        study=study_instance_uid,
        source=source.name,
        completed=found.completed,
        failed=found.failed,
        reason=found.reason,
    )
    if found.ok and not series_instance_uids:
        storage.ledger.intake.close(study_instance_uid, f"all {found.completed} images fetched from {source.name}")
    return found
