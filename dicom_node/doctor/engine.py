"""The engine: its model loads, reads a phantom right where it is made for that, and how long it takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dicom_node.demo.checks import Truth, check_truth
from dicom_node.doctor.finding import Check, Finding, fail, ok, warn
from dicom_node.running import reading_worker_pid
from dicom_node.settings import Settings
from engine.findings import RunState
from engine.phantom.studies import phantom
from engine.plan import choose_plan, load_plans
from engine.reader import read_study
from engine.runtime import Runtime, load_runtime, model_path
from engine.study import load_studies

_SEED: Final = 38
"""The demo's: phantoms that are read right by the model that ships."""
_LARGE: Final = ("torch", "tensorrt_llm")
"""Runtimes whose models fill a device: a second one beside the worker's would not fit."""


def engine_checks(settings: Settings) -> list[Check]:
    """The check of the engine; it takes as long as a model does."""
    return [Check("engine", lambda: _engine(settings), None)]


def _engine(settings: Settings) -> Iterator[Finding]:
    engine = settings.engine
    if settings.reading.concurrency == 0:
        yield ok("workers here do not read (reading.concurrency = 0)")
        return
    if not model_path(engine.model).exists():
        return  # the check of the model tells
    worker = reading_worker_pid(settings)
    if engine.runtime in _LARGE and worker is not None:
        yield ok(f"the reading worker, process {worker}, holds the model; stop it to have it loaded and tried here")
        return
    begin = time.perf_counter()
    runtime = load_runtime(
        engine.runtime, engine.model, threads=engine.threads, device=engine.device, dtype=engine.dtype
    )
    try:
        who = runtime.identity
        yield ok(f"{who.name} {who.version} loads in {time.perf_counter() - begin:.1f} s ({engine.runtime})")
        yield from _reads(settings, runtime)
    finally:
        runtime.close()


def _reads(settings: Settings, runtime: Runtime) -> Iterator[Finding]:
    dataset, truth = phantom(_SEED, 0)
    with tempfile.TemporaryDirectory(prefix="medrega-doctor-") as folder:
        path = Path(folder, "phantom.dcm")
        dataset.save_as(path, enforce_file_format=True)
        (study,), _ = load_studies([path])
        plan = choose_plan(study, runtime.identity, load_plans(settings.engine.plans).values())
        begin = time.perf_counter()
        reading = read_study(study, plan, runtime)
        seconds = time.perf_counter() - begin
    speed = f"in {seconds:.1f} s"
    if reading.state in (RunState.NOT_RUN, RunState.UNUSABLE):
        yield fail(
            f"reading a phantom ends {reading.state}",
            "see medrega-pacs engine check",
        )
        return
    if not runtime.identity.commissioning:
        yield ok(f"answers about a phantom {speed}; whether it is right only its own evaluation tells")
    elif settings.engine.runtime == "scripted":
        yield ok(f"a scripted engine, for tests, answers {speed}")
    else:
        things = [Truth(label, box) for label, box in truth]
        faults = check_truth(reading, {str(dataset.SOPInstanceUID): things})
        if faults:
            yield fail(
                f"reads a phantom wrong: {'; '.join(faults)}", "medrega-pacs engine check; is the model damaged?"
            )
        else:
            yield ok(f"reads a phantom right, all {len(things)} things in it, {speed}")
    if seconds > settings.reading.deadline_seconds / 10:
        yield warn(
            f"an image takes {seconds:.0f} s: ten of them, reading.deadline_seconds", "a GPU host, or a longer one"
        )
