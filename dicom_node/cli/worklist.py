"""``worklist``: what is claimed of worklists, and where it stands."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, open_ledger


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=examples("worklist", "worklist --all", "worklist --json"))(worklist)


def worklist(
    ended: Annotated[bool, typer.Option("--all", help="Also those that are completed, canceled or let go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    config: ConfigOption = None,
) -> None:
    """List the workitems that this node has claimed of its worklists, the oldest first."""
    from dicom_node.ledger.workitems import OPEN

    with open_ledger(config) as ledger:
        found = [item for item in ledger.workitems.all() if ended or item.state in OPEN]
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in found], indent=2, default=str))
        return
    if not found:
        console().print("no workitems" if ended else "no workitems are claimed")
        return
    for item in found:
        state = f"{item.state} ({item.outcome})" if item.outcome else str(item.state)
        since = item.changed_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        asked = ", cancel requested" if item.cancel_asked else ""
        typer.echo(f"{item.sop_instance_uid}  {item.worklist}  {state}{asked}  since {since}, {item.progress} %")
        if item.study_instance_uid is not None:
            plan = f", plan {item.plan}" if item.plan else ""
            typer.echo(f"    study {item.study_instance_uid}{plan}")
        if item.reason:
            typer.echo(f"    {item.reason}")
