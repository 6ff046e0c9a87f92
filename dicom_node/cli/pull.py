"""``pull``: fetch a study from a source."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, print_error, progress
from engine.errors import MedregaError, NodeError

if TYPE_CHECKING:
    from dicom_node.dimse.suboperations import Cancel, Progress, Retrieved


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    uid = "1.2.826.0.1.3680043.8.498.1"
    app.command(epilog=examples(f"pull --study {uid} --from archive", f"pull --study {uid} --from archive --entry CT"))(
        pull
    )


def pull(
    study: Annotated[str, typer.Option("--study", metavar="UID", help="Study Instance UID.")],
    source: Annotated[str, typer.Option("--from", metavar="NAME", help="A source of the settings (a sources table).")],
    series: Annotated[
        list[str] | None, typer.Option("--series", metavar="UID", help="Only this series; may be given several times.")
    ] = None,
    entry: Annotated[
        str | None, typer.Option("--entry", metavar="AET", help="Entry point that it counts as sent to.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Fetch a study from an archive, to be read: by C-MOVE to the running listener, by C-GET, or by WADO-RS.

    A study that arrives whole is queued at once. Ctrl-C asks the archive to end (C-CANCEL); what has arrived stays.
    """
    from dicom_node.dimse.suboperations import Cancel
    from dicom_node.intake.identity import is_uid
    from dicom_node.intake.storage import Storage
    from dicom_node.ledger import Ledger
    from dicom_node.logs import set_up_logging
    from dicom_node.sources.pull import pull as fetch
    from dicom_node.spool import Spool

    if not all(map(is_uid, [study, *(series or ())])):
        raise typer.BadParameter("a UID is made of digits and dots, at most 64", param_hint="--study, --series")
    settings = load_settings(config)
    set_up_logging(settings.log.model_copy(update={"level": "warning"}))  # what the command says is enough
    found = settings.source(source)
    if entry is not None and entry not in settings.called_aets:
        known = ", ".join(sorted(settings.called_aets))
        raise typer.BadParameter(f"{entry} is no entry point; known are {known}", param_hint="--entry")
    ledger = Ledger.open(settings)
    try:
        spool = Spool.of(settings)
        storage = Storage(spool, ledger)
        cancel = Cancel()
        with progress() as bar:
            task = bar.add_task(f"Fetching from {found.name}", total=None)

            def show(seen: Progress) -> None:
                done = seen.completed + seen.failed + seen.warned
                bar.update(task, completed=done, total=seen.total)

            retrieved = _interruptible(
                lambda: fetch(
                    settings,
                    found,
                    study,
                    storage,
                    series_instance_uids=series or (),
                    entry=entry,
                    on_progress=show,
                    cancel=cancel,
                ),
                cancel,
            )
        state = next((one.state for one in ledger.studies() if one.study_instance_uid == study), None)
    finally:
        ledger.close()
    said = f"{retrieved.completed} image{'s' * (retrieved.completed != 1)} fetched from {found.name}"
    if retrieved.failed:
        said += f", {retrieved.failed} failed"
    if retrieved.not_kept:
        said += f", {retrieved.not_kept} of them results of this node, not stored again"
    console().print(f"{said}; the study is {state}" if state else said)
    if not retrieved.ok:
        print_error(retrieved.reason, retrieved.advice)
        raise typer.Exit(1)


def _interruptible(work: Callable[[], Retrieved], cancel: Cancel) -> Retrieved:
    """Run in a thread, so that Ctrl-C here can ask for the end of it: the peer is told, and answers with the counts."""
    outcome: list[Retrieved | MedregaError] = []
    ended: list[bool] = []

    def run() -> None:
        try:
            outcome.append(work())
        except MedregaError as error:
            outcome.append(error)
        finally:
            ended.append(True)

    threading.Thread(target=run, name="pull", daemon=True).start()
    while not ended:  # not by `Thread.join`, which takes a thread for ended when Ctrl-C comes while it waits
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:
            if cancel.asked:
                raise  # the second time: end without waiting for the peer
            cancel.ask()
    if not outcome:
        raise NodeError("the retrieval ended unexpectedly")
    found = outcome[0]
    if isinstance(found, MedregaError):
        raise found
    return found
