"""``read`` and ``phantom``: what needs no network."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, print_error, progress, report_refused
from engine.errors import MedregaError

if TYPE_CHECKING:
    from engine.findings import Language, StudyReading
    from engine.gate import Calibration
    from engine.plan import Plan
    from engine.refine import Refiner
    from engine.runtime import Runtime
    from engine.study import Study


class ReportLanguage(StrEnum):
    """Languages of the results."""

    EN = "en"
    ZH = "zh"
    BOTH = "both"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=examples("read study/ --out results", "read image.dcm --out results --language zh"))(read)
    app.command(epilog=examples("phantom --out phantoms", "phantom --out phantoms --count 20 --seed 7"))(phantom)


def read(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", exists=True, help="Files or folders.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", file_okay=False, help="Gets a folder a study, named by its study UID."),
    ],
    language: Annotated[ReportLanguage, typer.Option("--language", help="Language of the results.")] = (
        ReportLanguage.BOTH
    ),
    config: ConfigOption = None,
) -> None:
    """Read studies from files, without a network, and write their results.

    Each study's folder gets sr.dcm, seg.dcm, gsps.dcm and sc.dcm where there are regions, overlay.png, report.txt and
    reading.json.
    """
    from engine.findings import LANGUAGES
    from engine.gate import load_calibration
    from engine.plan import load_plans
    from engine.refine import load_refiner
    from engine.runtime import load_runtime
    from engine.study import load_studies

    settings = load_settings(config)
    languages: tuple[Language, ...] = tuple(one for one in LANGUAGES if language in (one, ReportLanguage.BOTH))
    studies, refused = load_studies(paths, settings.limits.of_reading)
    failed = report_refused(refused, paths)
    if not studies:
        print_error("there is no study to read")
        raise typer.Exit(1)
    engine = settings.engine
    plans = load_plans(engine.plans)
    calibration = load_calibration(engine.calibration)
    refiner = load_refiner(engine.refiner)
    runtime = load_runtime(
        engine.runtime, engine.model, threads=engine.threads, device=engine.device, dtype=engine.dtype
    )
    try:
        for study in studies:
            try:
                reading = _read_one(study, runtime, plans, languages, calibration, refiner, out)
            except MedregaError as error:
                print_error(f"study {study.study_instance_uid}: {error}", error.advice)
                failed += 1
            else:
                said = _count(len(reading.findings), "finding") if reading.findings else reading.state.replace("_", " ")
                where = out / study.study_instance_uid
                console().print(f"{said}, {_count(len(reading.images), 'image')} read: {where}")
    finally:
        runtime.close()
    if failed:
        raise typer.Exit(1)


def _read_one(
    study: Study,
    runtime: Runtime,
    plans: dict[str, Plan],
    languages: tuple[Language, ...],
    calibration: Calibration | None,
    refiner: Refiner,
    out: Path,
) -> StudyReading:
    from dicom_node.reading.folder import write_results_folder
    from dicom_node.reading.picture import pictures_of
    from engine.plan import choose_plan
    from engine.reader import read_study
    from sr_writer import OutputProfile, check_results, write_results

    plan = choose_plan(study, runtime.identity, plans.values())
    with progress() as bar:
        task = bar.add_task(f"Reading ...{study.study_instance_uid[-12:]}", total=None)
        reading = read_study(
            study,
            plan,
            runtime,
            languages=languages,
            calibration=calibration,
            refiner=refiner,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        profile = OutputProfile(languages=languages)
        results = write_results(reading, study.headers, profile, pictures=pictures_of(study))
        check_results(results, reading, study.headers)
        write_results_folder(out / study.study_instance_uid, study, reading, results, languages)
    return reading


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def phantom(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Gets the studies and truth.json.")
    ],
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many studies.")] = 8,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed gives the same studies.")] = 1,
) -> None:
    """Write QA phantom studies as DICOM files, and what is where in them as truth.json."""
    from engine.phantom.studies import write_phantoms

    with progress() as bar:
        task = bar.add_task("Drawing phantoms", total=count)
        truth = write_phantoms(out, count, seed, lambda done, _: bar.update(task, completed=done))
    console().print(f"{count} phantom stud{'y' if count == 1 else 'ies'} in {out}, the truth in {truth}")
