"""DICOMweb: the node's own server, and the front's server as a reading worker on another host sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from dicom_node.settings.section import AETitle, Port, Section, is_loopback
from dicom_node.settings.tls import TlsSettings

Right = Literal["store", "retrieve", "work"]


class DicomwebSettings(Section):
    """The DICOMweb server: STOW-RS in, WADO-RS and QIDO-RS of what is in the spool (PS3.18 10.4 to 10.6)."""

    enabled: bool = Field(default=False, description="Whether the front serves DICOMweb.")
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen at. Other hosts need dicomweb_users and tls; on loopback anyone may store and "
        "retrieve until there are users.",
    )
    port: Port = Field(default=11181, description="TCP port to listen at.")
    aet: AETitle | None = Field(
        default=None, description="Entry point that stored objects count as sent to; listener.aet without."
    )
    tls: TlsSettings | None = Field(
        default=None, description="https only: true for the certificates of [tls], or a table of its own."
    )
    plain_http: bool = Field(
        default=False,
        description="Serve other hosts without tls, passwords and images readable on the way. Say so only behind a "
        "proxy that does TLS, or in a closed network.",
    )
    max_connections: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=64, description="Connections served at the same time; one more is answered 503."
    )
    max_body_mib: PositiveInt = Field(default=8192, description="Largest request in MiB; a larger one is answered 413.")
    timeout_seconds: PositiveFloat = Field(
        default=60, description="How long a client may be silent in the middle of a request or an answer."
    )

    @property
    def url(self) -> str:
        """Where it is reached on its own address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls is not None else 'http'}://{host}:{self.port}"

    @model_validator(mode="after")
    def _closed_until_told(self) -> DicomwebSettings:
        if not (is_loopback(self.host) or self.tls is not None or self.plain_http):
            raise ValueError("other hosts can reach this address: set tls, or plain_http = true")
        if self.tls is not None and self.tls.certificate is None:
            raise ValueError("tls needs a certificate")
        if self.tls is not None and self.tls.require_client and self.tls.ca is None:
            raise ValueError("tls needs the ca of the clients' certificates, or require_client = false")
        return self


class DicomwebUser(Section):
    """A user of the DICOMweb server."""

    name: AETitle = Field(
        pattern="^[^:]+$", description="The user's name; it stands for the calling AE title of what the user stores."
    )
    password_file: Path | None = Field(
        default=None, description="File that holds the hash of a password, as `config passcode` prints it (HTTP Basic)."
    )
    token_file: Path | None = Field(
        default=None, description="File that holds a bearer token, at least 32 characters that nobody guesses."
    )
    rights: tuple[Right, ...] = Field(
        default=("store", "retrieve"),
        min_length=1,
        description="store (STOW-RS) | retrieve (WADO-RS, QIDO-RS) | work (a reading worker: puts readings and "
        "results).",
    )

    @model_validator(mode="after")
    def _secret(self) -> DicomwebUser:
        if self.password_file is None and self.token_file is None:
            raise ValueError("a user needs a password_file or a token_file")
        return self


class FrontSettings(Section):
    """The front's DICOMweb server, for a worker with reading.pixels = "wado"."""

    url: str | None = Field(
        default=None, pattern=r"^https?://[^@]+$", description="Its root, as https://front.example:11181."
    )
    user: str | None = Field(default=None, description="User with the rights retrieve and work.")
    password_file: Path | None = Field(default=None, description="File that holds that user's password.")
    token_file: Path | None = Field(default=None, description="File that holds a bearer token, instead of a user.")
    tls: TlsSettings | None = Field(
        default=None,
        description="Whom to trust: true for the certificates of [tls], or a table of its own; the system's "
        "authorities without.",
    )
    plain_http: bool = Field(default=False, description="Allow an http URL of another host. Only in a closed network.")
    cache_mib: PositiveInt = Field(
        default=8192, description="Most space in MiB that fetched images take at a time, below data.path."
    )
    timeout_seconds: PositiveFloat = Field(default=60, description="How long it may be silent.")

    @model_validator(mode="after")
    def _safe(self) -> FrontSettings:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file belong together")
        if self.user is not None and self.token_file is not None:
            raise ValueError("a user or a token_file, not both")
        if self.url is not None:
            address = urlsplit(self.url)
            if self.tls is not None and address.scheme == "http":
                raise ValueError("tls is set, and url is http, which knows none: https, or no tls")
            if address.scheme == "http" and not (is_loopback(address.hostname or "") or self.plain_http):
                raise ValueError("images and credentials would be readable on the way: https, or plain_http = true")
        return self
