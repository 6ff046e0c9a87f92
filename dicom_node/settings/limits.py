"""How large and how costly an object may be: what exceeds a limit is refused, or left aside with its reason."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from dicom_node.settings.section import Section
from engine.limits import Limits

_MIB = 1 << 20


class LimitsSettings(Section):
    """What an object may cost, whatever it says of itself.

    The first two hold while it is received; the others where it is read, and for the console's pictures: an object
    beyond one of them is left aside with its reason, and a study of which nothing else is left FAILED.
    """

    pdu_mib: Annotated[int, Field(ge=2, le=16)] = Field(
        default=16,
        description="Longest PDU, or message that is no image, in MiB that is read into memory; a longer one ends its "
        "association. Images are not meant: they go to the disk as they come.",
    )
    data_set_mib: PositiveInt = Field(
        default=8192, description="Largest object in MiB that is received; a larger one is refused with status 0xC000."
    )
    inflated_mib: PositiveInt = Field(
        default=256, description="Largest data set in MiB that an object in a deflated transfer syntax may become."
    )
    nesting: PositiveInt = Field(default=24, description="Deepest sequence within sequences.")
    items: PositiveInt = Field(
        default=250_000, description="Most elements and sequence items of a header, in all its sequences."
    )
    value_kib: PositiveInt = Field(
        default=1024, description="Longest text or list of numbers in a header, in KiB; bulk data is not meant."
    )
    frames: PositiveInt = Field(default=100_000, description="Most frames of an object.")
    megapixels: PositiveInt = Field(default=64, description="Largest frame, in units of 1 048 576 pixels.")
    decode_seconds: PositiveFloat = Field(
        default=60, description="How long it may take to decode one compressed frame, before its decoder is killed."
    )
    decode_mib: PositiveInt = Field(
        default=2048, description="Memory in MiB that decoding one compressed frame may take."
    )

    @property
    def of_reading(self) -> Limits:
        """Those that hold where an object is read."""
        return Limits(
            inflated_bytes=self.inflated_mib * _MIB,
            nesting=self.nesting,
            items=self.items,
            value_bytes=self.value_kib * 1024,
            frames=self.frames,
            pixels=self.megapixels * _MIB,
            decode_seconds=self.decode_seconds,
            decode_bytes=self.decode_mib * _MIB,
        )
