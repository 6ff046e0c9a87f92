"""``route``: what the rules make of a study and why, whether they are right, and the switch of a route."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli.common import (
    ConfigOption,
    console,
    examples,
    load_settings,
    open_ledger,
    operations,
    print_error,
    report_refused,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dicom_node.ledger.switches import Switched
    from dicom_node.routing.decision import Action, Decision, Target
    from dicom_node.routing.rules import Route
    from dicom_node.settings import Settings
    from engine.study import Study

app = typer.Typer(
    help="Show, check and switch the rules that say what happens to a study.",
    no_args_is_help=True,
    epilog=examples("route test study/", "route check routes.toml", "route off chest --reason 'new detector'"),
)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A route, as `route list` shows it.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; studies that it stops tell it.")]


@app.command(
    "test",
    epilog=examples(
        "route test study/",
        "route test study/ --called ER --rules routes.toml",
        "route test image.dcm --at 2027-01-16T03:00 --json",
    ),
)
def try_(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", exists=True, help="DICOM files or folders.")],
    called: Annotated[
        str | None, typer.Option("--called", metavar="AET", help="Sent to this AE title; else the listener's own.")
    ] = None,
    calling: Annotated[str | None, typer.Option("--calling", metavar="AET", help="Sent by this AE title.")] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            "--at", metavar="TIME", formats=["%Y-%m-%dT%H:%M", "%H:%M"], help="Complete at this time; else now."
        ),
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option("--rules", metavar="FILE", exists=True, help="These rules, not those of the settings."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say which route studies take, what happens to them there, and of every route before it why it does not match.

    What is shown quotes the studies' headers. Switches by hand are not looked at; `route list` shows them.
    """
    from dicom_node.routing.router import asked_priority, named_route, routes_of, time_of_day
    from engine.study import load_studies

    settings = _with_rules(load_settings(config), rules)
    routes = routes_of(settings)
    studies, refused = load_studies(paths, settings.limits.of_reading)
    failed = report_refused(refused, paths)
    if not studies:
        print_error("there is no study in what was given")
    moment = time_of_day(settings, _moment(at))
    told: list[dict[str, Any]] = []
    for study in studies:
        called_aets = (
            [called] if called else _titles(study, "ReceivingApplicationEntityTitle") or [settings.listener.aet]
        )
        calling_aets = [calling] if calling else _titles(study, "SendingApplicationEntityTitle")
        asked, named = asked_priority(settings, called_aets), named_route(settings, called_aets)
        told.append(_told(study, routes, called_aets, calling_aets, asked, named, moment))
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        for one in told:
            _print_test(one)
    if failed or not studies:
        raise typer.Exit(1)


@app.command("list", epilog=examples("route list", "route list --json"))
def list_(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the routes in the order in which they are looked at, with what is switched by hand."""
    from dicom_node.routing.router import routes_of

    settings = load_settings(config)
    routes = routes_of(settings)
    switched = _switches(settings, config)
    if as_json:
        typer.echo(json.dumps([_summary(route, switched) for route in routes], ensure_ascii=False, indent=2))
        return
    from rich.table import Column, Table
    from rich.text import Text

    when = Column("when", overflow="fold")
    table = Table("", "route", when, "action", "priority", "plan", "destinations", "share", box=None)
    for number, route in enumerate(routes, 1):
        told = " ".join(route.condition.text.split()) if route.condition else "every study"
        priority = route.priority or "as asked"
        row = (route.name, told, _action(route, switched), priority, route.plan or "the best fit")
        table.add_row(*map(Text, (str(number), *row, _destinations(route.destinations), f"{route.sample:g} %")))
    console().print(table)
    for name in switched.keys() - {route.name for route in routes}:
        print_error(f"{name} is switched {switched[name].value}, and there is no such route")


@app.command(epilog=examples("route check", "route check routes.toml --json"))
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Rules; else the settings' own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Check rules; what is wrong is told by file, line and column. Exit status 1 if something is."""
    from dicom_node.reading.profiles import output_profiles
    from dicom_node.reading.results import targets
    from dicom_node.routing.decision import Decision
    from dicom_node.routing.router import routes_of
    from dicom_node.routing.rules import Names, parse_rules

    settings = _with_rules(load_settings(config), file)
    path = settings.routing.rules
    if path is None:
        raise typer.BadParameter("the settings name no file of rules (routing.rules): give one", param_hint="FILE")
    try:
        parsed = parse_rules(path.read_text("utf-8"), Names.of(settings))
    except UnicodeDecodeError:
        print_error(f"{path}:1:1: not UTF-8 text")
        raise typer.Exit(1) from None
    faults = parsed if isinstance(parsed, list) else []
    if as_json:
        typer.echo(json.dumps([{"file": str(path), **asdict(fault)} for fault in faults], ensure_ascii=False))
    for fault in faults if not as_json else ():
        print_error(f"{path}:{fault.line}:{fault.column}: {fault.why}")
    if faults:
        raise typer.Exit(1)
    routes = routes_of(settings)  # the entry points' names of them too
    for route in routes:
        output_profiles(targets(Decision(destinations=route.destinations), settings))
    if not as_json:
        typer.echo(f"{path}: the rules are right: {', '.join(route.name for route in routes)}")


@app.command(epilog=examples("route off chest", "route off chest --reason 'boxes on the wrong side'"))
def off(name: NameArgument, reason: ReasonOption = "", config: ConfigOption = None) -> None:
    """Switch a route off at once: what waits, is read or is delivered on it is cancelled, and can be retried later."""
    from dicom_node.routing.decision import Action

    _switch(name, Action.OFF, reason, config)


@app.command(epilog=examples("route shadow chest", "route shadow chest --reason 'new model'"))
def shadow(name: NameArgument, reason: ReasonOption = "", config: ConfigOption = None) -> None:
    """Let a route read and keep its results, and send nothing more, from now on."""
    from dicom_node.routing.decision import Action

    _switch(name, Action.SHADOW, reason, config)


@app.command(epilog=examples("route on chest"))
def on(name: NameArgument, config: ConfigOption = None) -> None:
    """Take the switch of a route back: what its rule says counts again."""
    from dicom_node.routing.decision import Action

    _switch(name, Action.READ, "", config)


def _switch(name: str, action: Action, reason: str, config: Path | None) -> None:
    from dicom_node.audit import Action as Audited
    from dicom_node.routing.router import routes_of
    from dicom_node.routing.rules import nearest
    from engine.errors import MedregaError

    known: Sequence[str] = ()
    try:
        known = [route.name for route in routes_of(load_settings(config))]
    except MedregaError as error:  # a kill switch works whatever has become of the rules
        print_error(str(error), error.advice)
    with operations(config) as node:
        before = node.ledger.switches.routes()
        if known and name not in known and name not in before:
            raise typer.BadParameter(f"there is no route {name}; {nearest(name, known)}", param_hint="NAME")
        stopped = node.ledger.switches.set_route(name, action, reason)
        node.note(Audited.ROUTE_SWITCHED, detail=f"route {name}: {action}")
    if action == "read":
        typer.echo(f"route {name} goes by its rule again" if name in before else f"route {name} was not switched")
    else:
        studies = f"{stopped} stud{'y' if stopped == 1 else 'ies'}"
        done = f"{studies} cancelled" if action == "off" else f"{studies} will have nothing more sent"
        typer.echo(f"route {name} is {'off' if action == 'off' else 'in shadow'}; {done}")


def _with_rules(settings: Settings, rules: Path | None) -> Settings:
    if rules is None:
        return settings
    return settings.model_copy(update={"routing": settings.routing.model_copy(update={"rules": rules})})


def _moment(at: datetime | None) -> datetime | None:
    """A time of day alone is one of today."""
    if at is not None and at.year == 1900:
        return datetime.now().astimezone().replace(hour=at.hour, minute=at.minute)
    return at


def _titles(study: Study, keyword: str) -> list[str]:
    """AE titles in the file meta information, which files of a spool have."""
    return sorted({str(told) for one in study.instances if (told := one.header.file_meta.get(keyword))})


def _told(
    study: Study,
    routes: Sequence[Route],
    called_aets: Sequence[str],
    calling_aets: Sequence[str],
    asked: Any,
    named: str | None,
    moment: datetime,
) -> dict[str, Any]:
    from dicom_node.routing.explanation import explain
    from dicom_node.routing.facts import facts_of
    from dicom_node.routing.header import header_of, person_of
    from dicom_node.routing.rules import decide

    facts = facts_of(
        [(one.series_instance_uid, header_of(one.header)) for one in study.instances],
        person_of(series.instances[0].header for series in study.series),
        called_aets=called_aets,
        calling_aets=calling_aets,
        asked=asked,
        at=moment,
    )
    decision = decide(routes, facts, study.study_instance_uid, asked=asked, named=named)
    return {
        "study": study.study_instance_uid,
        "decision": json.loads(decision.to_json()),
        "ignored": decision.ignored,
        "outcome": _outcome(decision),
        "routes": [asdict(look) for look in explain(routes, facts, named)],
        "known": dict(facts.values),
        "not_known": dict(facts.missing),
    }


def _outcome(decision: Decision) -> str:
    """What happens, in a line."""
    if decision.ignored:
        return f"not read: {decision.ignored}"
    told = [
        "read, results are kept and nothing is sent" if decision.action == "shadow" else "read",
        f"priority {decision.priority}",
        f"plan {decision.plan}" if decision.plan else "the plan that fits best",
    ]
    if decision.action == "read":
        told.append(f"to {_destinations(decision.destinations)}")
    if decision.engine:
        told.append(f"by the engine queue {decision.engine}")
    return ", ".join(told)


def _print_test(told: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    route = told["decision"]["route"]
    typer.echo(f"study {told['study']}: {f'route {route}, ' if route else ''}{told['outcome']}")
    table = Table("", "route", "matches", "why", box=None)
    words = {True: "yes", False: "no", None: "-"}
    for number, look in enumerate(told["routes"], 1):
        row = (str(number), look["route"], words[look["matched"]], " ".join(look["why"].split()))
        table.add_row(*map(Text, row))  # a list of values is no markup
    console().print(table)


def _switches(settings: Settings, config: Path | None) -> Mapping[str, Switched]:
    """What is switched by hand; nothing where no node has run yet."""
    if settings.ledger.url is None and not settings.data.path.is_dir():
        return {}
    with open_ledger(config) as ledger:
        return ledger.switches.routes()


def _action(route: Route, switched: Mapping[str, Switched]) -> str:
    by_hand = switched.get(route.name)
    return (
        f"{by_hand.value} by hand{f' ({by_hand.reason})' if by_hand.reason else ''}" if by_hand else str(route.action)
    )


def _destinations(targets: Sequence[Target] | None) -> str:
    if targets is None:
        return "all destinations"
    said = []
    for target in targets:
        more = [target.profile or "", *(target.languages or ())]
        words = " ".join(word for word in more if word)
        said.append(f"{target.name} ({words})" if words else target.name)
    return ", ".join(said) or "no destination"


def _summary(route: Route, switched: Mapping[str, Switched]) -> dict[str, Any]:
    by_hand = switched.get(route.name)
    return {
        "name": route.name,
        "when": route.condition.text if route.condition else None,
        "action": route.action,
        "by_hand": {"action": by_hand.value, "at": by_hand.at.isoformat(), "reason": by_hand.reason}
        if by_hand
        else None,
        "priority": route.priority,
        "plan": route.plan,
        "destinations": None if route.destinations is None else [asdict(target) for target in route.destinations],
        "engine": route.engine,
        "sample": route.sample,
    }
