"""Reading a study: a plan's questions, put to a model image by image, become findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from engine.errors import ImageError
from engine.findings import (
    Finding,
    HeldBack,
    ImageRead,
    Language,
    Laterality,
    NotRead,
    PromptUse,
    Region,
    RunState,
    StudyReading,
)
from engine.grammar import Parsed, is_nothing, parse, plain
from engine.grounding import DISAGREEMENT, Candidate, certainty, screen, sentence_for
from engine.imaging import RenderedFrame, render_frame
from engine.plan import Plan, Task
from engine.prompts import Prompts
from engine.report import impression, is_report, join_narratives
from engine.runtime.protocol import Answer, CancelToken, Runtime
from engine.selection import select_frames
from engine.study import Instance, Study

Progress = Callable[[int, int], None]

_SIDES: Final = {"L": Laterality.LEFT, "R": Laterality.RIGHT, "B": Laterality.BILATERAL}
_REPORT_NAMES: Final[dict[Language, str]] = {"en": "Report", "zh": "报告"}


def read_study(
    study: Study,
    plan: Plan,
    runtime: Runtime,
    *,
    languages: Sequence[Language] = ("en", "zh"),
    now: datetime | None = None,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
    prompts: Prompts | None = None,
) -> StudyReading:
    """Read a study.

    Frames are decoded one at a time; one that cannot be is recorded, and the study goes on.

    Parameters
    ----------
    study : Study
    plan : Plan
    runtime : Runtime
    languages : sequence of Language
        Which of the plan's languages are wanted.
    now : datetime, optional
        The reading's time, with time zone; the present without.
    cancel : CancelToken, optional
        Checked between questions, and by the runtime.
    progress : callable, optional
        Called after each question with the number of questions asked and the number expected so far.
    prompts : Prompts, optional
        The table of prompts; the one that ships without.

    Raises
    ------
    ReadingCancelledError
        If `cancel` was set.
    RuntimeLostError
        If the engine failed.
    """
    reader = _StudyReader(plan, runtime, [x for x in plan.languages if x in languages], cancel, progress, prompts)
    reader.read(study)
    return StudyReading(
        study_instance_uid=study.study_instance_uid,
        state=reader.state,
        narrative={language: join_narratives(parts, language) for language, parts in reader.narratives.items()},
        findings=tuple(reader.findings),
        model=runtime.identity,
        decoding=dict(runtime.decoding),
        plan=plan.name,
        prompts_version=reader.prompts.version,
        prompts=tuple(reader.asked),
        images=tuple(reader.images),
        not_read=tuple(reader.not_read),
        held_back=tuple(reader.held_back),
        created=now or datetime.now(UTC),
        partial=reader.partial,
    )


class _StudyReader:
    """What gathers while a study is read."""

    def __init__(
        self,
        plan: Plan,
        runtime: Runtime,
        languages: list[Language],
        cancel: CancelToken | None,
        progress: Progress | None,
        prompts: Prompts | None,
    ) -> None:
        self.plan, self.runtime, self.languages = plan, runtime, languages
        self.cancel, self.progress = cancel, progress
        self.prompts = prompts or Prompts.shipped()
        self.findings: list[Finding] = []
        self.narratives: dict[Language, list[tuple[int, str]]] = {}
        self.asked: list[PromptUse] = []
        self.images: list[ImageRead] = []
        self.not_read: list[NotRead] = []
        self.held_back: list[HeldBack] = []
        self.partial = False
        self._nothing = 0  # images of which the model said that there is nothing
        self._expected = 0

    @property
    def state(self) -> RunState:
        """How the reading ended."""
        if self.findings:
            return RunState.FINDINGS
        if not self.images:
            return RunState.NOT_RUN
        return RunState.NO_FINDINGS if self._nothing else RunState.UNUSABLE

    def read(self, study: Study) -> None:
        selection = select_frames(study, self.plan.frames)
        self.not_read += selection.not_read
        self.partial = selection.damaged
        each = ("detection" in self.plan.tasks) + ("report" in self.plan.tasks) * len(self.languages)
        self._expected = each * len(selection.frames)
        for place, (instance, frame) in enumerate(selection.frames):
            if self.cancel:
                self.cancel.check()
            if len(self.asked) >= self.plan.limits.questions_per_study:
                self._leave(selection.frames[place:])
                break
            try:
                rendered = render_frame(instance, frame)
            except ImageError as error:
                self.not_read.append(NotRead(instance.series_instance_uid, instance.sop_instance_uid, str(error)))
                self.partial = True
                self._expected -= each
                continue
            self.images.append(
                ImageRead(
                    instance.sop_instance_uid,
                    instance.series_instance_uid,
                    frame,
                    rendered.transform.rows,
                    rendered.transform.columns,
                )
            )
            self._image(instance, rendered)
        if self.state is RunState.UNUSABLE:
            # A report whose regions all failed the checks would stand there unsupported.
            self._withdraw("no region could be read of any image, so the report is not shown")

    def _withdraw(self, reason: str) -> None:
        self.held_back += [HeldBack(reason, text) for parts in self.narratives.values() for _, text in parts]
        self.narratives.clear()

    def _leave(self, frames: Iterable[tuple[Instance, int]]) -> None:
        reason = f"the plan's limit of {self.plan.limits.questions_per_study} questions a study was reached"
        series = dict.fromkeys(instance.series_instance_uid for instance, _ in frames)
        self.not_read += [NotRead(uid, None, reason) for uid in series]
        self.partial = True

    def _image(self, instance: Instance, rendered: RenderedFrame) -> None:
        candidates: list[Candidate] = []
        if "detection" in self.plan.tasks:
            candidates = self._detect(rendered)
        texts = self._describe(rendered, candidates)
        for candidate in candidates:
            self.findings.append(self._finding(instance, rendered, candidate, texts[candidate]))
        if "report" in self.plan.tasks:
            self._report(rendered)

    def _ask(self, rendered: RenderedFrame, task: Task, language: Language, **words: object) -> Answer:
        if self.cancel:
            self.cancel.check()
        image = self.plan.image
        prompt = self.prompts.compose(
            task,
            language,
            image=image.noun,
            an_image=image.with_article,
            **words,  # type: ignore[arg-type]
        )
        answer = self.runtime.ask(rendered.rgb, prompt.text, cancel=self.cancel)
        self.asked.append(
            PromptUse(task, language, prompt.template, rendered.sop_instance_uid, rendered.frame, _clean(answer.text))
        )
        if self.progress:
            self._expected = max(self._expected, len(self.asked))
            self.progress(len(self.asked), self._expected)
        return answer

    def _hold(self, rendered: RenderedFrame, reason: str, words: str) -> None:
        self.held_back.append(HeldBack(reason, _clean(words), rendered.sop_instance_uid, rendered.frame))

    def _detect(self, rendered: RenderedFrame) -> list[Candidate]:
        answer = self._ask(rendered, "detection", "en", objects=[item.label for item in self.plan.objects])
        if is_nothing(answer.text):
            self._nothing += 1
            return []
        parsed = parse(answer.text)
        candidates, held = screen(parsed, answer, self.plan, rendered.transform)
        for reason, words in held:
            self._hold(rendered, reason, words)
        if not parsed.regions and not parsed.unreadable:
            self._hold(rendered, "the answer names no region", answer.text)
        if answer.finish == "length":
            self._hold(rendered, "the answer broke off at its greatest length; there may have been more", "")
        self.partial |= not candidates or answer.finish == "length"
        back = ("identification" in self.plan.tasks) * (1 + ("zh" in self.languages))
        told = ("grounded" in self.plan.tasks) * len(self.languages)
        self._expected += back * len(candidates) + told * len({c.object.label for c in candidates})
        return candidates

    def _describe(self, rendered: RenderedFrame, candidates: list[Candidate]) -> dict[Candidate, dict[Language, str]]:
        """What the model says about each box: asked once a label and language, kept where the places agree."""
        texts: dict[Candidate, dict[Language, str]] = {candidate: {} for candidate in candidates}
        if "grounded" not in self.plan.tasks:
            return texts
        for item in dict.fromkeys(candidate.object for candidate in candidates):
            for language in self.languages:
                name = item.label if language == "en" else item.zh
                answer = self._ask(rendered, "grounded", language, objects=[name])
                parsed = parse(answer.text)
                alike = [candidate for candidate in candidates if candidate.object == item]
                for candidate in alike:
                    if sentence := sentence_for(candidate, parsed, rendered.transform):
                        texts[candidate][language] = _clean(sentence)
                if not any(language in texts[candidate] for candidate in alike):
                    self._hold(rendered, "the description is of another place than the box, or of none", answer.text)
        return texts

    def _finding(
        self, instance: Instance, rendered: RenderedFrame, candidate: Candidate, told: dict[Language, str]
    ) -> Finding:
        notes: list[str] = []
        sure = candidate.certainty
        if "identification" in self.plan.tasks and not self._confirmed(rendered, candidate, notes) and sure is not None:
            sure *= DISAGREEMENT
        names = {language: candidate.object.names[language] for language in self.languages}
        for language in self.languages:
            if language not in told:
                told[language] = names[language][:1].upper() + names[language][1:]
                notes.append(f"the text ({language}) is the name from the label table")
        return Finding(
            label=_clean(candidate.label),
            concept=candidate.object.concept,
            names=names,
            text={language: told[language] for language in self.languages},
            certainty=sure,
            regions=(Region(rendered.sop_instance_uid, rendered.frame, candidate.box),),
            laterality=_laterality(instance),
            notes=tuple(notes),
        )

    def _confirmed(self, rendered: RenderedFrame, candidate: Candidate, notes: list[str]) -> bool:
        """Ask back what a box shows, in each language."""
        confirmed = True
        for language in dict.fromkeys(("en", *self.languages)):
            answer = self._ask(rendered, "identification", language, box=candidate.model_box)
            word = plain(answer.text)
            if self.plan.find(word) == candidate.object:
                continue
            confirmed = False
            said = repr(_clean(word)[:40]) if word else "nothing"
            notes.append(f"asked back ({language}), the model did not confirm the name but said {said}")
            if language != "en":
                notes.append(f"the name ({language}) is from the label table")
        return confirmed

    def _report(self, rendered: RenderedFrame) -> None:
        texts: dict[Language, str] = {}
        sure: float | None = None
        for language in self.languages:
            answer = self._ask(rendered, "report", language)
            parsed: Parsed = parse(answer.text)
            text = _clean(parsed.text)
            if not is_report(text, language) or parsed.unreadable:
                self._hold(rendered, "the answer has not the form of a report", answer.text)
                continue
            if answer.finish == "length":
                self._hold(rendered, "the report broke off at its greatest length; there may have been more", "")
                self.partial = True
            self.narratives.setdefault(language, []).append((len(self.images), text))
            texts[language] = text
            sure = certainty(answer) if sure is None else sure
        if "detection" not in self.plan.tasks:
            if texts:
                self._image_level(texts, sure)
            else:
                self.partial = True  # others may have been clear; nothing is known of this one

    def _image_level(self, texts: dict[Language, str], sure: float | None) -> None:
        """A report that no box goes with is itself the finding, unless it says that there is nothing."""
        last = {language: impression(text, language) for language, text in texts.items()}
        if all(is_nothing(text) for text in last.values()):
            self._nothing += 1
            return
        names = {language: _REPORT_NAMES[language] for language in texts}
        self.findings.append(Finding("report", "report", names, last, sure, ()))


def _laterality(instance: Instance) -> Laterality:
    """The side that the header gives (PS3.3 C.7.3.1.1.1), never guessed."""
    header = instance.header
    side = str(header.get("ImageLaterality") or header.get("Laterality") or "").strip().upper()
    return _SIDES.get(side, Laterality.UNKNOWN)


def _clean(words: str) -> str:
    """A model's words, fit for UTF-8 and for DICOM text: no control characters, no halves of characters."""
    whole = words.encode("utf-8", "replace").decode("utf-8")
    return "".join(c for c in whole if c == "\n" or c.isprintable()).strip()
