"""The cases: what a phantom study is like in each, and what it puts to the test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from engine.errors import SettingsError

Turn = Literal["none", "left-right", "up-down", "half", "quarter", "quarter-back", "transposed", "anti-transposed"]
"""What is done to a picture: the eight ways to lay a sheet on a grid. Quarters turn clockwise."""

ASCII: Final = ("ISO_IR 100", "COMMISSIONING^TEST")
LATIN: Final = ("ISO_IR 100", "Prüfkörper^Test^Ä")
UNICODE: Final = ("ISO_IR 192", "COMMISSIONING^TEST=调试^测试")
CHINESE: Final = ("GB18030", "COMMISSIONING^TEST=调试^模体")


@dataclass(frozen=True, slots=True)
class Case:
    """A phantom study.

    Parameters
    ----------
    name : str
        For ``--case``, file names and the report.
    title : str
        What it puts to the test.
    sop_class : UID
    seed : int
        Of its scenes.
    rows, columns : int
    spacing : tuple of float
        Between rows and between columns in millimetres.
    bits : int
        Stored; 8 for colour.
    photometric : str
        MONOCHROME1, MONOCHROME2 or RGB (PS3.3 C.7.6.3.1.2).
    turn : Turn
        How the picture lies on its pixels; the header's orientation says the same.
    images, frames : int
        Images of the series, and frames of each.
    orientation : tuple of float
        Image Orientation (Patient) of the picture before it is turned; empty for projections.
    syntax : UID
        Transfer syntax in which it is sent.
    names : tuple of str
        Specific Character Set and Patient's Name.
    """

    name: str
    title: str
    sop_class: UID
    seed: int
    rows: int = 640
    columns: int = 560
    spacing: tuple[float, float] = (0.2, 0.2)
    bits: int = 12
    photometric: str = "MONOCHROME2"
    turn: Turn = "none"
    images: int = 1
    frames: int = 1
    orientation: tuple[float, ...] = ()
    syntax: UID = ExplicitVRLittleEndian
    names: tuple[str, str] = ASCII


_AXIAL: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_OBLIQUE: Final = (0.96, 0.28, 0.0, -0.168, 0.576, 0.8)
_SAGITTAL: Final = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
_CR, _DX, _CT, _MR = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    CTImageStorage,
    MRImageStorage,
)
_CINE, _US = UltrasoundMultiFrameImageStorage, UltrasoundImageStorage

CASES: Final = (
    Case("cr", "computed radiography, 12 bits", _CR, 1),
    Case("cr-monochrome1", "white is zero (MONOCHROME1)", _CR, 2, bits=10, photometric="MONOCHROME1", names=LATIN),
    Case("cr-nonsquare", "pixels twice as high as wide", _CR, 3, rows=400, columns=760, spacing=(0.4, 0.2)),
    Case("dx", "digital radiography, 14 bits", _DX, 4, rows=800, columns=640, bits=14, names=CHINESE),
    Case("dx-flipped", "digital radiography seen from behind", _DX, 5, turn="left-right", bits=14),
    Case("dx-rotated", "digital radiography, turned by a quarter", _DX, 6, turn="quarter", bits=14),
    Case(
        "ct", "axial slices, signed, in Hounsfield units", _CT, 7, rows=512, columns=512, images=3, orientation=_AXIAL
    ),
    Case("ct-flipped", "slices stored upside down", _CT, 8, rows=512, columns=512, turn="up-down", orientation=_AXIAL),
    Case("mr", "oblique slices", _MR, 9, rows=384, columns=384, images=3, orientation=_OBLIQUE, names=UNICODE),
    Case(
        "mr-rotated",
        "a sagittal slice, turned by half",
        _MR,
        10,
        rows=384,
        columns=448,
        turn="half",
        orientation=_SAGITTAL,
    ),
    Case(
        "mr-nonsquare",
        "slice with pixels wider than high",
        _MR,
        11,
        rows=512,
        columns=320,
        spacing=(0.5, 0.8),
        orientation=_AXIAL,
    ),
    Case("us-multiframe", "ultrasound, three frames that differ", _CINE, 12, rows=480, columns=560, bits=8, frames=3),
    Case("us-colour", "ultrasound in colour (RGB)", _US, 13, rows=480, columns=560, bits=8, photometric="RGB"),
    Case("cr-rle", "compressed, RLE", _CR, 14, syntax=RLELossless),
    Case("dx-jpeg2000", "compressed, JPEG 2000 lossless", _DX, 15, syntax=JPEG2000Lossless),
    Case(
        "ct-jpegls",
        "compressed, JPEG-LS lossless",
        _CT,
        16,
        rows=512,
        columns=512,
        orientation=_AXIAL,
        syntax=JPEGLSLossless,
    ),
    Case("cr-implicit", "implicit value representation", _CR, 17, syntax=ImplicitVRLittleEndian),
)


def chosen(names: tuple[str, ...]) -> tuple[Case, ...]:
    """The cases of these names, all without.

    Raises
    ------
    SettingsError
        If there is none of a name.
    """
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            raise SettingsError(f"there is no case {name}", advice=f"known are {', '.join(known)}")
    return tuple(known[name] for name in names) or CASES
