"""Results: a stored reading becomes stored DICOM objects, checked before anything leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog
from pydicom.dataset import Dataset

from dicom_node.ledger.records import Claim, StoredResult
from dicom_node.settings import Destination
from dicom_node.spool import Spool
from engine.findings import LANGUAGES, Language, StudyReading
from engine.study import Study
from sr_writer import OutputProfile, PredecessorRef, check_results, dump, kind_of, write_results

log = structlog.get_logger(__name__)


def store_results(
    spool: Spool, claim: Claim, reading: StudyReading, study: Study, destinations: Sequence[Destination]
) -> dict[str, list[StoredResult]]:
    """Write, check and store what each destination is to get, once for each distinct output profile.

    Returns
    -------
    dict of str to list of StoredResult
        By the destination's name; under ``""`` where none is set, so that the results are there all the same.

    Raises
    ------
    WriteError
        If the reading cannot be expressed, or a result fails a check.
    SpoolError
        If a result cannot be kept.
    """
    made: dict[tuple[Language, ...], list[StoredResult]] = {}
    wanted = {destination.name: destination.languages for destination in destinations} or {"": LANGUAGES}
    for languages in dict.fromkeys(wanted.values()):
        profile = OutputProfile(languages=languages)
        predecessors = _predecessors(claim, _variant(profile))
        made[languages] = _store(spool, claim.run_id, profile, reading, study.headers, predecessors)
    return {name: made[languages] for name, languages in wanted.items()}


def _variant(profile: OutputProfile) -> str:
    return "-".join((profile.name, *profile.languages))


def _predecessors(claim: Claim, variant: str) -> list[PredecessorRef]:
    """The superseded run's objects of the same variant; other destinations never saw the others."""
    return [
        PredecessorRef(
            study_instance_uid=claim.study_instance_uid,
            series_instance_uid=result.series_instance_uid,
            sop_class_uid=result.sop_class_uid,
            sop_instance_uid=result.sop_instance_uid,
        )
        for result in claim.predecessors
        if result.path.split("/")[-2] == variant
    ]


def _store(
    spool: Spool,
    run_id: str,
    profile: OutputProfile,
    reading: StudyReading,
    sources: Sequence[Dataset],
    predecessors: Iterable[PredecessorRef],
) -> list[StoredResult]:
    results = write_results(reading, sources, profile, predecessors=tuple(predecessors))
    check_results(results, reading, sources)
    stored = []
    for result in results:
        kind = kind_of(result)
        path, digest = spool.store_result(run_id, _variant(profile), kind, dump(result))
        stored.append(
            StoredResult(
                sop_instance_uid=str(result.SOPInstanceUID),
                sop_class_uid=str(result.SOPClassUID),
                series_instance_uid=str(result.SeriesInstanceUID),
                kind=kind,
                sha256=digest,
                path=path,
            )
        )
    log.info("results stored", kinds=[item.kind for item in stored], variant=_variant(profile))
    return stored
