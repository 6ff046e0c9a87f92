"""How long files are kept, and when the disk counts as full."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, model_validator

from dicom_node.settings.section import Section


class RetentionSettings(Section):
    """What is removed by itself: nothing, until an age or a size is set, and never what was not delivered."""

    images_days: PositiveFloat | None = Field(
        default=None, description="Images are removed so long after their study's last change; kept for ever without."
    )
    results_days: PositiveFloat | None = Field(
        default=None,
        description="Readings and results that every destination has are removed after so long; kept without.",
    )
    images_max_gib: PositiveFloat | None = Field(
        default=None, description="Images beyond this many GiB are removed, the oldest studies first."
    )
    purge_above_percent: float | None = Field(
        default=None,
        gt=0,
        lt=100,
        description="Images are removed, the oldest studies first, while the disk is fuller than this.",
    )
    refuse_above_percent: float | None = Field(
        default=None,
        gt=0,
        lt=100,
        description="Images are refused with 0xA700 while the disk is fuller than this; data.minimum_free_mib says "
        "the same in bytes.",
    )
    keep_committed: bool = Field(
        default=True,
        description="Whether images are kept that their sender was told it may delete (storage commitment).",
    )
    interval_seconds: PositiveFloat = Field(default=300, description="Pause between two looks at what is to go.")

    @model_validator(mode="after")
    def _purge_before_refusing(self) -> RetentionSettings:
        low, high = self.purge_above_percent, self.refuse_above_percent
        if low is not None and high is not None and low >= high:
            raise ValueError("purge_above_percent must be below refuse_above_percent, or images are refused first")
        return self
