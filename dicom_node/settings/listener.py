"""Who may send, and how."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr, model_validator

from dicom_node.settings.section import AETitle, Port, Section, is_loopback
from dicom_node.settings.tls import TlsSettings

Priority = Literal["stat", "high", "routine", "low"]


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError("an address is written as 10.1.2.3, 10.1.0.0/16 or fd00:1::/64") from None


Network = Annotated[str, AfterValidator(_network)]


class Entry(Section):
    """An entry point: an AE title that the node is called by, and what is done with what is sent to it."""

    aet: AETitle = Field(description="Called AE title. listener.aet is always one, listed here or not.")
    quiet_seconds: PositiveFloat | None = Field(
        default=None, description="Quiet time of studies that arrive here, instead of those of completion."
    )
    priority: Priority | None = Field(
        default=None, description="stat | high | routine | low, for studies whose route says nothing of it."
    )
    route: str | None = Field(
        default=None, min_length=1, description="Name of the route of studies that arrive here; the rules' without."
    )


class User(Section):
    """Somebody who may ask for an association by user identity negotiation (PS3.7 D.3.3.7)."""

    name: str = Field(
        min_length=1,
        max_length=64,
        description="User name. Where users are listed, an identity that is none of theirs is rejected.",
    )
    passcode_file: Path | None = Field(
        default=None, description="File that holds the user's passcode, or its hash as `config passcode` prints it."
    )
    passcode_hash: SecretStr | None = Field(
        default=None,
        description="That hash itself. Without either the name alone is enough, and a name with a passcode is not.",
    )

    @model_validator(mode="after")
    def _one_passcode(self) -> User:
        if self.passcode_file is not None and self.passcode_hash is not None:
            raise ValueError("a passcode_file or a passcode_hash, not both")
        return self

    @property
    def has_passcode(self) -> bool:
        """Whether the user proves the name."""
        return self.passcode_file is not None or self.passcode_hash is not None


class ListenerSettings(Section):
    """The storage and verification SCP (PS3.4 A and B)."""

    aet: AETitle = Field(default="MEDREGA", description="AE title of the node, as listener and as sender of results.")
    host: str = Field(default="127.0.0.1", description="Address to listen at; loopback only until told otherwise.")
    port: Port = Field(default=11112, description="TCP port to listen at.")
    calling_aets: tuple[AETitle, ...] = Field(
        default=(), description="AE titles that may send; empty allows any on loopback."
    )
    addresses: tuple[Network, ...] = Field(
        default=(),
        description="Addresses that may send, as 10.1.2.3, 10.1.0.0/16 or fd00:1::/64; empty allows any. An AE title "
        "is what a sender says of itself: list addresses, or ask for certificates, where that is not enough.",
    )
    promiscuous: bool = Field(
        default=False,
        description="Allow any calling AE title at an address other hosts can reach. Say so only in a closed network.",
    )
    tls: TlsSettings | None = Field(
        default=None,
        description="TLS only, no connection in the clear: true for the certificates of [tls], or a table of its own.",
    )
    require_user: bool = Field(
        default=False, description="Reject associations without an identity of [[dimse_users]] (PS3.7 D.3.3.7)."
    )
    cleartext_passcodes: bool = Field(
        default=False, description="Let passcodes come over the network without TLS. Say so only in a closed network."
    )
    max_associations: Annotated[int, Field(ge=1, le=400)] = Field(
        default=25,
        description="Associations served at the same time, by all processes; one more is rejected as transient.",
    )
    max_associations_per_peer: PositiveInt | None = Field(
        default=None,
        description="The same by calling AE title and address, in each process; no limit of its own without.",
    )
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1_048_576)] = Field(
        default=131_072, description="Largest PDU that the node announces; 131072 is the fastest measured."
    )
    fast: bool = Field(
        default=True,
        description="Receive images by the node's own data path; false leaves it to pynetdicom, a tenth as fast.",
    )
    durability: Literal["instance", "association"] = Field(
        default="instance",
        description="instance: an image is synced to the disk before it is acknowledged. association: before the "
        "association's release is; faster, and a power cut may take images whose sender was told Success.",
    )
    processes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Processes that listen at the port; more than one where one core cannot keep up. Each has its "
        "share of max_associations.",
    )
    acse_timeout_seconds: PositiveFloat = Field(
        default=30,
        description="How long a connection may take to ask for an association, TLS included, and to end (ARTIM).",
    )
    dimse_timeout_seconds: PositiveFloat = Field(default=60, description="How long one DIMSE message may take.")
    network_timeout_seconds: PositiveFloat = Field(
        default=120, description="How long a peer may be silent in an association."
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        return is_loopback(self.host)

    @model_validator(mode="after")
    def _closed_until_told(self) -> ListenerSettings:
        if not (self.loopback or self.calling_aets or self.promiscuous):
            raise ValueError(
                "other hosts can reach this address: list the senders in calling_aets, or set promiscuous = true"
            )
        if self.tls is not None and self.tls.certificate is None:
            raise ValueError("tls needs a certificate")
        if self.tls is not None and self.tls.require_client and self.tls.ca is None:
            raise ValueError("tls needs the ca of the senders' certificates, or require_client = false")
        return self
