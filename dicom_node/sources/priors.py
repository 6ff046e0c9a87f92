"""Fetching priors: the newest earlier study of the same patient, modality and part of the body, at most one.

The patient's identifiers are taken from the images' headers when they are needed, and stand nowhere else: not in the
ledger, the log or a message. A prior is set aside in the spool while it is used: it opens no run, and is never read as
a study of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Final

import structlog
from pydicom.dataset import Dataset

from dicom_node.dimse.suboperations import Cancel, OnProgress, Progress
from dicom_node.intake.storage import Storage
from dicom_node.ledger import Ledger
from dicom_node.ledger.states import ACTIVE
from dicom_node.process import new_owner
from dicom_node.settings import Settings, Source
from dicom_node.sources.archive import Archive, open_archive
from dicom_node.spool import Spool
from engine.errors import NodeError
from engine.plan import Plan, body_part_of, mismatch
from engine.priors import Prior, moment_of, patient_mismatch
from engine.study import Study, load_studies

_MOST_LOOKED_AT: Final = 5
"""Earlier studies whose series are asked for, the newest first."""
_LEASE_SECONDS: Final = 60.0
_SERIES: Final = ("SeriesInstanceUID", "Modality", "BodyPartExamined")
_PATIENT: Final = ("IssuerOfPatientID", "PatientBirthDate", "PatientSex")

log = structlog.get_logger(__name__)


@contextmanager
def prior_of(
    settings: Settings, ledger: Ledger, spool: Spool | None, study: Study, plan: Plan, check: Callable[[], None]
) -> Iterator[Prior]:
    """The prior of a study, as files of this machine for as long as the block lasts.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    spool : Spool or None
        None on a worker that has no folder in common with the listener: it gets no priors.
    study : Study
    plan : Plan
        By which the study is read; it says what the prior must show too.
    check : callable
        Called while it is fetched; what it raises ends the fetching and goes on to the caller.
    """
    source = next((source for source in settings.sources if source.priors), None)
    if source is None:
        yield Prior(None, "no source of priors is set")
        return
    if spool is None:
        yield Prior(None, "this worker shares no folder with the listener, and fetches no priors")
        return
    fetched: str | None = None
    owner = new_owner()
    try:
        try:
            archive = open_archive(source, settings.listener.aet)
            uid, series = _choose(archive, study, plan)
            _reserve(ledger, uid, owner, check)
            fetched = uid

            def seen(_progress: Progress) -> None:
                check()
                ledger.leases.take(_lease_key(uid), owner, _LEASE_SECONDS)

            prior = Prior(_fetch(settings, archive, source, ledger, spool, uid, series, seen))
            log.info("prior fetched", prior=uid, source=source.name)
        except _NoPriorError as none:
            prior = Prior(None, str(none))
        except NodeError as error:
            log.warning("prior not fetched", source=source.name, reason=str(error))
            prior = Prior(None, f"it could not be fetched: {error}")
        yield prior
    finally:
        if fetched is not None:
            spool.remove_prior(fetched)
            ledger.leases.drop(_lease_key(fetched), owner)


def _lease_key(study_instance_uid: str) -> str:
    """Of a lease on a prior; leases are not sealed, and the UID leads to the patient."""
    return f"prior:{sha256(study_instance_uid.encode()).hexdigest()}"


class _NoPriorError(NodeError):
    """There is none, and why."""


def _choose(archive: Archive, study: Study, plan: Plan) -> tuple[str, list[str]]:
    """The earlier study that fits best by what the archive says of it, and those of its series that fit."""
    header = study.headers[0]
    patient, moment = str(header.get("PatientID") or "").strip(), moment_of(header)
    if not patient or not moment:
        raise _NoPriorError("the study has no Patient ID, or no date")
    if any(character in patient for character in "*?\\"):  # they would match others too (PS3.4 C.2.2.2.4)
        raise _NoPriorError("the study's Patient ID cannot be asked for")
    wanted = {(one.modality, body_part_of(one.header)) for one in study.instances if mismatch(plan.match, one) is None}
    values = {"PatientID": patient, "StudyDate": f"-{moment.split('.')[0]}"}
    found = archive.query("STUDY", values, ["StudyInstanceUID", "StudyTime", "ModalitiesInStudy", *_PATIENT])
    earlier = [
        match
        for match in found
        if moment_of(match) and moment_of(match) < moment and patient_mismatch(header, match) is None
    ]
    if not earlier:
        raise _NoPriorError("the source has no earlier study that is known to be of the same patient")
    untold: tuple[str, list[str]] | None = None
    for match in sorted(earlier, key=moment_of, reverse=True)[:_MOST_LOOKED_AT]:
        uid = str(match.get("StudyInstanceUID") or "")
        told, perhaps = _fitting(archive, uid, wanted)
        if told:
            return uid, told
        if perhaps and untold is None:
            untold = uid, perhaps
    if untold is None:
        raise _NoPriorError("the source has no earlier study of the same modality and part of the body")
    return untold


def _fitting(archive: Archive, uid: str, wanted: set[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Series of the modality and part of the body, and those of the modality whose part the archive does not tell."""
    told, perhaps = [], []
    for series in archive.query("SERIES", {"StudyInstanceUID": uid}, _SERIES):
        modality, part = str(series.get("Modality") or ""), body_part_of(series)
        if (modality, part) in wanted and part:
            told.append(_uid(series))
        elif not part and any(modality == one for one, _ in wanted):
            perhaps.append(_uid(series))
    return told, perhaps


def _uid(series: Dataset) -> str:
    return str(series.get("SeriesInstanceUID") or "")


def _reserve(ledger: Ledger, uid: str, owner: str, check: Callable[[], None]) -> None:
    """Wait until no other reading uses this prior: its files are removed when one is done with them."""
    pause = threading.Event()
    while not ledger.leases.take(_lease_key(uid), owner, _LEASE_SECONDS):
        check()
        pause.wait(0.5)


def _fetch(
    settings: Settings,
    archive: Archive,
    source: Source,
    ledger: Ledger,
    spool: Spool,
    uid: str,
    series: list[str],
    seen: OnProgress,
) -> Study:
    begun, entry = ledger.clock(), settings.listener.aet
    found = archive.retrieve(uid, series, Storage(spool, ledger), entry, seen, Cancel(), prior=True)
    run = ledger.workitems.run_of(uid)
    new = run is not None and run.created_at >= begun and run.state in ACTIVE
    if run is not None and new and not spool.priors(uid):  # noqa: SIM102
        # The peer did not say that it sends for us, so that the listener took it for a study to be read; or somebody
        # else sends it to be read, in this moment.
        if {calling_aet for calling_aet, _ in ledger.intake.senders(run.id)} == {source.title}:
            ledger.cancel(uid)
            raise _NoPriorError('the source does not say for whom it sends: set retrieve = "get" for it')
    if not found.ok:
        raise NodeError(found.explained)
    studies, _ = load_studies(spool.priors(uid), settings.limits.of_reading)
    for one in studies:
        if one.study_instance_uid == uid:
            return one
    raise NodeError("none of its images can be read")
