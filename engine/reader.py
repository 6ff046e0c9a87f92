"""Reading a study: a plan's questions, put to a model image by image, become findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from engine.errors import ImageError, LimitError
from engine.findings import Language, PriorStudy, RunState, StudyReading
from engine.gate import Calibration
from engine.imaging import render_frame
from engine.interview import Asked, Interview, Progress
from engine.plan import Plan
from engine.priors import Prior, prior_mismatch
from engine.prompts import Prompts
from engine.refine import BoxRefiner, Refiner, load_refiner
from engine.runtime.protocol import CancelToken, Runtime
from engine.selection import select_frames
from engine.study import Study
from engine.tasks import questions_per_image, read_image
from engine.volume import link

_ONE_IMAGE: Final = "the model is shown one image at a time, and compares nothing"


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
    refiner: Refiner | None = None,
    calibration: Calibration | None = None,
    prior: Prior | None = None,
    asked: Asked | None = None,
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
    refiner : Refiner, optional
        Draws outlines within the boxes where the plan names no refiner; without, a box stays a box.
    calibration : Calibration, optional
        What the model's certainties are worth at this site; without, they are uncalibrated.
    prior : Prior, optional
        What the wish of a plan with `priors` came to. It is recorded, and none of its images is asked about: the models
        known here are shown one image at a time, so nothing that they say of a change is let through.
    asked : callable, optional
        Called after each question with its task, the answer, and the seconds that it took.

    Raises
    ------
    ReadingCancelledError
        If `cancel` was set.
    RuntimeLostError
        If the engine failed.
    ModelError
        If the plan's refiner cannot be used, or the calibration was measured with another model.
    """
    if calibration:
        calibration.check(runtime.identity)
    wanted = tuple(language for language in plan.languages if language in languages)
    drawing = load_refiner(plan.refiner) if plan.refiner else refiner or BoxRefiner()
    interview = Interview(plan, runtime, wanted, plan.wording(prompts), cancel, progress, drawing, calibration, asked)
    _read_images(study, interview)
    record = interview.record
    record.findings = link(record.findings, study)
    if record.state is RunState.UNUSABLE:
        # A report whose regions all failed the checks would stand there unsupported.
        record.withdraw_narratives("nothing that was asked about findings could be read, so the report is not shown")
    reading = record.reading(
        study.study_instance_uid,
        runtime.identity,
        _decoding(plan, runtime, calibration),
        plan=plan.name,
        prompts_version=interview.prompts.version,
        now=now,
    )
    return replace(reading, prior=_told(prior, study, plan)) if plan.priors else reading


def _told(prior: Prior | None, study: Study, plan: Plan) -> PriorStudy:
    """What is recorded of a prior; one that does not belong to the study is not even named."""
    if prior is None or prior.study is None:
        return PriorStudy(None, False, prior.reason if prior else "no earlier study was looked for")
    if why := prior_mismatch(prior.study, study, plan):
        return PriorStudy(None, False, f"the earlier study that was fetched is not used: {why}")
    return PriorStudy(prior.study.study_instance_uid, False, _ONE_IMAGE)


def _decoding(plan: Plan, runtime: Runtime, calibration: Calibration | None) -> dict[str, str | int | float | bool]:
    """The decoding settings, with whether this plan held the answers of detection to a grammar, and the calibration."""
    settings = dict(runtime.decoding)
    if calibration:
        settings["calibration"] = calibration.digest
    if "constrained" in settings:
        settings["constrained"] = plan.constrained and "detection" in plan.tasks
    return settings


def _read_images(study: Study, interview: Interview) -> None:
    """Read the frames that the plan selects, as far as its limits go."""
    record, plan = interview.record, interview.plan
    selection = select_frames(study, plan)
    record.series += selection.series
    record.not_read += selection.not_read
    record.partial = selection.damaged
    skipped = [selection.skipped.get((one.sop_instance_uid, frame), frozenset()) for one, frame in selection.frames]
    expected = [questions_per_image(plan, interview.languages, tasks) for tasks in skipped]
    interview.expected = sum(expected)
    for place, (instance, frame) in enumerate(selection.frames):
        if len(record.prompts) >= plan.limits.questions_per_study:
            reason = f"the plan's limit of {plan.limits.questions_per_study} questions a study was reached"
            record.leave((rest for rest, _ in selection.frames[place:]), reason)
            break
        try:
            interview.check()
            rendered = render_frame(instance, frame)
            read_image(interview.about(instance, rendered, skipped[place]))
        except LimitError as error:
            # What the image's unfinished questions would have told is not known, so it counts as not read.
            record.leave((rest for rest, _ in selection.frames[place:]), str(error))
            break
        except ImageError as error:
            record.refuse(instance, str(error))
            interview.expected -= expected[place]
