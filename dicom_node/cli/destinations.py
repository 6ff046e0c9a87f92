"""``destinations``: where results go, how each does, and holding one back."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, open_ledger, operations, print_error

if TYPE_CHECKING:
    from dicom_node.ledger.records import DestinationRecord

app = typer.Typer(
    help="List the destinations of results: how each does, what waits for it, and its last error.",
    epilog=examples("destinations", "destinations --json", "destinations pause pacs", "destinations probe pacs"),
    invoke_without_command=True,
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A destination of the settings.")]


@app.callback()
def destinations(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    config: ConfigOption = None,
) -> None:
    """List the destinations of results: how each does, what waits for it, and its last error."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings(config)
    with open_ledger(config) as ledger:
        records = ledger.destinations.all(item.name for item in settings.destinations)
    if as_json:
        typer.echo(json.dumps([asdict(record) for record in records], indent=2, default=_plain))
        return
    if not records:
        console().print("no destination is set")
        return
    places = {item.name: str(item) for item in settings.destinations}
    rows = [("destination", "where", "state", "waiting", "oldest", "given up", "delivered")]
    rows += [
        (
            record.name,
            places.get(record.name, "not in the settings"),
            _state(record),
            str(record.waiting),
            _age(record.oldest),
            str(record.given_up),
            _age(record.delivered_at),
        )
        for record in records
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, reason in zip(rows, ["", *map(_reason, records)], strict=True):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if reason:
            typer.echo(f"    {reason}")
    if any(record.given_up for record in records):
        typer.echo("given up: see medrega-pacs studies --state FAILED; medrega-pacs retry sends them again")


@app.command(epilog=examples("destinations pause pacs"))
def pause(name: NameArgument, config: ConfigOption = None) -> None:
    """Send nothing to a destination until it is resumed; what is under way ends first, the rest waits."""
    load_settings(config).destination(name)
    from dicom_node.audit import Action

    with operations(config) as node:
        done = node.ledger.destinations.pause(name)
        node.note(Action.DESTINATION_PAUSED, detail=f"destination {name}")
    console().print(f"{name} is paused" if done else f"{name} is paused already")


@app.command(epilog=examples("destinations resume pacs"))
def resume(name: NameArgument, config: ConfigOption = None) -> None:
    """Send to a paused destination again, at once; the hours that results are tried for begin anew."""
    from dicom_node.audit import Action

    with operations(config) as node:
        waiting = node.ledger.destinations.resume(name)
        node.note(Action.DESTINATION_RESUMED, detail=f"destination {name}")
    console().print(f"{name} is resumed; {waiting} result{'s' * (waiting != 1)} wait{'s' * (waiting == 1)} for it")


@app.command(epilog=examples("destinations probe pacs"))
def probe(name: NameArgument, config: ConfigOption = None) -> None:
    """Ask a destination now whether it answers (C-ECHO, or a query); if it does, all that waits is sent at once."""
    with operations(config) as doing:
        found = doing.probe(name)
    if found.complaint is not None:
        print_error(str(found.complaint), found.complaint.advice)
    answered = f"in {found.seconds * 1000:.0f} ms" if found.seconds else ""
    console().print(f"{load_settings(config).destination(name)} answered {answered}".rstrip())
    if found.waiting:
        console().print(f"{found.waiting} result{'s' * (found.waiting != 1)} that waited will be sent now")


def _state(record: DestinationRecord) -> str:
    if record.paused_at is not None:
        return "paused"
    if record.circuit != "closed":
        return "down"
    return "failing" if record.failures else "ok"


def _reason(record: DestinationRecord) -> str:
    if not record.reason or record.failed_at is None:
        return ""
    again = f", asked again {_when(record.retry_at)}" if record.retry_at is not None else ""
    times = f", {record.failures} times in a row" if record.failures > 1 else ""
    return f"last error {_age(record.failed_at)} ago{times}{again}: {record.reason}"


def _when(value: datetime) -> str:
    return f"at {value.astimezone():%H:%M:%S}"


def _age(value: datetime | None) -> str:
    if value is None:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - value).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
