"""What the commands share: consoles, the settings option, errors in one line, and names of peers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import MedregaError, NodeError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from dicom_node.dimse.scu import Peer
    from dicom_node.ledger import Ledger
    from dicom_node.operations import Operations
    from dicom_node.settings import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file; medrega-pacs.toml of this folder if there is one."),
]


def examples(*lines: str) -> str:
    """The examples below a command's help."""
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  medrega-pacs {line}".replace("[", "\\[") for line in lines)


def console() -> Console:
    """Standard output; in a pipe or a log, which have no width of their own, wide enough for the tables."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=not terminal, width=None if terminal else 120)


def progress() -> Progress:
    """A progress display on standard error, so that output can be piped."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


@contextmanager
def reporter() -> Iterator[Callable[[str, int, int], None]]:
    """A live display at a terminal; elsewhere, such as in a CI log, a line whenever something changes."""
    with progress() as bar:
        if not bar.console.is_terminal:
            last: list[tuple[str, int, int]] = []

            def line(step: str, done: int, total: int) -> None:
                if last[-1:] != [(step, done, total)]:
                    last[:] = [(step, done, total)]
                    typer.echo(f"{step} {done} of {total}" if total else step, err=True)

            yield line
            return
        tasks: dict[str, int] = {}

        def live(step: str, done: int, total: int) -> None:
            if step not in tasks:
                for other in tasks.values():
                    bar.stop_task(bar.task_ids[other])
                tasks[step] = len(tasks)
                bar.add_task(step, total=total or None)
            bar.update(bar.task_ids[tasks[step]], completed=done, total=total or None)

        yield live


def print_error(message: str, advice: str = "") -> None:
    """One clear line on standard error, with advice where there is some."""
    line = " ".join(f"medrega-pacs: {message}{f' ({advice})' if advice else ''}".split())
    # A file's name may hold commands for a terminal.
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    typer.echo(typer.style(line, fg=typer.colors.RED) if sys.stderr.isatty() else line, err=True)


def report_refused(refused: Iterable[tuple[Path, MedregaError]], given: Collection[Path]) -> int:
    """Name the files that cannot be used; how many of them were asked for by name, which makes the command fail.

    Others lay in a folder beside the DICOM files, as lists and notes do.
    """
    named = 0
    for path, error in refused:
        named += path in given
        print_error(f"{path}: {error}" if path in given else f"{path}: left out, {error}", error.advice)
    return named


def load_settings(config: Path | None) -> Settings:
    """The settings a command works with."""
    from dicom_node.settings import Settings

    return Settings.load(config)


@contextmanager
def open_ledger(config: Path | None) -> Iterator[Ledger]:
    """The ledger of a node that runs, or has run, with these settings."""
    from dicom_node.ledger import Ledger
    from dicom_node.process import keep_files_to_ourselves

    keep_files_to_ourselves()
    settings = load_settings(config)
    if settings.ledger.url is None and not settings.data.path.is_dir():
        raise NodeError(
            f"no node has run here: there is no folder {settings.data.path}",
            advice="go to the node's folder, or name its settings file by --config",
        )
    ledger = Ledger.open(settings)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def operations(config: Path | None) -> Iterator[Operations]:
    """What can be done to the studies of a node that runs, or has run, with these settings."""
    from dicom_node.operations import Operations

    with open_ledger(config) as ledger:
        yield Operations(load_settings(config), ledger)


def find_peer(text: str, settings: Settings) -> Peer:
    """A destination by its name, or a peer written ``AET@HOST:PORT``; anything else is wrong usage."""
    from dicom_node.dimse.scu import Peer

    try:
        if "@" in text:
            return Peer.parse(text)
        return Peer.of(settings.destination(text))
    except SettingsError as error:
        raise typer.BadParameter(f"{error} ({error.advice})" if error.advice else str(error)) from None
