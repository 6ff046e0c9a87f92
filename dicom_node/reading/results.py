"""Results: a stored reading becomes stored DICOM objects, checked before anything leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from dicom_node.ledger.records import Claim, StoredResult
from dicom_node.reading.home import Home
from dicom_node.reading.picture import pictures_of
from dicom_node.reading.profiles import output_profiles
from dicom_node.routing.decision import Decision, Target
from dicom_node.settings import Destination, Settings
from engine.errors import SettingsError, WriteError
from engine.findings import StudyReading
from engine.study import Study
from sr_writer import OutputProfile, PredecessorRef, check_results, dump, kind_of, load_profile, write_results

_VERSION: Final = re.compile(r"(?P<variant>.*?)(?:-r(?P<number>[0-9]+)-[0-9a-f]{8})?")

log = structlog.get_logger(__name__)


def store_results(
    home: Home,
    claim: Claim,
    reading: StudyReading,
    study: Study,
    destinations: Sequence[Destination],
    version: str = "",
) -> tuple[dict[str, list[StoredResult]], dict[str, str]]:
    """Write, check and store what each destination is to get, once for each distinct output profile.

    Parameters
    ----------
    home : Home
    claim : Claim
    reading : StudyReading
    study : Study
    destinations : sequence of Destination
    version : str
        Of a review's results (`review_version`), so that they lie beside the model's.

    Returns
    -------
    results : dict of str to list of StoredResult
        By the destination's name; under ``""`` where none is set, so that the results are there all the same.
    withheld : dict of str to str
        Why a destination gets nothing: what its profile asks for cannot be written, or fails a check.

    Raises
    ------
    WriteError
        If no profile's results can be written.
    SettingsError
        If an output profile is wrong.
    SpoolError
        If a result cannot be kept.
    """
    made: dict[OutputProfile, list[StoredResult]] = {}
    wanted = output_profiles(destinations) or {"": load_profile()}
    refused: dict[OutputProfile, WriteError] = {}
    for profile in dict.fromkeys(wanted.values()):
        predecessors = _predecessors(claim, _variant(profile))
        try:
            made[profile] = _store(
                home, claim.run_id, f"{_variant(profile)}{version}", profile, reading, study, predecessors
            )
        except WriteError as error:
            refused[profile] = error
            log.error("results not written", variant=_variant(profile), reason=error.explained)
    if not made:
        raise next(iter(refused.values()))
    return (
        {name: made[profile] for name, profile in wanted.items() if profile in made},
        {name: refused[profile].explained for name, profile in wanted.items() if profile in refused},
    )


def addressed(decision: Decision, settings: Settings) -> tuple[list[Destination], dict[str, str]]:
    """The destinations of a decision, and why some of them can get nothing: one's wrong setting is not the others'."""
    wanted = decision.destinations
    names = [Target(destination.name) for destination in settings.destinations] if wanted is None else wanted
    found: list[Destination] = []
    withheld: dict[str, str] = {}
    for target in names:
        try:
            (destination,) = targets(replace(decision, destinations=(target,)), settings)
            output_profiles([*found, destination])
            found.append(destination)
        except SettingsError as error:
            withheld[target.name] = error.explained
            log.error("nothing goes to a destination", destination=target.name, reason=error.explained)
    return found, withheld


def targets(decision: Decision, settings: Settings) -> list[Destination]:
    """The destinations of a decision, with what they get on its route.

    Raises
    ------
    SettingsError
        If the settings have one of them no more.
    """
    if decision.destinations is None:
        return list(settings.destinations)
    wanted = []
    for target in decision.destinations:
        changes = {"profile": target.profile, "languages": target.languages}
        given = {key: value for key, value in changes.items() if value is not None}
        wanted.append(settings.destination(target.name).model_copy(update=given))
    return wanted


def review_version(reading: StudyReading) -> str:
    """What distinguishes a reviewed reading's results from the model's, and from those of a review at the same time."""
    number = reading.review.number if reading.review is not None else 0
    return f"-r{number}-{reading.digest[:8]}"


def _variant(profile: OutputProfile) -> str:
    return "-".join((profile.name, *profile.languages))


def _predecessors(claim: Claim, variant: str) -> list[PredecessorRef]:
    """The superseded objects of the same variant, of its latest version; other destinations never saw the others."""
    versions: dict[int, list[StoredResult]] = {}
    for result in claim.predecessors:
        named = _VERSION.fullmatch(result.path.split("/")[-2])
        if named is not None and named["variant"] == variant:
            versions.setdefault(int(named["number"] or 0), []).append(result)
    return (
        [
            PredecessorRef(
                study_instance_uid=claim.study_instance_uid,
                series_instance_uid=result.series_instance_uid,
                sop_class_uid=result.sop_class_uid,
                sop_instance_uid=result.sop_instance_uid,
            )
            for result in versions[max(versions)]
        ]
        if versions
        else []
    )


def _store(
    home: Home,
    run_id: str,
    variant: str,
    profile: OutputProfile,
    reading: StudyReading,
    study: Study,
    predecessors: Iterable[PredecessorRef],
) -> list[StoredResult]:
    sources = study.headers
    results = write_results(reading, sources, profile, predecessors=tuple(predecessors), pictures=pictures_of(study))
    check_results(results, reading, sources)
    stored = []
    for result in results:
        kind = kind_of(result)
        path, digest = home.store_result(run_id, variant, kind, dump(result))
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
    log.info("results stored", kinds=[item.kind for item in stored], variant=variant)
    return stored
