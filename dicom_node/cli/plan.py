"""``plan``: which questions are asked of which images, and what of a study is read and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, print_error, report_refused
from engine.errors import PlanError

if TYPE_CHECKING:
    from engine.plan import Match, Plan, PlanFile
    from engine.study import Study

app = typer.Typer(
    help="Show plans: which questions are asked of which images.",
    no_args_is_help=True,
    epilog=examples("plan list", "plan which study/"),
)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list", epilog=examples("plan list", "plan list --json"))
def list_(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the plans that ship and the site's own, with what they are for and what they ask."""
    from rich.table import Table

    plans = _plans(config)
    if as_json:
        typer.echo(json.dumps([_summary(file) for file in plans.values()], ensure_ascii=False))
        return
    table = Table("plan", "for", "tasks", "looks for", "from", box=None)
    for name, file in sorted(plans.items()):
        told = _summary(file)
        number = len(file.plan.objects)
        looks = f"{number} object{'s' * (number != 1)}" if number else ""
        table.add_row(name, _for(file.plan), ", ".join(told["tasks"]), looks, told["from"])
    console().print(table)


@app.command(epilog=examples("plan show ct-chest", "plan show ct-chest > plans/my-chest.toml", "plan show oct --json"))
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A plan's name, as `plan list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole plan as JSON, defaults filled in.")] = False,
    config: ConfigOption = None,
) -> None:
    """Print a plan's file, to be read or to begin one of your own from."""
    plans = _plans(config)
    if name not in plans:
        raise typer.BadParameter(f"there is no plan {name!r}; known: {', '.join(sorted(plans))}")
    if as_json:
        typer.echo(plans[name].plan.model_dump_json())
    else:
        typer.echo(plans[name].path.read_text("utf-8"), nl=False)


@app.command(epilog=examples("plan check plans/my-chest.toml", "plan check plans/*.toml --json"))
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Plans.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON.")] = False,
) -> None:
    """Check plans; what is wrong is told by file, line and column. Exit status 1 if something is."""
    from engine.plan import Plan, parse_plan

    faults: list[dict[str, Any]] = []
    for path in files:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            faults.append({"file": str(path), "line": 1, "column": 1, "why": "not UTF-8 text"})
            continue
        parsed = parse_plan(text)
        if not isinstance(parsed, Plan):
            faults += [{"file": str(path), "line": f.line, "column": f.column, "why": f.why} for f in parsed]
        elif not as_json:
            console().print(f"{path}: the plan {parsed.name!r} is right", markup=False)
    if as_json:
        typer.echo(json.dumps(faults, ensure_ascii=False))
    else:
        for fault in faults:
            print_error("{file}:{line}:{column}: {why}".format(**fault))
    if faults:
        raise typer.Exit(1)


@app.command(epilog=examples("plan which study/", "plan which study/ --plan ct-chest", "plan which image.dcm --json"))
def which(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", exists=True, help="DICOM files or folders.")],
    name: Annotated[
        str | None, typer.Option("--plan", metavar="NAME", help="This plan, not the one that fits.")
    ] = None,
    commissioning: Annotated[
        bool, typer.Option("--commissioning", help="For the commissioning model, which has a plan of its own.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say which plan a study is read by, and of each series whether it is read, how much of it, and why.

    Exit status 1 if there is no plan for a study.
    """
    from engine.plan import fitting_plans, read_plans
    from engine.study import load_studies

    settings = load_settings(config)
    plans = read_plans(settings.engine.plans)
    if name is not None and name not in plans:
        raise typer.BadParameter(f"there is no plan {name!r}; known: {', '.join(sorted(plans))}", param_hint="--plan")
    studies, refused = load_studies(paths, settings.limits.of_reading)
    failed = report_refused(refused, paths)
    if not studies:
        print_error("there is no study in what was given")
    told: list[dict[str, Any]] = []
    for study in studies:
        try:
            fitting = fitting_plans(study, (f.plan for f in plans.values() if f.plan.commissioning == commissioning))
            if not fitting and name is None:
                raise PlanError("no plan fits any of its images", advice="`plan list` shows what plans are for")
        except PlanError as error:
            print_error(f"study {study.study_instance_uid}: {error}", error.advice)
            failed += 1
            continue
        chosen = plans[name].plan if name is not None else fitting[0]
        also = [plan.name for plan in fitting if plan.name != chosen.name]
        told.append(
            {"study": study.study_instance_uid, "plan": chosen.name, "also_fit": also, "series": _series(study, chosen)}
        )
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        for one in told:
            _print_which(one)
    if told and name is None and not commissioning and settings.engine.model == "phantom":
        note = "the settings name the commissioning model, which reads every study by its own plan"
        typer.echo(f"Note: {note}; --commissioning shows it. This is what a clinical model gets.", err=True)
    if failed or not studies:
        raise typer.Exit(1)


def _series(study: Study, plan: Plan) -> list[dict[str, Any]]:
    """What becomes of each series, in the order of reading, then those that are not read."""
    from engine.selection import select_frames

    selection = select_frames(study, plan)
    known = {series.series_instance_uid: series for series in study.series}
    reasons = {one.series_instance_uid: one.reason for one in selection.series}
    rest: dict[str, list[str]] = {}
    for item in selection.not_read:
        rest.setdefault(item.series_instance_uid, []).append(item.reason)
    return [
        {
            "series": uid,
            "number": str(known[uid].instances[0].header.get("SeriesNumber") or "") if uid in known else "",
            "modality": known[uid].modality if uid in known else "",
            "images": sum(one.number_of_frames for one in known[uid].instances) if uid in known else 0,
            "read": sum(instance.series_instance_uid == uid for instance, _ in selection.frames),
            "why": reasons.get(uid, ""),
            "why_not": rest.get(uid, []),
        }
        for uid in dict.fromkeys([*reasons, *known, *rest])
    ]


def _print_which(told: dict[str, Any]) -> None:
    from rich.table import Column, Table

    also = f" (these fit as well: {', '.join(told['also_fit'])})" if told["also_fit"] else ""
    console().print(f"study {told['study']}: plan [bold]{told['plan']}[/bold]{also}")
    table = Table("series", "kind", Column("read", justify="right"), Column("of", justify="right"), "why", box=None)
    for one in told["series"]:
        why = "; ".join([one["why"], *one["why_not"]] if one["why"] else one["why_not"])
        name = f"{one['number'] or '-'} ...{one['series'][-8:]}"
        table.add_row(name, one["modality"], str(one["read"] or "-"), str(one["images"]), why)
    console().print(table)


def _plans(config: Path | None) -> dict[str, PlanFile]:
    from engine.plan import read_plans

    return read_plans(load_settings(config).engine.plans)


def _summary(file: PlanFile) -> dict[str, Any]:
    plan = file.plan
    return {
        "name": plan.name,
        "title": plan.title,
        "commissioning": plan.commissioning,
        "match": plan.match.model_dump(exclude_defaults=True),
        "tasks": list(plan.tasks),
        "objects": [item.label for item in plan.objects],
        "from": str(file.path) if plan.own else "ships",
    }


def _for(plan: Plan) -> str:
    if plan.commissioning:
        return "the commissioning model, whatever the study"
    return ", ".join(_conditions(plan.match)) or "any image"


def _conditions(match: Match) -> list[str]:
    """What a plan is for, in a few words: the first of many values stands for them."""
    parts = ["/".join(match.modality), "/".join(match.view), "/".join(match.laterality)]
    if anatomy := (*match.body_part, *match.words):
        parts.append(f"{anatomy[0]}..." if len(anatomy) > 1 else anatomy[0])
    if match.sop_class:
        parts.append(f"{len(match.sop_class)} SOP classes")
    if match.age_from is not None:
        parts.append(f"from {match.age_from:g} years")
    if match.age_below is not None:
        parts.append(f"below {match.age_below:g} years")
    return [part for part in parts if part]
