"""Worklists of Unified Procedure Steps (PS3.4 CC) that the node works on."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from dicom_node.settings.sources import Remote


class Worklist(Remote):
    """A UPS worklist: the node claims workitems, fetches their studies, reads them and says so (IHE AIW-I)."""

    label: str | None = Field(
        default=None, min_length=1, max_length=64, description="Only workitems with this Worklist Label."
    )
    plans: dict[str, str] = Field(
        default_factory=dict,
        description="Plan by Scheduled Workitem Code, as VALUE or VALUE^SCHEME, or by a text among the processing "
        'parameters; "" leaves the choice to the engine. Workitems that it does not name are left to others; empty '
        "takes every workitem, by the engine's choice of plan.",
    )
    source: str | None = Field(
        default=None,
        min_length=1,
        description="Source ([[sources]]) of studies whose workitem names no archive that the node knows.",
    )
    claims: PositiveInt = Field(default=4, description="Workitems claimed at the same time.")
    poll_seconds: PositiveFloat = Field(default=10, description="Pause between two queries.")
    attempts: PositiveInt = Field(
        default=3, description="Attempts to fetch a study before its workitem is canceled with the reason."
    )
    subscribe: bool = Field(
        default=True,
        description="Whether to ask to be told of requests to cancel (dimse: N-EVENT-REPORT to the listener).",
    )
