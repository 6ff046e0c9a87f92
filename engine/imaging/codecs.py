"""A decoder for the whole JPEG family of PS3.5 A.4, as a plug-in of pydicom's.

pydicom's own need a library under the GPL for JPEG Lossless and decode no 12-bit JPEG Extended; imagecodecs does both.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import imagecodecs
import numpy as np
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from engine.imaging.codestream import read_codestream

PLUGIN: Final = "imagecodecs"
SYNTAXES: Final = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
DECODER_DEPENDENCIES: Final = dict.fromkeys(SYNTAXES, ("numpy", "imagecodecs"))


def is_available(uid: str) -> bool:
    """Whether the plug-in decodes a transfer syntax; part of pydicom's plug-in interface."""
    return uid in SYNTAXES


@cache
def register() -> None:
    """Make the plug-in known to pydicom, once."""
    for uid in SYNTAXES:
        get_decoder(uid).add_plugin(PLUGIN, (__name__, "_decode_frame"))


def load() -> None:
    """Load what decodes, which else is done at the first frame of its kind."""
    for uid in (*SYNTAXES, RLELossless, JPEGLSLossless, JPEG2000Lossless):
        is_decodable(uid)
    imagecodecs.jpegsof3_decode, imagecodecs.jpeg8_decode  # noqa: B018 - each is loaded where it is first named


def is_decodable(syntax: UID) -> bool:
    """Whether there is a decoder for a transfer syntax; not for video, and none that pydicom does not know."""
    register()
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def plugin_for(syntax: UID) -> str:
    """Return which of pydicom's plug-ins decodes a transfer syntax; empty where pydicom may choose."""
    if syntax in SYNTAXES:
        return PLUGIN
    if syntax in JPEG2000TransferSyntaxes:
        return "pylibjpeg"  # pillow's knows no 16 bits in colour
    # The compiled decoders of RLE, where they are installed, abort on a damaged frame; pydicom's own raises.
    return "pydicom" if syntax == RLELossless else ""


def _decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame, samples as they were encoded: colours are converted afterwards."""
    stream = read_codestream(src)
    if stream is None:
        raise ValueError("not a JPEG codestream")
    if stream.lossless:
        samples = imagecodecs.jpegsof3_decode(src)
    elif stream.samples == 1:
        samples = imagecodecs.jpeg8_decode(src)
    else:
        # Naming the same colour space for both ends keeps the decoder from converting.
        samples = imagecodecs.jpeg8_decode(src, colorspace="YCBCR", outcolorspace="YCBCR")
    runner.set_option("bits_allocated", samples.dtype.itemsize * 8)
    if stream.samples > 1:
        runner.set_option("planar_configuration", 0)
    return np.ascontiguousarray(samples).tobytes()
