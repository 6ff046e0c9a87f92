"""``audit``: the trail of who did what."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, print_error

app = typer.Typer(
    help="Look after the audit trail.", no_args_is_help=True, epilog=examples("audit verify", "audit verify --archived")
)


@app.command(epilog=examples("audit verify", "audit verify --noted 4711:9f86d081884c7d65..."))
def verify(
    archived: Annotated[bool, typer.Option("--archived", help="Files of past months were moved elsewhere.")] = False,
    noted: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:HASH", help="A record that must be in it, as an earlier verify printed it."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Find records of the audit trail that were changed, removed, moved, or cut off its end.

    It prints the last record's number and hash: written down elsewhere, they prove later (--noted) that the trail was
    not made anew as a whole.
    """
    from dicom_node.audit import Action, AuditEvent, Outcome, Trail, this_person
    from dicom_node.audit.verification import verify as verified

    number, _, sha256 = (noted or "").partition(":")
    if noted is not None and not (number.isdigit() and len(sha256) == 64):
        raise typer.BadParameter("a record is written NUMBER:HASH, as verify prints it")
    trail = Trail.of(load_settings(config))
    result = verified(trail.folder, archived=archived, noted=(int(number), sha256) if noted else None)
    for complaint in result.complaints:
        print_error(complaint)
    if trail.folder.is_dir():  # the Standard has it entered that the log was used (PS3.15 A.5.3.2)
        outcome = Outcome.SERIOUS_FAILURE if result.complaints else Outcome.SUCCESS
        detail = f"{result.records} records, {len(result.complaints)} complaints"
        trail.write(AuditEvent(Action.TRAIL_VERIFIED, this_person(), outcome=outcome, detail=detail))
    if result.complaints:
        raise typer.Exit(1)
    console().print(f"{result.records} records in {trail.folder}, none changed or missing")
    if result.records:
        console().print(f"last {result.last.number}:{result.last.sha256}")
