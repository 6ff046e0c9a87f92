"""``purge``: remove what every destination has, and say what stays and why."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, open_ledger, progress

if TYPE_CHECKING:
    from dicom_node.retention import Verdict

_UNITS: Final = {"d": "days", "h": "hours", "min": "minutes", "m": "minutes", "s": "seconds"}
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)?")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=examples("purge --dry-run", "purge --older-than 90d --dry-run", "purge --older-than 90d"))(purge)


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no age; write 90d, 12h or 30min")
    return timedelta(**{_UNITS[match[2] or "d"]: float(match[1])})


def purge(
    older_than: Annotated[
        timedelta | None,
        typer.Option(
            "--older-than", metavar="AGE", parser=_age, help="Take this age (90d, 12h) for those of the settings."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    config: ConfigOption = None,
) -> None:
    """Remove images, readings and results that are due by the retention table, and never what was not delivered.

    Studies that are on their way, held or being read stay, and so do results that a destination has yet to commit to.
    The ledger keeps its record of everything.
    """
    from dicom_node.retention import Retention
    from dicom_node.spool import Spool

    settings = load_settings(config)
    with open_ledger(config) as ledger:
        retention = Retention(settings, Spool(settings.data.path), ledger)
        verdicts = retention.plan(older_than)
        _print(verdicts)
        due = [verdict for verdict in verdicts if verdict.images_go or verdict.results_go]
        if dry_run or not due:
            console().print("nothing was removed")
            return
        with progress() as bar:
            task = bar.add_task("Purging", total=len(due))
            images, results = retention.purge(due, lambda: bar.advance(task))
    console().print(f"{_count(images, 'image')} and {_count(results, 'result')} removed")


def _print(verdicts: list[Verdict]) -> None:
    going = [verdict for verdict in verdicts if verdict.images_go or verdict.results_go]
    for verdict in going:
        parts = []
        if verdict.images_go:
            images = _count(verdict.holding.images, "image")
            parts.append(f"{images}, {_size(verdict.size)}: {verdict.images_go}")
        if verdict.results_go:
            parts.append(f"{_count(verdict.holding.results, 'result')}: {verdict.results_go}")
        typer.echo(f"goes   {verdict.holding.study_instance_uid}  {'; '.join(parts)}")
    staying = [verdict for verdict in verdicts if verdict.stays]
    for verdict in staying:
        typer.echo(f"stays  {verdict.holding.study_instance_uid}  {_size(verdict.size)}: {verdict.stays}")
    why = Counter(verdict.stays for verdict in staying)
    freed = sum(verdict.size for verdict in going if verdict.images_go)
    typer.echo(f"{len(going)} go, with {_size(freed)} of images; {len(staying)} stay{':' * bool(staying)}")
    for reason, count in why.most_common():
        typer.echo(f"  {count}: {reason}")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
