"""``studies``, ``study``, ``retry``, ``cancel``, ``reread``, ``retract``: what is where and why, and a way back in."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli.common import ConfigOption, console, examples, open_ledger, operations, print_error, progress
from engine.errors import NodeError

if TYPE_CHECKING:
    from dicom_node.ledger import State
    from dicom_node.ledger.records import StudyRecord, StudySummary
    from dicom_node.operations import Operations


class Reason(StrEnum):
    """Why results are withdrawn, as `sr_writer.RejectionReason`, which takes half a second to load."""

    QUALITY = "quality"
    SAFETY = "safety"


UidArgument = Annotated[str, typer.Argument(metavar="UID", help="Study Instance UID.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=examples("studies", "studies --state FAILED", "studies --json"))(studies)
    app.command(epilog=examples("study 1.2.826.0.1.3680043.8.498.1"))(study)
    app.command(
        epilog=examples(
            "retry 1.2.826.0.1.3680043.8.498.1", "retry --all", "retry --all --state CANCELLED --older-than 2h --yes"
        )
    )(retry)
    app.command(epilog=examples("cancel 1.2.826.0.1.3680043.8.498.1"))(cancel)
    app.command(epilog=examples("reread 1.2.826.0.1.3680043.8.498.1 --plan ct-chest"))(reread)
    app.command(
        epilog=examples("retract 1.2.826.0.1.3680043.8.498.1", "retract 1.2.826.0.1.3680043.8.498.1 --reason safety")
    )(retract)


def studies(
    state: Annotated[str | None, typer.Option("--state", metavar="S", help="Only studies in this state.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the studies, newest first: where each stands, since when, and why."""
    wanted = _state(state) if state is not None else None
    with open_ledger(config) as ledger:
        found = ledger.studies(wanted)
        paused = ledger.switches.paused()
        waited_for = ledger.destinations.all(())
    for work, switched in paused.items():
        reason = f" ({switched.reason})" if switched.reason else ""
        typer.echo(f"{work} is paused since {_time(switched.at)}{reason}", err=as_json)
    for destination in waited_for:
        if destination.paused_at is not None:
            since = _time(destination.paused_at)
            typer.echo(f"{destination.name} is paused since {since}; {destination.waiting} results wait", err=as_json)
    if as_json:
        _print_json([asdict(item) for item in found])
        return
    if not found:
        console().print("no studies")
        return
    rows = [("study", "state", "since", "images", "from")]
    for item in found:
        callers = ", ".join(item.calling_aets)
        rows.append((item.study_instance_uid, item.state, _ago(item.age_seconds), str(item.instances), callers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # A UID is there to be copied and a reason to be read, so neither is cut or broken: a reason has a line of its own.
    for row, reason in zip(rows, ["", *map(_why, found)], strict=True):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if reason:
            typer.echo(f"    {reason}")


def _why(item: StudySummary) -> str:
    held = f"held by hand since {_time(item.held_at)}" if item.held_at is not None else ""
    return "; ".join(part for part in (held, item.reason) if part)


def _state(name: str) -> State:
    from dicom_node.ledger import State

    known = [item.value for item in State]
    if name.upper() not in known:
        raise typer.BadParameter(f"{name!r} is no state; known: {', '.join(known)}", param_hint="--state")
    return State(name.upper())


def study(uid: UidArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one study: its runs, results, deliveries, and everything that happened to it."""
    with open_ledger(config) as ledger:
        record = ledger.study(uid)
    if as_json:
        _print_json(asdict(record))
    else:
        _print_record(record)


def retry(
    uid: Annotated[str | None, typer.Argument(metavar="[UID]", help="Study Instance UID.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every study in a state; shows which and asks.")] = False,
    state: Annotated[
        str, typer.Option("--state", metavar="S", help="With --all: FAILED, IGNORED or CANCELLED.")
    ] = "FAILED",
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="With --all: for so long, as 90s, 30min, 2h or 3d.")
    ] = "0s",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --all: do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Put a FAILED, IGNORED or CANCELLED study back in, or all of them."""
    if (uid is None) != everything:
        raise typer.BadParameter("name one study, or say --all", param_hint="UID")
    with operations(config) as node:
        if uid is not None:
            console().print(f"the study is {node.retry(uid)}")
        else:
            _retry_all(node, _state(state), _seconds(older_than), yes=yes)


def _retry_all(node: Operations, state: State, seconds: float, *, yes: bool) -> None:
    if state not in ("FAILED", "IGNORED", "CANCELLED"):
        raise typer.BadParameter("only FAILED, IGNORED and CANCELLED studies can be tried again", param_hint="--state")
    found = [item for item in node.ledger.studies(state) if item.age_seconds >= seconds]
    if not found:
        console().print(f"no study is {state}{f' for {_ago(seconds)}' if seconds else ''}")
        return
    typer.echo(f"{_studies(len(found))} {state}:")
    for reason, count in Counter(item.reason for item in found).most_common():
        ages = [item.age_seconds for item in found if item.reason == reason]
        typer.echo(f"  {count:>5}  for {_ago(min(ages))} to {_ago(max(ages))}: {reason or 'no reason given'}")
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Try {_studies(len(found))} again?")):
        typer.echo("nothing was changed" if sys.stdin.isatty() else "nothing was changed; --yes tries them again")
        return
    again = 0
    with progress() as bar:
        for item in bar.track(found, description="trying again"):
            try:
                node.retry(item.study_instance_uid)
                again += 1
            except NodeError as error:  # a late image has opened it anew meanwhile
                print_error(f"{item.study_instance_uid}: {error}")
    typer.echo(f"{_studies(again)} to be read or delivered again")


def _studies(number: int) -> str:
    return f"{number} {'study' if number == 1 else 'studies'}"


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d)", age)
    if match is None:
        raise typer.BadParameter(f"{age!r} is no age; write 90s, 30min, 2h or 3d", param_hint="--older-than")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[match[2]]


def cancel(uid: UidArgument, config: ConfigOption = None) -> None:
    """Stop a study wherever it is, or give up one that FAILED; what was delivered stays, a later image opens it anew.

    While a study is still being sent, its images join what was cancelled, until none came for its quiet time.
    """
    with operations(config) as node:
        node.cancel(uid)
    console().print("the study is CANCELLED")


def reread(
    uid: UidArgument,
    plan: Annotated[str, typer.Option("--plan", metavar="NAME", help="A plan, as `plan list` shows them.")],
    config: ConfigOption = None,
) -> None:
    """Read a study again by another plan; its new results supersede the old ones and go where those went."""
    with operations(config) as node:
        number = node.reread(uid, plan)
    console().print(f"run {number} of the study is QUEUED, to be read by the plan {plan}")


def retract(
    uid: UidArgument,
    reason: Annotated[
        Reason,
        typer.Option(
            "--reason", help="quality: of no use; safety: could harm, archives are to give them out no longer."
        ),
    ] = Reason.QUALITY,
    config: ConfigOption = None,
) -> None:
    """Withdraw what was delivered of a study: a rejection note (IHE IOCM) goes to every destination that has it."""
    with operations(config) as node:
        withdrawn = node.retract(uid, reason)
    for destination, count in withdrawn.items():
        console().print(f"{destination}: {count} result{'s' * (count != 1)} withdrawn; the running node sends the note")


def _print_record(record: StudyRecord) -> None:
    from rich.table import Table

    out = console()
    out.print(f"[bold]{record.study_instance_uid}[/bold], first image {_time(record.created_at)}")
    if record.held_at is not None:
        out.print(f"held by hand since {_time(record.held_at)}; release lets it go on")
    if record.expected is not None:
        out.print(f"{record.expected} images in all, says {record.expected_by}")
    if record.conflicts:
        out.print(f"{record.conflicts} objects came with the UID of another one and other content; they are not read")
    runs = Table(
        "run",
        "state",
        "since",
        "images",
        "route",
        "plan",
        "findings",
        "attempts",
        "why",
        title="Runs",
        title_justify="left",
        box=None,
    )
    for run in record.runs:
        route = f"{run.route} ({run.priority})" if run.route else ""
        found = "" if run.findings is None else run.findings
        counts = (run.instances, route, run.plan or "", found, run.attempts, run.reason)
        runs.add_row(*map(str, (run.number, run.state, _time(run.changed_at), *counts)))
    out.print(runs)
    numbers = {run.id: str(run.number) for run in record.runs}
    if record.deliveries:
        sent = Table(
            "run",
            "result",
            "destination",
            "state",
            "attempts",
            "status",
            "why",
            title="Results",
            title_justify="left",
            box=None,
        )
        for item in record.deliveries:
            status = "" if item.status is None else f"0x{item.status:04X}"
            sent.add_row(
                numbers[item.run_id], item.kind, item.destination, item.state, str(item.attempts), status, item.reason
            )
        out.print(sent)
    elif record.results:
        out.print(f"Results: {', '.join(item.kind for item in record.results)}; no destination")
    events = Table("when", "what", "why", title="Events", title_justify="left", box=None)
    happened = []
    for event in record.events:
        if event.kind == "attempt":  # the results' own lines say how they came off
            continue
        change = f"{event.from_state or ''} -> {event.to_state}" if event.to_state else event.kind
        happened.append((_time(event.at), change.removeprefix(" -> "), event.reason))
    for (at, change, reason), alike in groupby(happened):  # a delivery that fails says so of each of its results
        count = len(list(alike))
        events.add_row(at, change, f"{reason} ({count} times)" if count > 1 else reason)
    out.print(events)


def _time(value: datetime) -> str:
    return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
