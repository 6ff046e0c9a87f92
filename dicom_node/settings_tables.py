"""The tables of the settings file, each a frozen model: every key with its default and its help."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from engine.findings import Language
from engine.refine import REFINER


def _ae_title(value: str) -> str:
    """An application entity title as PS3.5 6.2 (VR AE) allows it."""
    title = value.strip(" ")
    if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ValueError("an AE title is 1 to 16 printable ASCII characters without a backslash")
    return title


AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(Section):
    """Where the node keeps what it received and made."""

    path: Path = Field(
        default=Path("medrega-data"), description="Folder of the spool, the readings, the results and the ledger."
    )
    minimum_free_mib: NonNegativeInt = Field(
        default=512,
        description="Free space in MiB below which an image is refused with status 0xA700, so the sender keeps it.",
    )


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


class CompletionSettings(Section):
    """When a study counts as complete."""

    quiet_seconds: PositiveFloat = Field(
        default=60,
        description="A study is complete when no image of it arrived for so long; scanners pause between series.",
    )
    per_calling_aet: dict[AETitle, PositiveFloat] = Field(
        default_factory=dict, description="Other quiet times by calling AE title, for example { CT1 = 120 }."
    )

    def quiet_time(self, calling_aet: str) -> float:
        """Quiet time in seconds for a sender."""
        return self.per_calling_aet.get(calling_aet, self.quiet_seconds)


class EngineSettings(Section):
    """The model that reads, and what runs it."""

    runtime: Literal["onnx", "torch", "tensorrt_llm", "scripted"] = Field(
        default="onnx", description="What runs the model: onnx | torch | tensorrt_llm (scripted answers are for tests)."
    )
    model: str = Field(default="phantom", min_length=1, description="A model that ships (phantom), or a folder.")
    threads: PositiveInt | None = Field(default=None, description="CPU threads of onnx; its own choice without.")
    device: str | None = Field(default=None, description="Where torch computes, for example cuda; its choice without.")
    dtype: str | None = Field(default=None, description="Number type of torch, for example bfloat16.")
    refiner: str = Field(
        default="box",
        pattern=REFINER,
        description="What draws outlines within boxes where a plan does not say: box (none) | threshold (brightness) | "
        "the path of the TOML file of a box-prompted ONNX model.",
    )
    calibration: Path | None = Field(
        default=None,
        description="The site's calibration file (TOML or JSON): how often findings were right, by label and "
        "certainty. Without one, results say that certainties are uncalibrated.",
    )
    plans: Path | None = Field(
        default=None,
        description="Folder of the site's own plans (*.toml), which come before those that ship; see plan list.",
    )


class ReadingSettings(Section):
    """How readings are worked off."""

    concurrency: PositiveInt = Field(default=1, description="Studies read at the same time by one worker.")
    attempts: PositiveInt = Field(default=3, description="Attempts at a study before it is FAILED.")
    lease_seconds: PositiveFloat = Field(
        default=300, description="A worker that does not renew its claim on a study for so long has lost it."
    )
    deadline_seconds: PositiveFloat = Field(
        default=3600, description="A reading that takes longer is broken off, and counts as a failed attempt."
    )
    first_delay_seconds: PositiveFloat = Field(
        default=10, description="Wait before a reading that failed is tried again; it doubles after each attempt."
    )


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


class SweeperSettings(Section):
    """The sweeper finds complete studies, and work that a crash left."""

    interval_seconds: PositiveFloat = Field(default=1, description="Pause between two sweeps.")


class BrokerSettings(Section):
    """The queue between the node's processes; it carries ids only."""

    url: SecretStr | None = Field(
        default=None, description="URL of a Redis of the site's own; without one the node starts an embedded server."
    )


class LedgerSettings(Section):
    """The states of all studies."""

    url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL of a database of the site's own; without one SQLite in the data folder.",
    )


class LogSettings(Section):
    """What the node writes to standard error."""

    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="json, console, or auto: console at a terminal, json elsewhere."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is written."
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
