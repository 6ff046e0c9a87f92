"""``export``: a study and its results as files, for support without what identifies the patient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, open_ledger, print_error, progress


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=examples("export 1.2.826.0.1.3680043.8.498.1 --out case-7 --deidentify"))(export)


def export(
    study: Annotated[str, typer.Argument(metavar="UID", help="Study Instance UID.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder that is empty, or not there yet.")],
    deidentify: Annotated[
        bool,
        typer.Option(
            "--deidentify",
            help="By PS3.15 E, Basic Application Level Confidentiality Profile; UIDs are others at each export.",
        ),
    ] = False,
    burned_in: Annotated[
        bool,
        typer.Option(
            "--burned-in", help="Take also images whose pixels hold words, or may: you have looked at each of them."
        ),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Write a study's images and results as DICOM files.

    With --deidentify what identifies the patient is replaced or removed, in sequences and references too, and text that
    people or the model wrote. Pixels are not looked into: secondary captures, images that say that names are burned in,
    and ultrasound that does not say that none are, are left out, as documents are.
    """
    from dicom_node.audit import Action, AuditEvent, Trail, this_person
    from dicom_node.deidentification import Deidentifier
    from dicom_node.exporting import write_study
    from dicom_node.spool import Spool
    from engine.errors import NodeError

    if out.exists() and any(out.iterdir()):
        raise NodeError(f"{out} is not empty", advice="name another folder")
    settings = load_settings(config)
    chosen = Deidentifier(burned_in=burned_in) if deidentify else None
    with open_ledger(config) as ledger, progress() as bar:
        ledger.study(study)  # what is unknown is refused before the trail tells of it
        task = bar.add_task("Exporting", total=None)
        told = "de-identified" if deidentify else "with what identifies the patient"
        Trail.of(settings).write(AuditEvent(Action.STUDY_EXPORTED, this_person(), None, study, detail=told))
        done = write_study(
            ledger,
            Spool(settings.data.path, limits=settings.limits),
            study,
            out,
            chosen,
            lambda count, total: bar.update(task, completed=count, total=total),
        )
    for reason, number in done.left_out.items():
        advice = "--burned-in takes those that you have looked at" if "pixels" in reason else ""
        print_error(f"{number} left out: {reason}", advice)
    if deidentify and done.to_look_at:
        words = f"{done.to_look_at} images do not say whether words are burned in"
        print_error(words, "look at them before they leave")
    console().print(f"Wrote {done.written} objects to {out}")
    raise typer.Exit(0 if done.written else 1)
