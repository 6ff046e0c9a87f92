"""When a study counts as complete."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat

from dicom_node.settings.section import AETitle, Section


class CompletionSettings(Section):
    """When a study counts as complete."""

    quiet_seconds: PositiveFloat = Field(
        default=60,
        description="A study is complete when no image of it arrived for so long; scanners pause between series.",
    )
    per_calling_aet: dict[AETitle, PositiveFloat] = Field(
        default_factory=dict, description="Other quiet times by calling AE title, for example { CT1 = 120 }."
    )
    settle_seconds: NonNegativeFloat = Field(
        default=5,
        description="A study is complete before its quiet time once its sender has released the association and all "
        "images have arrived that its source (calling_aets in [[sources]]) counts. The source must have counted as "
        "many for so long: one that is itself receiving counts what it has so far. 0 takes its first word for it.",
    )
