"""Where results go, and how."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from dicom_node.settings.section import AETitle, Port, Section
from engine.findings import Language


class DeliverySettings(Section):
    """How results go to the destinations."""

    max_hours: PositiveFloat = Field(
        default=48, description="How long delivery is tried again before the study is FAILED."
    )
    first_delay_seconds: PositiveFloat = Field(
        default=5, description="Wait before the second attempt; it doubles after each."
    )
    max_delay_seconds: PositiveFloat = Field(default=900, description="Longest wait between two attempts.")
    association_timeout_seconds: PositiveFloat = Field(
        default=30, description="How long a destination may take to accept."
    )
    dimse_timeout_seconds: PositiveFloat = Field(
        default=60, description="How long a destination may take to answer an object."
    )


class Destination(Section):
    """A storage SCP that gets results."""

    name: str = Field(min_length=1, max_length=64, description="Name of the destination in commands, ledger and log.")
    aet: AETitle = Field(description="Its AE title.")
    host: str = Field(default="127.0.0.1", min_length=1, description="Its address.")
    port: Port = Field(description="Its TCP port.")
    profile: str = Field(
        default="viewer",
        min_length=1,
        description="What results it gets: viewer | ihe-air | minimal, or the path of an output profile (TOML).",
    )
    languages: tuple[Language, ...] | None = Field(
        default=None, min_length=1, description="Languages of the results it gets; the profile's own without."
    )
    commitment: bool = Field(
        default=False,
        description="Whether it is asked to commit to what it got (storage commitment); results are purged only after.",
    )
