"""What gathers while a study is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from engine.findings import (
    Finding,
    HeldBack,
    ImageRead,
    Language,
    ModelIdentity,
    NotRead,
    PromptUse,
    RunState,
    SeriesRead,
    StudyReading,
)
from engine.imaging import RenderedFrame
from engine.report import join_narratives
from engine.study import Instance


@dataclass
class ReadingRecord:
    """A reading in the making.

    Attributes
    ----------
    findings, prompts, images, series, not_read, held_back, partial
        As in `StudyReading`.
    narratives : dict of Language to list of (int, str)
        Reports with the numbers of their images, from 1.
    nothing : int
        Images of which the model said that there is nothing to find.
    """

    findings: list[Finding] = field(default_factory=list)
    narratives: dict[Language, list[tuple[int, str]]] = field(default_factory=dict)
    prompts: list[PromptUse] = field(default_factory=list)
    images: list[ImageRead] = field(default_factory=list)
    series: list[SeriesRead] = field(default_factory=list)
    not_read: list[NotRead] = field(default_factory=list)
    held_back: list[HeldBack] = field(default_factory=list)
    partial: bool = False
    nothing: int = 0
    _named: dict[str, dict[int, None]] = field(default_factory=dict)

    @property
    def state(self) -> RunState:
        """How the reading stands."""
        if self.findings:
            return RunState.FINDINGS
        if not self.images:
            return RunState.NOT_RUN
        return RunState.NO_FINDINGS if self.nothing else RunState.UNUSABLE

    def name(self, finding: Finding, number: int) -> None:
        """Note that an image as a whole was named something.

        Several images of one name are one finding; one that is located somewhere already is that finding, noted.
        """
        images = self._named.setdefault(finding.concept, {})
        images[number] = None
        note = f"named by the classification of image {', '.join(map(str, images))}"
        alike = [place for place, known in enumerate(self.findings) if known.concept == finding.concept]
        if not alike:
            self.findings.append(replace(finding, notes=(*finding.notes, note)))
        for place in alike:
            known = self.findings[place]
            notes = tuple(words for words in known.notes if not words.startswith("named by the classification"))
            told = [sure for sure in (known.certainty, finding.certainty) if sure is not None]
            sure = known.certainty if known.regions else max(told, default=None)
            self.findings[place] = replace(known, notes=(*notes, note), certainty=sure)

    def note(self, concept: str, rendered: RenderedFrame, words: str) -> None:
        """Add a note to what was found on a frame under a name."""
        place = rendered.sop_instance_uid, rendered.frame
        for number, known in enumerate(self.findings):
            here = any((region.sop_instance_uid, region.frame) == place for region in known.regions)
            if here and known.concept == concept:
                self.findings[number] = replace(known, notes=(*known.notes, words))

    def add_image(self, rendered: RenderedFrame, instance: Instance) -> None:
        """Note a frame that is about to be read."""
        rows, columns = rendered.transform.rows, rendered.transform.columns
        self.images.append(
            ImageRead(rendered.sop_instance_uid, instance.series_instance_uid, rendered.frame, rows, columns)
        )

    def refuse(self, instance: Instance, reason: str) -> None:
        """Note an image that should have been read and cannot be."""
        self.not_read.append(NotRead(instance.series_instance_uid, instance.sop_instance_uid, reason))
        self.partial = True

    def leave(self, instances: Iterable[Instance], reason: str) -> None:
        """Note images that are left unread, a series at a time."""
        series = dict.fromkeys(instance.series_instance_uid for instance in instances)
        self.not_read += [NotRead(uid, None, reason) for uid in series]
        self.partial = True

    def withdraw_narratives(self, reason: str) -> None:
        """Hold the reports back."""
        self.held_back += [HeldBack(reason, text) for parts in self.narratives.values() for _, text in parts]
        self.narratives.clear()

    def reading(
        self,
        study_instance_uid: str,
        model: ModelIdentity,
        decoding: dict[str, str | int | float | bool],
        *,
        plan: str,
        prompts_version: str,
        now: datetime | None,
    ) -> StudyReading:
        """Close the record."""
        read = {image.series_instance_uid for image in self.images}
        return StudyReading(
            study_instance_uid=study_instance_uid,
            state=self.state,
            narrative={language: join_narratives(parts, language) for language, parts in self.narratives.items()},
            findings=tuple(self.findings),
            model=model,
            decoding=decoding,
            plan=plan,
            prompts_version=prompts_version,
            prompts=tuple(self.prompts),
            images=tuple(self.images),
            series=tuple(one for one in self.series if one.series_instance_uid in read),
            not_read=tuple(self.not_read),
            held_back=tuple(self.held_back),
            created=now or datetime.now(UTC),
            partial=self.partial,
        )
