"""What reads, and how readings are worked off."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from dicom_node.settings.section import Section
from engine.refine import REFINER


class EngineSettings(Section):
    """The model that reads, and what runs it."""

    runtime: Literal["onnx", "torch", "tensorrt_llm", "scripted"] = Field(
        default="onnx", description="What runs the model: onnx | torch | tensorrt_llm (scripted answers are for tests)."
    )
    model: str = Field(default="phantom", min_length=1, description="A model that ships (phantom), or a folder.")
    queue: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$",
        description="Name of this engine's own queue, for routes that ask for it (engine = in a rule); without one its "
        "workers read what no engine is named for.",
    )
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

    pixels: Literal["folder", "wado"] = Field(
        default="folder",
        description="How a worker reaches images: folder (data.path is the front's own) | wado (over the network, from "
        "the server of [front]; such a worker reads and does not deliver).",
    )
    concurrency: NonNegativeInt = Field(
        default=1, description="Studies read at the same time by one worker; a worker with 0 only delivers."
    )
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
