"""``ledger``: copies of the ledger, and its tables' version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, reporter

if TYPE_CHECKING:
    from dicom_node.ledger.database import Database
    from dicom_node.settings import Settings

app = typer.Typer(
    help="Copy the ledger, put a copy back, and see or change the version of its tables.",
    no_args_is_help=True,
    epilog=examples("ledger backup /backup/ledger-monday", "ledger version"),
)
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False)]


@app.command(epilog=examples("ledger version"))
def version(config: ConfigOption = None) -> None:
    """Print the version of the tables, and the one that this version of the node makes of them when it starts."""
    from dicom_node.ledger.database import revisions

    with _database(load_settings(config)) as database:
        console().print(f"tables {database.revision() or 'none'}, this version {revisions()[-1]}")


@app.command(epilog=examples("ledger upgrade --config /etc/medrega/medrega-pacs.toml"))
def upgrade(config: ConfigOption = None) -> None:
    """Bring the tables up to this version now; a node that starts does it by itself."""
    with _database(load_settings(config)) as database:
        database.migrate()
        console().print(f"The tables are at {database.revision()}")


@app.command(epilog=examples("ledger downgrade 0006"))
def downgrade(
    revision: Annotated[str, typer.Argument(metavar="REVISION", help="As `ledger version` of the older one prints.")],
    config: ConfigOption = None,
) -> None:
    """Take the tables back to an older version's, before that is installed again; make a backup first.

    What only newer versions know (accounts, reviews, ...) is lost. The node must be stopped, on every host.
    """
    from dicom_node.node import OnlyOne, at_work

    settings = load_settings(config)
    with _database(settings) as database, OnlyOne(settings), at_work(settings, alone=True):
        database.downgrade(revision)
        console().print(f"The tables are at {database.revision()}")


@app.command(epilog=examples("ledger backup /backup/ledger-monday"))
def backup(file: FileArgument, config: ConfigOption = None) -> None:
    """Write a copy of the ledger as it is now; the node may run. Copy the data folder after it, never before."""
    from dicom_node.ledger.backup import back_up
    from dicom_node.ledger.ledger import ledger_url

    settings = load_settings(config)
    with _database(settings) as database:
        back_up(ledger_url(settings), file)
        console().print(f"Wrote {file} ({file.stat().st_size / 2**20:.1f} MiB, tables {database.revision()})")


@app.command(epilog=examples("ledger restore /backup/ledger-monday"))
def restore(file: FileArgument, config: ConfigOption = None) -> None:
    """Put a copy in the ledger's place; the node must be stopped, on every host. See deploy/BACKUP.md."""
    from dicom_node.ledger.backup import restore
    from dicom_node.ledger.ledger import ledger_url
    from dicom_node.node import OnlyOne, at_work

    settings = load_settings(config)
    settings.data.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with OnlyOne(settings), at_work(settings, alone=True):
        with _database(settings) as database:
            database.refuse_while_in_use()
        restore(ledger_url(settings), file)
    with _database(settings) as database:
        database.check_key()
        console().print(f"The ledger is that of {file}, tables {database.revision()}")


@app.command(epilog=examples("ledger rekey", "ledger rekey --old-key /etc/medrega/ledger-2026.key"))
def rekey(
    old_key: Annotated[
        Path | None, typer.Option("--old-key", metavar="FILE", help="The key that the ledger is encrypted with now.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Encrypt the ledger with the key of ledger.key_file, or with none where that is not set; make a backup first.

    The node must be stopped, on every host. Broken off, it leaves the ledger as it was.
    """
    from dicom_node.ledger.sealing import LedgerKey
    from dicom_node.node import OnlyOne, at_work

    settings = load_settings(config)
    old = LedgerKey.read(old_key) if old_key is not None else None
    with _database(settings) as database, OnlyOne(settings), at_work(settings, alone=True), reporter() as report:
        database.rekey(old, report)
    told = f"encrypted with {settings.ledger.key_file}" if settings.ledger.key_file is not None else "in the clear"
    console().print(f"The ledger is {told}. Older backups are as they were.")


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    """The ledger's database as it stands: not brought up to date, as opening the ledger would."""
    from dicom_node.ledger.database import Database
    from dicom_node.ledger.ledger import ledger_key, ledger_url
    from engine.errors import NodeError

    if settings.ledger.url is None and not settings.data.path.is_dir():
        raise NodeError(
            f"no node has run here: there is no folder {settings.data.path}",
            advice="go to the node's folder, or name its settings file by --config",
        )
    database = Database(ledger_url(settings), ledger_key(settings))
    try:
        yield database
    finally:
        database.close()
