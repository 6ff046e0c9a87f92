"""``send`` and ``echo``: this machine as an SCU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import (
    ConfigOption,
    console,
    examples,
    find_peer,
    load_settings,
    print_error,
    progress,
    report_refused,
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=examples("send study/ --to pacs", "send a.dcm b.dcm --to MEDREGA@127.0.0.1:11112"))(send)
    app.command(epilog=examples("echo pacs", "echo MEDREGA@127.0.0.1:11112"))(echo)


PeerHelp = "A destination's name, or AET@HOST:PORT."


def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", exists=True, help="Files or folders.")],
    to: Annotated[str, typer.Option("--to", metavar="NAME|AET@HOST:PORT", help=PeerHelp)],
    config: ConfigOption = None,
) -> None:
    """Send DICOM files to a peer by C-STORE, each as it is stored."""
    from dicom_node.dimse import scu

    settings = load_settings(config)
    peer = find_peer(to, settings)
    files, refused = scu.find_files(paths)
    named = report_refused(refused, paths)
    if not files:
        print_error("there is nothing to send")
        raise typer.Exit(1)
    with progress() as bar:
        task = bar.add_task(f"Sending to {peer.aet}", total=len(files))
        results = scu.send(files, peer, settings.listener.aet, on_result=lambda _: bar.advance(task))
    failed = [result for result in results if not result.ok]
    for result in failed:
        print_error(f"{result.file.path}: {result.reason}")
    for result in results:
        if result.ok and result.reason:
            print_error(f"{result.file.path}: stored with a warning, {result.reason}")
    console().print(f"{len(results) - len(failed)} of {len(results)} files stored at {peer}")
    if failed or named:
        raise typer.Exit(1)


def echo(
    peer: Annotated[str, typer.Argument(metavar="NAME|AET@HOST:PORT", help=PeerHelp)],
    config: ConfigOption = None,
) -> None:
    """Ask a peer by C-ECHO whether it is there."""
    from dicom_node.dimse import scu

    settings = load_settings(config)
    found = find_peer(peer, settings)
    seconds = scu.echo(found, settings.listener.aet)
    console().print(f"{found} answered in {seconds * 1000:.0f} ms")
