"""``up``, ``listen`` and ``worker``: the node, whole or in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_node.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=examples("up", "up --config /etc/medrega-pacs.toml"))(up)
    app.command(epilog=examples("listen --config /etc/medrega-pacs.toml"))(listen)
    app.command(epilog=examples("worker --config /etc/medrega-pacs.toml"))(worker)


def up(config: ConfigOption = None) -> None:
    """Run the whole node on this machine in the foreground: listener, worker, queue, sweeper.

    Ctrl-C drains and stops: what is being read goes back to the queue, nothing that was received is lost.
    """
    settings = _prepare(config)
    from dicom_node.node import Node
    from dicom_node.process import StopSignal

    stop = StopSignal()
    node = Node(settings)
    node.start()
    try:
        listener = settings.listener
        console().print(f"Listening as {listener.aet}@{listener.host}:{listener.port}, data in {settings.data.path}")
        if settings.dicomweb.enabled:
            console().print(f"DICOMweb at {settings.dicomweb.url}")
        if settings.console.enabled:
            console().print(f"Console at {settings.console.address} (`medrega-pacs console user add` lets people in)")
        for destination in settings.destinations:
            console().print(f"Results go to {destination.name}, {destination}")
        if not settings.destinations:
            console().print("No destination is set: results stay in the data folder")
        stop.wait()
        console().print("Stopping")
    finally:
        node.stop()


def listen(
    config: ConfigOption = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that listen at the port; else listener.processes.")
    ] = None,
) -> None:
    """Run the listener and the sweeper alone; workers run elsewhere, on the same queue, ledger and data folder."""
    settings = _prepare(config)
    if processes is not None:
        more = settings.listener.model_copy(update={"processes": processes})
        settings = settings.model_copy(update={"listener": more})
    from dicom_node.node import run_listener

    listener = settings.listener
    console().print(f"Starting to listen as {listener.aet}@{listener.host}:{listener.port}, Ctrl-C stops")
    run_listener(settings)


def worker(config: ConfigOption = None) -> None:
    """Run a worker alone: it reads, writes and delivers what the queue brings."""
    settings = _prepare(config)
    from dicom_node.node import run_worker

    console().print(f"Working with {settings.engine.runtime} and {settings.engine.model}, Ctrl-C stops")
    run_worker(settings)


def _prepare(config: Path | None) -> Settings:
    from dicom_node.logs import set_up_logging
    from dicom_node.process import keep_files_to_ourselves

    keep_files_to_ourselves()
    settings = load_settings(config)
    set_up_logging(settings.log)
    return settings
