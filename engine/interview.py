"""The conversation with a model about the images of a study: questions asked, counted and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property

from engine.dialects import read_boxes
from engine.errors import LimitError
from engine.findings import Finding, HeldBack, Language, PromptUse
from engine.gate import Calibration, Given, Passed, Sides, given_of, sides_of, weigh
from engine.grammar import Parsed
from engine.imaging import RenderedFrame, Window, render_frame
from engine.plan import Plan, PlanObject, Task
from engine.prompts import Prompts
from engine.record import ReadingRecord
from engine.refine import BoxRefiner, Refiner
from engine.runtime.protocol import Answer, CancelToken, Rgb, Runtime
from engine.study import Instance

Progress = Callable[[int, int], None]
Asked = Callable[[Task, Answer, float], None]


@dataclass
class Interview:
    """A model, what it is to be asked, and the record of what it says.

    Parameters
    ----------
    plan : Plan
    runtime : Runtime
    languages : tuple of Language
        Those of the plan's that are wanted.
    prompts : Prompts
    cancel : CancelToken, optional
        Checked before each question, and by the runtime.
    progress : callable, optional
        Called after each question with the number of questions asked and the number expected so far.
    asked : callable, optional
        Called after each question with its task, the answer, and the seconds that it took.
    refiner : Refiner
        Draws the outlines of what is found.
    calibration : Calibration, optional
        What the model's certainties are worth at this site.

    Attributes
    ----------
    record : ReadingRecord
    expected : int
        Questions expected in all, as far as that is known.
    begun : float
        When the interview began, by the monotonic clock.
    """

    plan: Plan
    runtime: Runtime
    languages: tuple[Language, ...]
    prompts: Prompts
    cancel: CancelToken | None = None
    progress: Progress | None = None
    refiner: Refiner = field(default_factory=BoxRefiner)
    calibration: Calibration | None = None
    asked: Asked | None = None
    record: ReadingRecord = field(default_factory=ReadingRecord)
    expected: int = 0
    begun: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise `ReadingCancelledError` once the reading is cancelled, and `LimitError` once its time is over."""
        if self.cancel:
            self.cancel.check()
        seconds = self.plan.limits.seconds_per_study
        if seconds is not None and time.monotonic() - self.begun > seconds:
            raise LimitError(f"the plan's limit of {seconds:g} s a study was reached")

    def about(self, instance: Instance, rendered: RenderedFrame, skipped: Collection[Task] = ()) -> ImageInterview:
        """Turn to an image, which is not asked about in the skipped tasks."""
        self.record.add_image(rendered, instance)
        return ImageInterview(self, instance, rendered, len(self.record.images), skipped)


@dataclass(frozen=True)
class ImageInterview:
    """The part of an interview that is about one image.

    Parameters
    ----------
    interview : Interview
    instance : Instance
    rendered : RenderedFrame
    number : int
        The image's number in the reading, from 1.
    skipped : collection of Task
        Tasks of the plan that are asked of other images only.

    Attributes
    ----------
    absent : list of PlanObject
        What the model, asked to locate it, said is not there.
    """

    interview: Interview
    instance: Instance
    rendered: RenderedFrame
    number: int
    skipped: Collection[Task] = ()
    absent: list[PlanObject] = field(default_factory=list)
    views: dict[Window | None, Rgb] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The plan followed."""
        return self.interview.plan

    @property
    def languages(self) -> tuple[Language, ...]:
        """The languages wanted."""
        return self.interview.languages

    @property
    def record(self) -> ReadingRecord:
        """What gathers."""
        return self.interview.record

    @cached_property
    def sides(self) -> Sides:
        """Where the patient's left and right are; the commissioning model's words mean those of the picture."""
        shape = self.rendered.transform
        if self.plan.commissioning:
            return Sides(shape.rows, shape.columns)
        return sides_of(self.instance.header, self.rendered.frame, shape.rows, shape.columns)

    @cached_property
    def given(self) -> Given:
        """What the image is known to show, beside its picture."""
        return given_of(self.instance.header)

    def wants(self, task: Task) -> bool:
        """Whether the plan has a task for this image."""
        return task in self.plan.tasks and task not in self.skipped

    def view(self, task: Task) -> Rgb:
        """Return the image in the window that the plan has for a task, each rendered once."""
        window = self.plan.window(task)
        if window not in self.views:
            windowed = window and render_frame(self.instance, self.rendered.frame, window)
            self.views[window] = (windowed or self.rendered).rgb
        return self.views[window]

    def expect(self, questions: int) -> None:
        """Add to the number of questions expected."""
        self.interview.expected += questions

    def parse(self, answer: str, asked: str = "") -> Parsed:
        """Take an answer apart into regions and words; regions without a name are those of what was asked for."""
        shape = self.rendered.transform
        return read_boxes(self.plan.dialect, answer, shape.rows, shape.columns, asked)

    def ask(
        self, task: Task, language: Language, *, template: str = "", grammar: str | None = None, **words: object
    ) -> Answer:
        """Ask a task's question about this image.

        Parameters
        ----------
        task : Task
        language : Language
        template : str
            The prompt template; without one that of the plan, or the task's own.
        grammar : str, optional
            What the answer is held to, see `Runtime.ask`.
        **words
            What the prompt's places hold, see `Prompts.compose`; what the image is called is the plan's, if not given.

        Raises
        ------
        ReadingCancelledError
        RuntimeLostError
        """
        interview, image = self.interview, self.plan.image
        interview.check()
        name = template or self.plan.templates.get(task, task)
        prompt = interview.prompts.compose(
            name if f"{name}.{language}" in interview.prompts.templates else task,
            language,
            **{"image": image.noun, "an_image": image.with_article, **words},  # type: ignore[arg-type]
        )
        image_shown, begun = self.view(task), time.monotonic()
        answer = interview.runtime.ask(image_shown, prompt.text, grammar=grammar, cancel=interview.cancel)
        if interview.asked:
            interview.asked(task, answer, time.monotonic() - begun)
        asked = self.record.prompts
        asked.append(
            PromptUse(
                task, language, prompt.template, self.rendered.sop_instance_uid, self.rendered.frame, clean(answer.text)
            )
        )
        if interview.progress:
            interview.expected = max(interview.expected, len(asked))
            interview.progress(len(asked), interview.expected)
        return answer

    def passed(self, passed: Passed) -> str:
        """Return what may be shown of a text; the rest is held back."""
        for reason, words in passed.held:
            self.hold(reason, words)
        return passed.text

    def weighed(self, finding: Finding) -> Finding | None:
        """Return a finding with what its certainty is worth; None, held back, where that is too little."""
        item = self.plan.find(finding.label)
        weighed, reason = weigh(finding, item.threshold if item else None, self.interview.calibration)
        if reason is None:
            return weighed
        self.hold(f"the finding is not sure enough: {reason}", finding.label)
        self.record.partial = True
        return None

    def hold(self, reason: str, words: str) -> None:
        """Keep something that the model said out of the results, and say why."""
        self.record.held_back.append(
            HeldBack(reason, clean(words), self.rendered.sop_instance_uid, self.rendered.frame)
        )


def clean(words: str) -> str:
    """A model's words, fit for UTF-8 and for DICOM text: no control characters, no halves of characters."""
    whole = words.encode("utf-8", "replace").decode("utf-8")
    return "".join(c for c in whole if c == "\n" or c.isprintable()).strip()
