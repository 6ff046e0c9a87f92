"""``commission``: phantom studies through the hospital's PACS and back, checked and put on file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, reporter


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        epilog=examples(
            "commission --simulate",
            "commission --through pacs",
            "commission --through pacs --case ct --case dx-flipped",
        )
    )(commission)


def commission(
    through: Annotated[
        str | None,
        typer.Option("--through", metavar="NAME", help="A PACS: a destination and a source of the settings, both."),
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="A node of its own on this machine, and no PACS.")
    ] = False,
    case: Annotated[
        list[str] | None, typer.Option("--case", metavar="CASE", help="Only this case; may be given several times.")
    ] = None,
    sender: Annotated[
        str,
        typer.Option("--as", metavar="AET", help="AE title to send as: one that the PACS takes, and routes images of."),
    ] = "COMMISSION",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="New folder for the report; commissioning-<date> without."),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=1, help="Give up when nothing changes for so long.")
    ] = 300,
    config: ConfigOption = None,
) -> None:
    """Send test studies of all kinds through the PACS to the running node, and check what comes back.

    The PACS must route them to the node as it does with patients' studies; patients are named TEST. Each result is
    held against what was sent, the phantom's truth and the reading; DIR gets report.pdf, to be signed and filed,
    report.json and a picture a case. Exit status 0 only if every check held.
    """
    from dicom_node.commissioning.cases import chosen
    from dicom_node.commissioning.page import write_report
    from dicom_node.commissioning.run import commission_simulated, commission_through

    if (through is None) != simulate:
        raise typer.BadParameter("one of the two is needed", param_hint="--through NAME or --simulate")
    cases = chosen(tuple(case or ()))
    folder = out or Path(f"commissioning-{datetime.now():%Y%m%d-%H%M%S}")
    settings = load_settings(config)
    with reporter() as report:
        if through is not None:
            found = commission_through(settings, through, cases, folder, report, sender=sender, stall=wait)
        else:
            found = commission_simulated(settings.engine, cases, folder, report)
    as_pdf, as_json = write_report(found, folder)
    print_ = console().print
    for result in found.results:
        if not result.faults:
            print_(f"[green]ok[/green]    {result.case.name:<16} {result.case.title}")
            continue
        print_(f"[red]fail[/red]  {result.case.name:<16} {result.case.title}")
        for check in result.checks:
            for fault in check.faults:
                print_(f"      {check.name}: {fault}", markup=False)
    failed = sum(bool(result.faults) for result in found.results)
    verdict = f"[red]{failed} of {len(found.results)} cases failed.[/red]" if failed else "[green]All passed.[/green]"
    print_(f"{verdict} Report: {as_pdf} and {as_json.name}")
    raise typer.Exit(0 if found.passed else 1)
