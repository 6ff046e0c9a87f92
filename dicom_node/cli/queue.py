"""``hold``, ``release``, ``push``, ``pause`` and ``resume``: what is read when, by hand."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, operations
from dicom_node.cli.studies import UidArgument

UID = "1.2.826.0.1.3680043.8.498.1"


class Work(StrEnum):
    """What can be paused, as `dicom_node.ledger.switches.Work`, which takes a while to load."""

    READING = "reading"
    DELIVERY = "delivery"


WorkArgument = Annotated[Work, typer.Argument(metavar="WORK", help="reading or delivery.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for whoever looks later.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=examples(f"hold {UID}", f'hold {UID} --reason "wrong patient, being corrected"'))(hold)
    app.command(epilog=examples(f"release {UID}"))(release)
    app.command(epilog=examples(f"push {UID}"))(push)
    app.command(epilog=examples("pause reading", 'pause reading --reason "new model tonight"', "pause delivery"))(pause)
    app.command(epilog=examples("resume reading"))(resume)


def hold(uid: UidArgument, reason: ReasonOption = "", config: ConfigOption = None) -> None:
    """Keep a study from being read until it is released; its images go on being taken in."""
    with operations(config) as node:
        state = node.hold(uid, reason)
    said = "it is not read until it is released"
    if state not in ("RECEIVING", "COMPLETE", "QUEUED"):
        said = f"it is {state}, which goes on (cancel stops it); what arrives of it from now on waits"
    console().print(f"the study is held: {said}")


def release(uid: UidArgument, config: ConfigOption = None) -> None:
    """Let a study go on that was held; one that still receives waits its quiet time anew."""
    with operations(config) as node:
        state = node.release(uid)
    console().print(f"the study is {state} and goes on")


def push(uid: UidArgument, config: ConfigOption = None) -> None:
    """Read a study next: with the images that are there, without its quiet time, before all that waits."""
    with operations(config) as node:
        state = node.push(uid)
    console().print(f"the study is {state} and the next to be read")


def pause(work: WorkArgument, reason: ReasonOption = "", config: ConfigOption = None) -> None:
    """Begin no more readings or deliveries, for maintenance; what is under way ends, and images are received."""
    from dicom_node.audit import Action
    from dicom_node.ledger.switches import Work as Paused

    with operations(config) as node:
        new = node.ledger.switches.pause(Paused(work), reason)
        node.note(Action.WORK_PAUSED, detail=work)
    console().print(f"{work} is paused; resume lets it go on" if new else f"{work} was paused already")


def resume(work: WorkArgument, config: ConfigOption = None) -> None:
    """Let readings or deliveries go on that were paused."""
    from dicom_node.audit import Action
    from dicom_node.ledger.switches import Work as Paused

    with operations(config) as node:
        was = node.ledger.switches.resume(Paused(work))
        node.note(Action.WORK_RESUMED, detail=work)
    console().print(f"{work} goes on" if was else f"{work} was not paused")
