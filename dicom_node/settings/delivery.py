"""Where results go, and how."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from dicom_node.settings.section import Section
from dicom_node.settings.sources import Endpoint
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
    breaker_failures: PositiveInt = Field(
        default=5,
        description="After so many failures in a row to reach a destination, nothing more is sent there until it "
        "answers again; results wait, and the hours above go on.",
    )
    probe_seconds: PositiveFloat = Field(
        default=30, description="Pause between two questions (C-ECHO, or a query by QIDO-RS) whether it answers again."
    )
    association_timeout_seconds: PositiveFloat = Field(
        default=30, description="How long a destination may take to accept."
    )
    dimse_timeout_seconds: PositiveFloat = Field(
        default=60, description="How long a destination may take to answer an object."
    )
    fast: bool = Field(
        default=True,
        description="Send by the node's own data path: files go to the socket as they are. false leaves all to "
        "pynetdicom, several times slower.",
    )


class Destination(Endpoint):
    """An archive or viewer that gets results: a storage SCP (PS3.4 B), or a server of STOW-RS (PS3.18 10.5)."""

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

    @model_validator(mode="after")
    def _commits_by_dimse(self) -> Destination:
        if self.commitment and self.protocol != "dimse":
            raise ValueError('commitment is for protocol = "dimse"')
        return self

    def __str__(self) -> str:
        return self.url if self.url is not None else f"{self.aet}@{self.host}:{self.port}"
