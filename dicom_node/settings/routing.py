"""Which rules say what happens to a study."""

from __future__ import annotations

import zoneinfo
from pathlib import Path

from pydantic import Field, field_validator

from dicom_node.settings.section import Section


class RoutingSettings(Section):
    """Which studies are read, by which plan, how soon, and where the results go."""

    rules: Path | None = Field(
        default=None,
        description="File of the rules (TOML), followed while the node runs; without one every study is read and goes "
        "to all destinations. See ROUTING.md, and `route check`.",
    )
    time_zone: str | None = Field(
        default=None,
        description="Zone of the time of day and weekday that rules see, as Europe/Berlin; the machine's own without.",
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None and value not in zoneinfo.available_timezones():
            raise ValueError("is no time zone that this machine knows (tzdata), as Europe/Berlin")
        return value
