"""One frame from file to array: never the whole of a multi-frame object, and never more than its header declares."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy.typing as npt
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import ExplicitVRLittleEndian

from engine.errors import NotAnImageError, UndecodableError
from engine.imaging import codecs
from engine.imaging.admission import check_image
from engine.imaging.codestream import breaks_off, read_codestream
from engine.study import READ_ERRORS, Instance, open_part10

_KEYWORDS: Final = {
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
    (0x7FE0, 0x0010): "PixelData",
}
_VRS: Final = (b"OB", b"OW", b"OF", b"OD", b"UN")
_OFFSETS: Final = [0x7FE00001, 0x7FE00002]


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Parameters
    ----------
    samples : ndarray, [rows, columns] or [rows, columns, samples]
        Stored values; colour already converted to RGB where it was YBR.
    photometric : str
        Photometric Interpretation (0028,0004) of `samples`.
    bits : int
        Bits Stored (0028,0101) of `samples`.
    """

    samples: npt.NDArray[Any]
    photometric: str
    bits: int


def decode_frame(instance: Instance, frame: int) -> Frame:
    """Decode one frame.

    Parameters
    ----------
    instance : Instance
    frame : int
        Frame number, from 1.

    Raises
    ------
    NotAnImageError
        If the object is no image of a patient, or holds no pixels.
    UndecodableError
        If it cannot be decoded, or its codestream is not what its header declares.
    """
    check_image(instance)
    if not 1 <= frame <= instance.number_of_frames:
        raise UndecodableError(f"there is no frame {frame}; the object has {instance.number_of_frames}")
    codecs.register()
    syntax = instance.transfer_syntax
    try:
        with open_part10(instance.path) as file:
            options = _at_pixels(file, instance)
            if syntax.is_encapsulated:
                _check_codestream(file, instance, frame, options)
            samples, meta = get_decoder(options["transfer_syntax_uid"]).as_array(
                file, index=frame - 1, decoding_plugin=codecs.plugin_for(syntax), **options
            )
    except READ_ERRORS as error:
        # The library's own words may quote the dataset, so only the kind of the error is told.
        raise UndecodableError(f"the pixels cannot be decoded ({type(error).__name__}, {syntax.name})") from error
    return Frame(samples, str(meta["photometric_interpretation"]), int(meta.get("bits_stored", 0)))


def _at_pixels(file: BinaryIO, instance: Instance) -> dict[str, Any]:
    """Place the file at the first byte of the pixels, and return pydicom's options for decoding them."""
    header = dcmread(file, stop_before_pixels=True, force=True, specific_tags=_OFFSETS)
    implicit, little = header.original_encoding
    order = "<" if little else ">"
    start = file.read(8)
    if len(start) < 8 or (tag := struct.unpack(f"{order}HH", start[:4])) not in _KEYWORDS:
        raise NotAnImageError("the object describes an image but holds no pixels")
    options = as_pixel_options(instance.header)
    options["pixel_keyword"] = _KEYWORDS[tag]
    if not implicit and start[4:6] in _VRS:  # some writers forget the VR that their transfer syntax demands
        options["pixel_vr"] = start[4:6].decode("ascii")
        file.seek(4, 1)  # the length, behind two reserved bytes (PS3.5 7.1.2)
    offsets = tuple(header[element].value for element in _OFFSETS if element in header)
    if len(offsets) == 2:
        options["extended_offsets"] = offsets
    inflated = not hasattr(file, "name")  # a deflated file is read from memory
    options["transfer_syntax_uid"] = ExplicitVRLittleEndian if inflated else instance.transfer_syntax
    return options


def _check_codestream(file: BinaryIO, instance: Instance, frame: int, options: dict[str, Any]) -> None:
    start = file.tell()
    encoded = get_frame(
        file,
        frame - 1,
        extended_offsets=options.get("extended_offsets"),
        number_of_frames=instance.number_of_frames,
    )
    file.seek(start)
    stream = read_codestream(encoded)
    declared = (instance.header.Rows, instance.header.Columns)
    if stream is not None and (stream.rows, stream.columns) != declared:
        raise UndecodableError(
            f"the compressed frame is {stream.columns} x {stream.rows} pixels, but the header declares "
            f"{declared[1]} x {declared[0]}"
        )
    if breaks_off(encoded):
        raise UndecodableError("the compressed frame breaks off before its end")
