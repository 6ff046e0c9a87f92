"""One frame from file to array: never the whole of a multi-frame object, and never more than its header declares."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import ExplicitVRLittleEndian

from engine.errors import NotAnImageError, UndecodableError
from engine.imaging import codecs
from engine.imaging.admission import check_image
from engine.imaging.codestream import Codestream, breaks_off, read_codestream
from engine.imaging.decoder import Decoder
from engine.study import READ_ERRORS, Instance, open_part10

_KEYWORDS: Final = {
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
    (0x7FE0, 0x0010): "PixelData",
}
_VRS: Final = (b"OB", b"OW", b"OF", b"OD", b"UN")
_OFFSETS: Final = [0x7FE00001, 0x7FE00002]
_COMPONENT_TRANSFORMS: Final = ("YBR_ICT", "YBR_RCT")


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Parameters
    ----------
    samples : ndarray, [rows, columns] or [rows, columns, samples]
        Stored values, without what else the bits around them may hold.
    photometric : str
        Photometric Interpretation (0028,0004) of `samples`: the codestream's word, where it has one, before the
        header's.
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
    syntax = instance.transfer_syntax
    if not codecs.is_decodable(syntax):
        raise UndecodableError(f"the pixels cannot be decoded: there is no decoder for {syntax.name}")
    try:
        with open_part10(instance.path, instance.limits) as file:
            options = _at_pixels(file, instance)
            if syntax.is_encapsulated:
                return _compressed(file, instance, frame, options)
            photometric = str(instance.header.PhotometricInterpretation)
            if instance.header.get("BitsAllocated") == 1:
                return Frame(_single_bits(file, instance.header, frame), photometric, 1)
            # No codec, and no more memory than the frame declares: nothing to keep in a process of its own.
            samples, meta = get_decoder(options.pop("transfer_syntax_uid")).as_array(
                file, index=frame - 1, raw=True, **options
            )
            return Frame(_aligned(samples, instance.header), photometric, int(meta.get("bits_stored", 0)))
    except READ_ERRORS as error:
        # The library's own words may quote the dataset, so only the kind of the error is told.
        raise UndecodableError(f"the pixels cannot be decoded ({type(error).__name__}, {syntax.name})") from error


def _compressed(file: BinaryIO, instance: Instance, frame: int, options: dict[str, Any]) -> Frame:
    codestream = get_frame(
        file,
        frame - 1,
        extended_offsets=options.pop("extended_offsets", None),
        number_of_frames=instance.number_of_frames,
    )
    stream = _check_codestream(codestream, instance.header)
    options["number_of_frames"] = 1
    syntax = options.pop("transfer_syntax_uid")
    samples, bits = Decoder.of(instance.limits).decode(codestream, syntax, options)
    return Frame(_aligned(samples, instance.header), _photometric(instance, stream), bits)


def _photometric(instance: Instance, stream: Codestream | None) -> str:
    told = str(instance.header.PhotometricInterpretation)
    if stream is None:
        return told
    if told in _COMPONENT_TRANSFORMS:  # of JPEG 2000: what its decoder gives is RGB, whether it was transformed or not
        return "RGB"
    return stream.photometric or told


def _single_bits(file: BinaryIO, header: Dataset, frame: int) -> npt.NDArray[np.uint8]:
    """A frame of single bits, which may begin and end within a byte (PS3.5 8.1.1); pydicom reads too few for some."""
    rows, columns = header.Rows, header.Columns
    first = (frame - 1) * rows * columns
    last = first + rows * columns
    file.seek(first // 8, 1)
    bits = np.unpackbits(np.frombuffer(file.read(-(-last // 8) - first // 8), np.uint8), bitorder="little")
    return bits[first % 8 :][: rows * columns].reshape(rows, columns)


def _high_bit(header: Dataset) -> int | None:
    """Where the stored bits end, if not at Bits Stored - 1 (PS3.5 8.1.1; old objects keep them further up)."""
    allocated, stored, high = (header.get(keyword) for keyword in ("BitsAllocated", "BitsStored", "HighBit"))
    if not (isinstance(allocated, int) and isinstance(stored, int) and isinstance(high, int)):
        return None
    return high if 1 <= stored <= high < allocated else None


def _aligned(samples: npt.NDArray[Any], header: Dataset) -> npt.NDArray[Any]:
    """Stored values, where they end at another bit than Bits Stored - 1."""
    high = _high_bit(header)
    allocated = samples.dtype.itemsize * 8
    if high is None or allocated != header.BitsAllocated:
        return samples
    shifted: npt.NDArray[Any] = (samples << (allocated - 1 - high)) >> (allocated - header.BitsStored)
    return shifted  # the sign came along


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
    if _high_bit(instance.header) is not None:
        options["correct_unused_bits"] = False  # it would take those below Bits Stored
    if options.get("photometric_interpretation") == "YBR_PARTIAL_422":
        options["photometric_interpretation"] = "YBR_FULL_422"  # laid out alike (PS3.3 C.7.6.3.1.2)
    inflated = not hasattr(file, "name")  # a deflated file is read from memory
    options["transfer_syntax_uid"] = ExplicitVRLittleEndian if inflated else instance.transfer_syntax
    return options


def _check_codestream(encoded: bytes, header: Dataset) -> Codestream | None:
    """What a compressed frame says of itself, and whether that is what the header declares."""
    stream = read_codestream(encoded)
    declared = (header.Rows, header.Columns)
    if stream is not None and (stream.rows, stream.columns) != declared:
        raise UndecodableError(
            f"the compressed frame is {stream.columns} x {stream.rows} pixels, but the header declares "
            f"{declared[1]} x {declared[0]}"
        )
    if breaks_off(encoded):
        raise UndecodableError("the compressed frame breaks off before its end")
    return stream
