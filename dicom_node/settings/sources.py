"""Where studies and priors are fetched from, and who knows how many images a study has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, model_validator

from dicom_node.settings.section import AETitle, Port, Section, is_loopback
from dicom_node.settings.tls import TlsSettings

Retrieve = Literal["move", "get", "wado"]


class Endpoint(Section):
    """Another system: by DIMSE, or by DICOMweb."""

    name: str = Field(min_length=1, max_length=64, description="Its name in commands, ledger and log.")
    protocol: Literal["dimse", "dicomweb"] = Field(
        default="dimse", description="How it is spoken to: dimse | dicomweb."
    )
    aet: AETitle | None = Field(default=None, description="Its AE title (dimse).")
    host: str = Field(default="127.0.0.1", min_length=1, description="Its address (dimse).")
    port: Port | None = Field(default=None, description="Its TCP port (dimse).")
    url: str | None = Field(
        default=None, pattern=r"^https?://", description="Its DICOMweb root, as https://pacs/dicom-web (dicomweb)."
    )
    user: str | None = Field(
        default=None, description="User for HTTP Basic authentication (dicomweb), or user identity negotiation (dimse)."
    )
    password_file: Path | None = Field(
        default=None, description="File that holds that user's password. A dimse peer may know a user by name alone."
    )
    token_file: Path | None = Field(default=None, description="File that holds a bearer token, instead of a user.")
    tls: TlsSettings | None = Field(
        default=None,
        description="true: over TLS, with the certificates of [tls]; or a table like it of its own. An https URL needs "
        "one only where the system does not know the server's authority.",
    )

    @model_validator(mode="after")
    def _reachable(self) -> Endpoint:
        if self.protocol == "dimse":
            if self.aet is None or self.port is None:
                raise ValueError('protocol = "dimse" needs aet and port')
            if self.url is not None or self.token_file is not None:
                raise ValueError('url and token_file are for protocol = "dicomweb"')
            if self.password_file is not None and self.tls is None and not is_loopback(self.host):
                raise ValueError("the password would be readable on the way: set tls")
        elif self.url is None:
            raise ValueError('protocol = "dicomweb" needs url')
        else:
            self._check_url(self.url)
        if self.password_file is not None and self.user is None:
            raise ValueError("password_file is given and user is not")
        if self.protocol == "dicomweb" and (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file belong together")
        if self.user is not None and self.token_file is not None:
            raise ValueError("a user or a token_file, not both")
        return self

    def _check_url(self, url: str) -> None:
        if "@" in url:
            raise ValueError("url holds no user or password: set user and password_file")
        try:
            address = urlsplit(url)
        except ValueError:
            raise ValueError("url cannot be read; it is written as https://pacs/dicom-web") from None
        if self.tls is not None and address.scheme == "http":
            raise ValueError("tls is set, and url is http, which knows none: https, or no tls")
        has_secret = self.password_file is not None or self.token_file is not None
        if has_secret and address.scheme == "http" and not is_loopback(address.hostname or ""):
            raise ValueError("the password or token would be readable on the way: https")


class Remote(Endpoint):
    """A server that is asked."""

    association_timeout_seconds: PositiveFloat = Field(default=30, description="How long it may take to accept.")
    timeout_seconds: PositiveFloat = Field(
        default=60, description="How long it may be silent: before an answer, and between two."
    )


class Source(Remote):
    """An archive or scanner that gives studies: for ``pull``, priors, worklists, and the counts of studies."""

    retrieve: Retrieve | None = Field(
        default=None,
        description="How it gives objects: move (C-MOVE to the listener, whose AE title it must know; the default of "
        "dimse) | get (C-GET) | wado (WADO-RS, the one way of dicomweb).",
    )
    calling_aets: tuple[AETitle, ...] = Field(
        default=(),
        description="Senders whose studies it knows all of: it is asked how many images a study of theirs has. "
        "Its own AE title always counts.",
    )
    priors: bool = Field(default=False, description="Whether priors are looked for here; the first such source counts.")

    @model_validator(mode="after")
    def _way(self) -> Source:
        if self.retrieve is not None and (self.retrieve == "wado") != (self.protocol == "dicomweb"):
            raise ValueError(f'protocol = "{self.protocol}" does not retrieve by {self.retrieve}')
        return self

    @property
    def title(self) -> str:
        """The AE title that its objects count as sent by."""
        return self.aet or self.name[:16]

    @property
    def way(self) -> Retrieve:
        """How it gives objects."""
        return self.retrieve or ("wado" if self.protocol == "dicomweb" else "move")

    def answers_for(self, calling_aet: str) -> bool:
        """Whether it knows how many images a study of this sender has."""
        return calling_aet in (*self.calling_aets, self.title)
