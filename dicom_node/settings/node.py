"""Where the node keeps things, and what it says: folders, ledger, broker, log."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, SecretStr

from dicom_node.settings.section import Section


class DataSettings(Section):
    """Where the node keeps what it received and made."""

    path: Path = Field(
        default=Path("medrega-data"), description="Folder of the spool, the readings, the results and the ledger."
    )
    minimum_free_mib: NonNegativeInt = Field(
        default=512,
        description="Free space in MiB below which an image is refused with status 0xA700, so the sender keeps it.",
    )


class LedgerSettings(Section):
    """The states of all studies."""

    url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL of a database of the site's own; without one SQLite in the data folder.",
    )


class BrokerSettings(Section):
    """The queue between the node's processes; it carries ids only."""

    url: SecretStr | None = Field(
        default=None, description="URL of a Redis of the site's own; without one the node starts an embedded server."
    )


class LogSettings(Section):
    """What the node writes to standard error."""

    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="json, console, or auto: console at a terminal, json elsewhere."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is written."
    )


class SweeperSettings(Section):
    """The sweeper finds complete studies, and work that a crash left."""

    interval_seconds: PositiveFloat = Field(default=1, description="Pause between two sweeps.")
