"""The console: where its pages are served, who signs in how, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, model_validator

from dicom_node.settings.section import Port, Section, is_loopback
from dicom_node.settings.tls import TlsSettings


class OidcSettings(Section):
    """Signing in to the console by a provider of OpenID Connect, beside the accounts that `console user add` makes."""

    issuer: str | None = Field(
        default=None,
        pattern=r"^https?://[^@\s]+$",
        description="The provider, as its tokens name it; its addresses are found below "
        "ISSUER/.well-known/openid-configuration. Only local accounts without.",
    )
    client_id: str = Field(default="medrega-pacs", min_length=1, description="What the provider knows the console as.")
    password_file: Path | None = Field(default=None, description="File that holds the client's secret.")
    scopes: str = Field(default="openid profile", description="What is asked of the provider, with a blank between.")
    name_claim: str = Field(
        default="preferred_username",
        description="Claim of the ID token that holds the name of who signs in. An email must be told as verified.",
    )
    role_claim: str = Field(default="groups", description="Claim that holds the groups of who signs in.")
    administrators: tuple[str, ...] = Field(default=(), description="Groups whose members are administrators.")
    reviewers: tuple[str, ...] = Field(default=(), description="Groups whose members are reviewers.")
    viewers: tuple[str, ...] = Field(
        default=(), description="Groups whose members are viewers; who is in none of all these groups is refused."
    )
    session_hours: PositiveFloat = Field(
        default=4,
        description="After so long the provider is asked again for a person and their groups; "
        "`console user sign-out` ends it at once.",
    )
    plain_http: bool = Field(
        default=False, description="Allow an issuer of another host by http. Only in a closed network."
    )

    @model_validator(mode="after")
    def _safe(self) -> OidcSettings:
        if self.issuer is None:
            return self
        if self.password_file is None:
            raise ValueError("password_file is missing")
        address = urlsplit(self.issuer)
        if address.scheme == "http" and not (is_loopback(address.hostname or "") or self.plain_http):
            raise ValueError("who signs in could be anybody by http: an https issuer, or plain_http = true")
        if not (self.administrators or self.reviewers or self.viewers):
            raise ValueError("nobody could sign in: name groups in administrators, reviewers or viewers")
        return self


class ConsoleSettings(Section):
    """The console: pages for people, health and metrics."""

    enabled: bool = Field(default=True, description="Whether `up` and `listen` serve the console.")
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen at. Other hosts need tls, or a proxy that does it and plain_http.",
    )
    port: Port = Field(default=11180, description="TCP port to listen at.")
    url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/@\s]+$",
        description="Where browsers reach it, as https://pacs-ai.example, if that is not the address above: behind a "
        "proxy, and for the provider of [oidc] to send people back.",
    )
    tls: TlsSettings | None = Field(
        default=None, description="https only: true for the certificates of [tls], or a table of its own."
    )
    plain_http: bool = Field(
        default=False,
        description="Serve other hosts without tls, passwords and images readable on the way. Say so only behind a "
        "proxy that does TLS, or in a closed network.",
    )
    proxies: tuple[str, ...] = Field(
        default=(),
        description="Addresses of proxies whose X-Forwarded-For is believed, so that attempts to sign in are counted "
        "by who makes them.",
    )
    session_hours: PositiveFloat = Field(default=12, description="After so long one signs in again in any case.")
    idle_minutes: PositiveFloat = Field(default=60, description="After so long without a request one signs in again.")
    language: Literal["en", "zh"] | None = Field(
        default=None, description="Language until a person picks one; the browser's without."
    )

    @property
    def address(self) -> str:
        """Where browsers reach it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.url or f"{'https' if self.tls is not None else 'http'}://{host}:{self.port}"

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach it by https."""
        return self.address.startswith("https://")

    @model_validator(mode="after")
    def _closed_until_told(self) -> ConsoleSettings:
        if not (is_loopback(self.host) or self.tls is not None or self.plain_http):
            raise ValueError("other hosts can reach this address: set tls, or plain_http = true")
        if self.tls is not None and self.tls.certificate is None:
            raise ValueError("tls needs a certificate")
        if self.tls is not None and self.tls.require_client and self.tls.ca is None:
            raise ValueError("tls needs the ca of the clients' certificates, or require_client = false")
        return self
