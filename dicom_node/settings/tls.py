"""How connections are secured (PS3.15 annex B)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dicom_node.settings.section import Section


class TlsSettings(Section):
    """Certificates and rules of TLS, for the node as a server and as a client."""

    certificate: Path | None = Field(
        default=None,
        description="PEM file of the node's own certificate, with those of intermediate authorities behind it. "
        "A listener needs one; a client shows it to servers that ask. A new file is used for new connections at once.",
    )
    key: Path | None = Field(
        default=None, description="PEM file of the certificate's private key; without it in the certificate's file."
    )
    key_password_file: Path | None = Field(default=None, description="File that holds the key's password.")
    ca: Path | None = Field(
        default=None,
        description="PEM file of the authorities that peers' certificates must come from. A client without one takes "
        "the system's; a listener that asks for certificates needs one.",
    )
    profile: Literal["bcp195", "bcp195-nd"] = Field(
        default="bcp195",
        description="bcp195: RFC 8996 and 9325 (PS3.15 B.12), TLS 1.2 with ECDHE and AES-GCM, and TLS 1.3 | "
        "bcp195-nd: the older, non-downgrading one (B.10), with DHE in addition for devices that know no ECDHE.",
    )
    verify: Literal["full", "ca", "none"] = Field(
        default="full",
        description="What a client asks of a server's certificate: full (from a known authority, for that host) | ca "
        "(from a known authority) | none (anything goes: whoever is in between reads along).",
    )
    require_client: bool = Field(
        default=True, description="Whether the listener takes only clients with a certificate of an authority in ca."
    )

    @model_validator(mode="after")
    def _key_of_a_certificate(self) -> TlsSettings:
        if self.certificate is None and (self.key is not None or self.key_password_file is not None):
            raise ValueError("key and key_password_file are for a certificate, and there is none")
        return self
