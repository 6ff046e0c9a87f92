"""When a study counts as complete."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

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

    def quiet_time(self, calling_aet: str) -> float:
        """Quiet time in seconds for a sender."""
        return self.per_calling_aet.get(calling_aet, self.quiet_seconds)
