"""``doctor``: what is wrong with a set-up, named, with what to do about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples

if TYPE_CHECKING:
    from dicom_node.doctor.finding import Finding

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        epilog=examples(
            "doctor",
            "doctor --json",
            "doctor --skip engine",
            "doctor --send",
            "doctor --only destination",
            'doctor --only "source pacs"',
        )
    )(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CHECK", help="Only this check or kind; may come often.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="CHECK", help="Not this check or kind; may come often.")
    ] = None,
    send: Annotated[
        bool,
        typer.Option("--send", help="Store a test object of a phantom at each destination, and have it sent back."),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Look at the whole set-up, whether the node runs or not: each line ok, warn or fail, with what to do.

    Settings, certificates, folders, space, clock, broker, database, ports, engine, and every destination, source and
    worklist. No patient's data is asked for, and without --send nothing is stored at peers. Exit status 1 if something
    fails.
    """
    from dicom_node.doctor.doctor import diagnose

    found = []
    for finding in diagnose(config, only or (), skip or (), send=send):
        found.append(finding)
        if not as_json:
            _tell(finding)
    failed = sum(finding.outcome == "fail" for finding in found)
    warned = sum(finding.outcome == "warn" for finding in found)
    if as_json:
        lines = [
            {"check": one.check, "outcome": one.outcome, "words": one.words, "remedy": one.remedy} for one in found
        ]
        typer.echo(json.dumps({"ok": not failed, "findings": lines}, ensure_ascii=False, indent=2))
    else:
        console().print(f"{len(found)} looked at: {failed} failed, {warned} to be warned of")
    if failed:
        raise typer.Exit(1)


def _tell(finding: Finding) -> None:
    from rich.markup import escape

    outcome = finding.outcome.value
    style = _STYLES[outcome]
    console().print(f"[{style}]{outcome:<4}[/{style}]  {finding.check}: {escape(finding.words)}")
    if finding.remedy:
        console().print(f"      -> {escape(finding.remedy)}")
