"""Who may send, and how."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from dicom_node.settings.section import AETitle, Port, Section


class ListenerSettings(Section):
    """The storage and verification SCP (PS3.4 A and B)."""

    aet: AETitle = Field(default="MEDREGA", description="AE title of the node, as listener and as sender of results.")
    host: str = Field(default="127.0.0.1", description="Address to listen at; loopback only until told otherwise.")
    port: Port = Field(default=11112, description="TCP port to listen at.")
    calling_aets: tuple[AETitle, ...] = Field(
        default=(), description="AE titles that may send; empty allows any on loopback."
    )
    promiscuous: bool = Field(
        default=False,
        description="Allow any calling AE title at an address other hosts can reach. Say so only in a closed network.",
    )
    max_associations: PositiveInt = Field(default=25, description="Associations served at the same time.")
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1_048_576)] = Field(
        default=131_072, description="Largest PDU that the node announces; 131072 is the fastest measured."
    )
    acse_timeout_seconds: PositiveFloat = Field(default=30, description="How long association messages may take.")
    dimse_timeout_seconds: PositiveFloat = Field(default=60, description="How long one DIMSE message may take.")
    network_timeout_seconds: PositiveFloat = Field(
        default=120, description="How long a peer may be silent in an association."
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _closed_until_told(self) -> ListenerSettings:
        if not (self.loopback or self.calling_aets or self.promiscuous):
            raise ValueError(
                "other hosts can reach this address: list the senders in calling_aets, or set promiscuous = true"
            )
        return self
