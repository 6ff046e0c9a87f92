"""Where the node keeps things, and what it says: folders, ledger, broker, log."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import Field, NonNegativeInt, PositiveFloat, SecretStr, model_validator

from dicom_node.settings.section import Section, is_loopback


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
        description="SQLAlchemy URL of a PostgreSQL of the site's own, as postgresql+psycopg://user@host/database"
        "?sslmode=verify-full&sslrootcert=PATH; without one SQLite in the data folder.",
    )
    password_file: Path | None = Field(
        default=None, description="File that holds the password for ledger.url, so that the URL needs none."
    )
    key_file: Path | None = Field(
        default=None,
        description="File that holds a key (`openssl rand -hex 64`): what leads from the ledger to a patient is "
        "encrypted with it. Without the key the ledger is lost: keep a copy of it elsewhere (deploy/ENCRYPTION.md).",
    )

    plain_tcp: bool = Field(
        default=False,
        description="Allow a PostgreSQL of another host without TLS: what it is told can be read and changed on the "
        "way. Only in a closed network.",
    )

    @model_validator(mode="after")
    def _password_of_a_url(self) -> LedgerSettings:
        if self.password_file is not None and self.url is None:
            raise ValueError("password_file is given and url is not: SQLite has no password")
        if self.url is not None and not self.plain_tcp:
            parts = _parts(self.url)
            query = parse_qs(parts.query)
            secured = query.get("sslmode", [""])[-1] in ("require", "verify-ca", "verify-full")
            if parts.scheme.startswith("postgresql") and _is_elsewhere(parts, *query.get("host", ())) and not secured:
                raise ValueError("url is of another host: ?sslmode=verify-full&sslrootcert=PATH, or plain_tcp = true")
        return self


class BrokerSettings(Section):
    """The queue between the node's processes; it carries ids only."""

    url: SecretStr | None = Field(
        default=None,
        description="URL of a Redis of the site's own (redis://, or rediss:// for TLS, ?ssl_ca_certs=PATH); without "
        "one the node starts an embedded server.",
    )
    password_file: Path | None = Field(
        default=None, description="File that holds the password for broker.url, so that the URL needs none."
    )

    plain_tcp: bool = Field(
        default=False,
        description="Allow a Redis of another host without TLS: the password can be read on the way. Only in a closed "
        "network.",
    )

    @model_validator(mode="after")
    def _password_of_a_url(self) -> BrokerSettings:
        if self.password_file is not None and self.url is None:
            raise ValueError("password_file is given and url is not: the embedded server has no password")
        if self.url is not None and not self.plain_tcp:
            parts = _parts(self.url)
            if parts.scheme == "redis" and _is_elsewhere(parts):
                raise ValueError("url is of another host: rediss://, or plain_tcp = true")
        return self


def _parts(url: SecretStr) -> SplitResult:
    try:
        return urlsplit(url.get_secret_value())
    except ValueError:  # whose words may quote a password
        raise ValueError("url cannot be read") from None


def _is_elsewhere(url: SplitResult, *hosts: str) -> bool:
    """Whether a server is one of another host; a path is a socket of this one."""
    named = [url.hostname or "", *hosts]
    return any(host and not host.startswith("/") and not is_loopback(host) for host in named)


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
