"""Storage commitment (PS3.4 J): whom the node answers, and how long it waits for those it asks."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat

from dicom_node.settings.section import AETitle, Port, Section
from dicom_node.settings.tls import TlsSettings


class CommitmentPeer(Section):
    """Where a sender hears whether the node keeps its images, unless it waits for that on its own association.

    Sources and destinations are known by their AE titles and need no such table.
    """

    aet: AETitle = Field(description="Its AE title, as it asks.")
    host: str = Field(min_length=1, description="Its address.")
    port: Port = Field(description="Its TCP port.")
    tls: TlsSettings | None = Field(
        default=None, description="true: over TLS, with the certificates of [tls]; or a table like it of its own."
    )


class CommitmentSettings(Section):
    """Storage commitment with senders, who may delete what the node keeps, and with destinations."""

    answers: bool = Field(
        default=True,
        description="Whether senders may ask the node to commit to what they sent; they may then delete it.",
    )
    wait_seconds: NonNegativeFloat = Field(
        default=5, description="How long the association stays open for a destination that reports at once."
    )
    timeout_seconds: PositiveFloat = Field(
        default=3600, description="How long a destination may take to report before it is asked anew."
    )
    first_delay_seconds: PositiveFloat = Field(
        default=5, description="Wait before a peer that was not reached is tried again; it doubles after each."
    )
    max_delay_seconds: PositiveFloat = Field(default=900, description="Longest such wait.")
    max_hours: PositiveFloat = Field(
        default=48, description="How long a peer is tried before its request or report is given up."
    )
