"""The reading worker: takes a run from the queue through reading and writing to results that can be delivered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import structlog

from dicom_node.ledger import LeaseLostError, Ledger, State
from dicom_node.ledger.part import Clock
from dicom_node.ledger.records import Claim, StoredInstance
from dicom_node.metrics import process as metrics
from dicom_node.metrics.drift import tallies_of
from dicom_node.process import new_owner
from dicom_node.queue.dispatch import Dispatcher
from dicom_node.reading.home import Home, HomeLostError
from dicom_node.reading.profiles import output_profiles
from dicom_node.reading.results import addressed, store_results
from dicom_node.reading.watch import StoppedError, Watch
from dicom_node.routing.decision import Decision
from dicom_node.settings import Settings
from dicom_node.sources.priors import prior_of
from dicom_node.spool import Spool, SpoolFullError
from engine.errors import MedregaError, NodeError, PlanError, RuntimeLostError
from engine.findings import LANGUAGES, Language, NotRead, StudyReading
from engine.gate import load_calibration
from engine.plan import Plan, choose_plan, load_plans
from engine.priors import Prior
from engine.reader import read_study
from engine.refine import load_refiner
from engine.runtime import Runtime, load_runtime
from engine.runtime.protocol import Answer
from engine.study import Study, load_studies

log = structlog.get_logger(__name__)


class _IgnoredError(NodeError):
    """Nothing in the study is for this node."""


class _GoneError(NodeError):
    """Files of the study are no longer where they were."""

    retry = True


class Reader:
    """Reads runs; one for a worker process, called from several threads.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    home : Home
        The spool, or the way to it.
    dispatcher : Dispatcher
    clock : callable, optional
        The ledger's without one.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, home: Home, dispatcher: Dispatcher, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._home = home
        self._dispatcher = dispatcher
        self._clock = clock or ledger.clock
        self._stopping = threading.Event()
        self._runtime: Runtime | None = None
        self._runtime_lock = threading.Lock()

    def stop(self) -> None:
        """Break off what is being read; it goes back into the queue, and the attempt does not count."""
        self._stopping.set()

    def close(self) -> None:
        """Give the model's memory back."""
        with self._runtime_lock:
            if self._runtime is not None:
                self._runtime.close()
                self._runtime = None

    def read(self, run_id: str) -> None:
        """Read a run, if it is still to be read. Every outcome is in the ledger; nothing is raised for it."""
        claim = self._ledger.runs.claim(run_id, new_owner(), self._settings.reading.lease_seconds)
        if claim is None:
            return
        with structlog.contextvars.bound_contextvars(run=run_id, study=claim.study_instance_uid):
            log.info("reading", attempt=claim.attempt, files=len(claim.instances))
            try:
                self._perform(claim)
            except LeaseLostError as error:
                log.warning("reading given up", reason=str(error))
            except StoppedError as error:
                self._conclude(claim, None, error)
            except (HomeLostError, SpoolFullError) as error:  # not the study's fault: it waits until that is mended
                self._conclude(claim, None, error, timedelta(seconds=self._settings.reading.first_delay_seconds))
            except MedregaError as error:
                self._conclude(claim, error.retry, error)
            except Exception as error:
                # The task's outermost edge: whatever a library raises, the run ends in a state. Its words may quote the
                # data set; they go nowhere.
                log.error("unexpected error", exc_info=error)
                self._conclude(claim, False, NodeError(f"unexpected error {type(error).__name__}"))

    def _perform(self, claim: Claim) -> None:
        def renew() -> None:
            if self._stopping.is_set():
                raise StoppedError("the worker stops")
            self._ledger.runs.renew(claim, self._settings.reading.lease_seconds)

        with self._home.files(claim, renew) as files:
            study, left_aside = self._study(claim, files)
            reading = self._reading(claim, study, partial=bool(left_aside))
            renew()
            destinations, withheld = addressed(claim.decision, self._settings)
            results, unwritten = store_results(self._home, claim, reading, study, destinations)
            self._ledger.runs.results_stored(claim, results, withheld | unwritten)
        try:
            self._dispatcher.dispatch_deliveries()
        except NodeError as error:
            log.warning("deliveries not dispatched; the sweeper will", reason=str(error))

    def _study(self, claim: Claim, files: Mapping[Path, StoredInstance]) -> tuple[Study, list[NotRead]]:
        """The study as it lies in its files, and those of them that cannot be read."""
        studies, refused = load_studies(files, self._settings.limits.of_reading)
        left_aside = [
            NotRead(files[path].series_instance_uid, files[path].sop_instance_uid, str(error))
            for path, error in refused
        ]
        left_aside += [
            NotRead(instance.series_instance_uid, instance.sop_instance_uid, "it names another study as well")
            for study in studies
            if study.study_instance_uid != claim.study_instance_uid
            for instance in study.instances
        ]
        for item in left_aside:
            log.warning("file left aside", sop_instance_uid=item.sop_instance_uid, reason=item.reason)
        for study in studies:
            if study.study_instance_uid == claim.study_instance_uid:
                return replace(study, unusable=(*study.unusable, *left_aside)), left_aside
        raise NodeError(f"none of the study's {len(files)} files can be read: {left_aside[0].reason}")

    def _reading(self, claim: Claim, study: Study, *, partial: bool) -> StudyReading:
        """The run's reading: the stored one if there is one, since a model's answers need not repeat."""
        if claim.reading_digest is None:
            reading = self._ask(claim, study)
            # What the model did not see because it was taken away is not to be told as what it could not read.
            gone = sum(not instance.path.exists() for instance in study.instances)
            if gone:
                raise _GoneError(f"{gone} of the study's files were moved or deleted while it was read")
            reading = replace(reading, partial=reading.partial or partial)
            # Whoever slept for longer than the lease must not put this in the place of another worker's reading.
            self._ledger.runs.renew(claim, self._settings.reading.lease_seconds)
            self._home.store_reading(claim.run_id, reading.to_json())
        else:
            try:
                reading = StudyReading.from_json(self._home.reading(claim.run_id))
            except ValueError:
                raise NodeError("the stored reading is damaged") from None
            if reading.digest != claim.reading_digest:
                raise NodeError("the stored reading is not the one that the ledger knows")
        tallies = tallies_of(reading, self._ledger.headers.of_run(claim.run_id))
        self._ledger.runs.reading_stored(claim, reading.digest, reading.plan, len(reading.findings), tallies)
        return reading

    def _ask(self, claim: Claim, study: Study) -> StudyReading:
        settings = self._settings.reading
        watch = Watch(
            self._ledger,
            claim,
            self._stopping,
            lease_seconds=settings.lease_seconds,
            deadline_seconds=settings.deadline_seconds,
        )
        plans = load_plans(self._settings.engine.plans)
        with watch.watching():
            with watch.loading():
                runtime = self._load()
                refiner = load_refiner(self._settings.engine.refiner)
                calibration = load_calibration(self._settings.engine.calibration)
            watch.token.check()
            plan = _choose(study, runtime, plans, claim.decision)
            begin = time.monotonic()
            try:
                with self._prior(study, plan, watch) as prior:
                    reading = read_study(
                        study,
                        plan,
                        runtime,
                        languages=self._languages(claim.decision),
                        cancel=watch.token,
                        progress=watch.progress,
                        refiner=refiner,
                        calibration=calibration,
                        now=self._clock().astimezone(),  # results of studies that name no time zone are in local time
                        prior=prior,
                        asked=_count,
                    )
            except RuntimeLostError:
                self.close()  # the next attempt loads it anew
                raise
        metrics.read(time.monotonic() - begin)
        log.info(
            "read",
            state=reading.state,
            plan=reading.plan,
            findings=len(reading.findings),
            images=len(reading.images),
            seconds=round(time.monotonic() - begin, 1),
        )
        return reading

    @contextmanager
    def _prior(self, study: Study, plan: Plan, watch: Watch) -> Iterator[Prior | None]:
        """The prior that a plan asks for; None where it asks for none."""
        if not plan.priors:
            yield None
            return
        spool = self._home if isinstance(self._home, Spool) else None
        with ExitStack() as stack:
            with watch.loading():  # no question is asked while it is fetched
                fetched = prior_of(self._settings, self._ledger, spool, study, plan, watch.token.check)
                prior = stack.enter_context(fetched)
            yield prior

    def _languages(self, decision: Decision) -> tuple[Language, ...]:
        """Those that a destination wants; all where none is set."""
        profiles = output_profiles(addressed(decision, self._settings)[0]).values()
        wanted = {language for profile in profiles for language in profile.languages}
        return tuple(language for language in LANGUAGES if language in wanted or not wanted)

    def _load(self) -> Runtime:
        with self._runtime_lock:
            if self._runtime is None:
                begin = time.monotonic()
                engine = self._settings.engine
                self._runtime = load_runtime(
                    engine.runtime, engine.model, threads=engine.threads, device=engine.device, dtype=engine.dtype
                )
                log.info("model loaded", model=self._runtime.identity.name, seconds=round(time.monotonic() - begin, 1))
            return self._runtime

    def _conclude(self, claim: Claim, retry: bool | None, error: MedregaError, delay: timedelta | None = None) -> None:
        """End the attempt; `retry` is None where the node itself broke it off, to go on after a delay or at once."""
        reason = error.explained
        again = retry is None or (retry and claim.attempt < self._settings.reading.attempts)
        try:
            if retry is None:
                later = self._clock() + delay if delay is not None else None
                self._ledger.runs.give_back(claim, reason, later, attempt=False)
            elif again:
                seconds = self._settings.reading.first_delay_seconds * 2 ** (claim.attempt - 1)
                self._ledger.runs.give_back(claim, reason, self._clock() + timedelta(seconds=seconds), attempt=True)
            elif isinstance(error, _IgnoredError):
                self._ledger.runs.end(claim, State.IGNORED, reason)
            else:
                self._ledger.runs.end(claim, State.FAILED, reason)
        except LeaseLostError as lost:
            log.warning("outcome not entered", reason=str(lost))
            return
        log.warning(
            "not read",
            reason=reason,
            again=retry is None or (retry and claim.attempt < self._settings.reading.attempts),
        )


def _count(task: str, answer: Answer, seconds: float) -> None:
    metrics.asked(task, len(answer.prompt_token_ids), len(answer.token_ids), seconds)


def _choose(study: Study, runtime: Runtime, plans: Mapping[str, Plan], decision: Decision) -> Plan:
    """The plan that the route names, if it fits; the best of those that fit where it names none."""
    if decision.plan is None:
        return _fitting(study, runtime, plans.values())
    if decision.plan not in plans:
        raise PlanError(f"route {decision.route} names the plan {decision.plan}, which this worker does not have")
    return _fitting(study, runtime, [plans[decision.plan]])


def _fitting(study: Study, runtime: Runtime, plans: Iterable[Plan]) -> Plan:
    try:
        return choose_plan(study, runtime.identity, plans)
    except PlanError as error:
        raise _IgnoredError(str(error), advice=error.advice) from None
