"""What every kind of result shares: the reading, its sources, who wrote it, and how an object is finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any, Final

from highdicom.sr import (
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DA, DT, TM

from engine.findings import Finding, Language, StudyReading
from sr_writer.codes import Concept, Vocabulary, concept_of
from sr_writer.identity import Identity, coding_schemes
from sr_writer.iods import restore_classes
from sr_writer.profile import OutputProfile, PredecessorRef
from sr_writer.sources import Sources
from sr_writer.text import clean_line
from sr_writer.uids import UidScope

SERIES_NUMBER: Final = 9000
"""Results' series numbers lie above it, out of the way of scanners' own."""
SERIES: Final[dict[str, int]] = {
    "sr": 1,
    "narrative-en": 2,
    "narrative-zh": 3,
    "kos": 4,
    "pdf": 5,
    "retraction": 9,
    "seg": 11,
    "gsps": 1001,
    "sc": 2001,
}
"""Each kind in its own series (viewers show one object a series); of several of a kind, each counts on from it."""
SHARED: Final = ("gsps", "sc")
"""Kinds of which one series holds all there are of one reading, as people leaf through them."""
# Two languages and the kind must fit 64 bytes; the full words are in each object's own text.
_TITLES: Final[dict[Language, str]] = {"en": "result, unverified, research", "zh": "结果未审核"}
_REVIEWED_TITLES: Final[dict[Language, str]] = {"en": "result, reviewed, research", "zh": "结果已审核"}
_COMMISSIONING_TITLES: Final[dict[Language, str]] = {"en": "commissioning, not for clinical use", "zh": "调试非临床用"}


@dataclass(frozen=True)
class Context:
    """One call's input, and what follows from it for every object.

    Parameters
    ----------
    reading : StudyReading
    sources : Sources
    profile : OutputProfile
    predecessors : tuple of PredecessorRef
    """

    reading: StudyReading
    sources: Sources
    profile: OutputProfile
    predecessors: tuple[PredecessorRef, ...] = ()

    @cached_property
    def identity(self) -> Identity:
        """Who made the results."""
        return Identity(self.reading)

    @cached_property
    def uids(self) -> UidScope:
        """What the results' UIDs are derived from."""
        superseded = ",".join(reference.sop_instance_uid for reference in self.predecessors)
        return UidScope(self.identity.reading_digest, f"{self.profile.fingerprint}|{superseded}")

    @property
    def vocabulary(self) -> Vocabulary:
        """Which labels mean what: an insert of a phantom is no lesion."""
        return "phantom" if self.reading.model.commissioning else "clinical"

    @cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """The findings' concepts, in order."""
        return tuple(concept_of(finding, self.vocabulary) for finding in self.reading.findings)

    def tracking_identifier(self, finding: Finding, number: int) -> str:
        """Name a finding for people, or for the viewer that wants its own name."""
        if self.profile.tracking == "cornerstone":
            return "Cornerstone3DTools@^0.1.0:RectangleROI"
        return f"AI {number} {clean_line(finding.concept or finding.label, 40)}"

    def series_description(self, what: str, languages: Sequence[Language]) -> str:
        """Describe a series: always "AI" first, and what it is not for."""
        titles = _REVIEWED_TITLES if self.reading.is_verified else _TITLES
        if self.reading.model.commissioning:
            titles = _COMMISSIONING_TITLES
        return clean_line(" ".join(["AI", *(titles[language] for language in languages), what]))

    def observation_context(self) -> ObservationContext:
        """Make TID 1001: the model and who reviewed it as observers, and what the header cannot say (TID 1005)."""
        person = None
        if self.reading.review is not None and self.reading.is_verified:
            person = ObserverContext(
                observer_type=codes.DCM.Person,
                observer_identifying_attributes=PersonObserverIdentifyingAttributes(
                    name=self.reading.review.reviewer, organization_name=self.reading.review.organization
                ),
            )
        content = ObservationContext(observer_person_context=person, observer_device_context=self.identity.observer())
        if self.sources.unfit_accession:
            content.append(
                TextContentItem(
                    name=codes.DCM.AccessionNumber,
                    value=self.sources.unfit_accession,
                    relationship_type=RelationshipTypeValues.HAS_OBS_CONTEXT,
                )
            )
        return content

    def common(self, kind: str, index: int, languages: Sequence[Language], what: str) -> dict[str, Any]:
        """Give the arguments that every constructor of the library takes (PS3.3 C.7.3.1, C.12.1).

        Parameters
        ----------
        kind : str
        index : int
            From 0, within the kind.
        languages : sequence of Language
        what : str
            The kind in a word, for the series description.
        """
        created = self.local_time
        series, instance = (0, index) if kind in SHARED else (index, 0)
        return {
            "series_instance_uid": self.uids.uid(kind, series, "series"),
            "series_number": SERIES_NUMBER + SERIES[kind] + series,
            "sop_instance_uid": self.uids.uid(kind, index, "instance"),
            "instance_number": instance + 1,
            "series_description": self.series_description(what, languages),
            "manufacturer": self.identity.manufacturer,
            "manufacturer_model_name": self.identity.name,
            "software_versions": self.identity.software_versions,
            "device_serial_number": self.identity.serial_number,
            "content_qualification": "RESEARCH",
            "coding_schemes": coding_schemes(),
            "content_date": created.date(),
            "content_time": created.time(),
            "series_date": created.date(),
            "series_time": created.time(),
            "specific_character_set": "ISO_IR 192",
        }

    @cached_property
    def local_time(self) -> datetime:
        """When the reading was finished, in the zone that the study's own dates and times are in."""
        return local_time(self.reading.created, self.sources.patient)

    def verify(self, document: Dataset) -> None:
        """Say in an SR whether a person vouches for it, and who (SR Document General Module, PS3.3 C.17.2)."""
        review = self.reading.review
        document.VerificationFlag = "VERIFIED" if self.reading.is_verified else "UNVERIFIED"
        if review is None or not self.reading.is_verified:
            return
        observer = Dataset()
        observer.VerifyingObserverName = review.reviewer
        observer.VerifyingObserverIdentificationCodeSequence = []  # type 2: the node knows no codes of people
        observer.VerifyingOrganization = review.organization
        observer.VerificationDateTime = DT(self.local_time)
        document.VerifyingObserverSequence = [observer]

    def finish(self, result: Dataset) -> Dataset:
        """Put into a result what all have in common, over whatever the library had put there."""
        result.update(self.sources.patient)
        created = self.local_time
        result.InstanceCreationDate, result.InstanceCreationTime = DA(created.date()), TM(created.time())
        self.identity.equip(result)
        restore_classes(result, {image.sop_instance_uid: image.sop_class_uid for image in self.sources.images})
        return result


def local_time(moment: datetime, study: Dataset) -> datetime:
    """Give a time in the zone that a study's dates and times are in; its own where it names none (PS3.3 C.12.1)."""
    offset = str(study.get("TimezoneOffsetFromUTC") or "")
    if offset:
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        moment = moment.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))
    return moment.replace(tzinfo=None)
