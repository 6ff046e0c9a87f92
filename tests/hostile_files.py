"""DICOM files that lie, break off, or swell: made here, each for one thing that a decoder or parser might fall for."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

PIXELS = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
EXPLICIT = UID(ExplicitVRLittleEndian)
_ITEM = b"\xfe\xff\x00\xe0"
_ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
_ENDLESS = b"\xff\xff\xff\xff"


def radiograph(number: int, pixels: bytes = PIXELS.tobytes(), syntax: UID = EXPLICIT, **elements: Any) -> bytes:
    """A file that is in order, but for what is told."""
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = f"2.25.9.{number}.1"
    dataset.StudyInstanceUID = f"2.25.9.{number}"
    dataset.SeriesInstanceUID = f"2.25.9.{number}.2"
    dataset.Modality = "DX"
    dataset.PatientName, dataset.PatientID = "ZZTOP^PHI", "SECRET-ID"
    dataset.StudyDate, dataset.BodyPartExamined = "20260301", "CHEST"
    dataset.Rows, dataset.Columns = PIXELS.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if pixels:
        dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = syntax.is_compressed
    return _file(dataset, syntax)


def _file(dataset: Dataset, syntax: UID = EXPLICIT) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _with(file: bytes, element: bytes) -> bytes:
    """A file with an element, as bytes, before its pixels (7FE0,0010)."""
    place = file.rindex(b"\xe0\x7f\x10\x00OB")
    return file[:place] + element + file[place:]


def _sequence(value: bytes, length: bytes = _ENDLESS) -> bytes:
    return b"\x40\x00\x30\xa7SQ\0\0" + length + value


def _nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = _sequence(_ITEM + _ENDLESS + data + _ITEM_END + _SEQUENCE_END)
    return data


def _compressed(number: int, codestream: bytes, syntax: UID, **elements: Any) -> bytes:
    return radiograph(number, encapsulate([codestream]), UID(syntax), **elements)


def _rle(segments: list[bytes], count: int | None = None) -> bytes:
    offsets, place = [], 64
    for segment in segments:
        offsets.append(place)
        place += len(segment)
    count = len(segments) if count is None else count
    return struct.pack("<16I", count, *offsets, *[0] * (15 - len(offsets))) + b"".join(segments)


def hostile_files() -> Iterator[tuple[str, bytes, str]]:
    """Name, content, and part of the reason for which it is not read; empty where it may be read."""
    jpeg = imagecodecs.jpeg8_encode(PIXELS)
    lossless = imagecodecs.ljpeg_encode(PIXELS)
    jls = imagecodecs.jpegls_encode(PIXELS)
    j2k = imagecodecs.jpeg2k_encode(PIXELS, level=0, reversible=True, codecformat="j2k")
    plain = radiograph(1)
    yield "in_order", plain, ""
    # Headers.
    yield "nested_40", _with(radiograph(2), _nested(40)), "nested deeper than the limit"
    yield "nested_5000", _with(radiograph(3), _nested(5000)), "nested too deeply"
    many = (_ITEM + bytes(4)) * 50_000
    yield "items", _with(radiograph(4), _sequence(many + _SEQUENCE_END)), "more elements and items"
    yield "items_of_a_length", _with(radiograph(5), _sequence(many, struct.pack("<I", len(many)))), "more elements and"
    yield "long_text", radiograph(6, TextValue="ZZTOP " * 400_000), "more than the limit of 1048576"
    yield (
        "long_numbers",
        _with(radiograph(7), b"\x28\0\x02\x30UC\0\0\0\0\x20\0" + b"1\\" * (1 << 20)),
        "more than the limit",
    )
    yield "length_beyond_the_end", _with(radiograph(8), b"\x29\0\x10\0UN\0\0\xf0\xff\xff\x7f"), "no pixels"
    yield "sequence_without_end", _with(radiograph(9), _sequence(_ITEM + _ENDLESS)), ""
    yield "strange_vr", _with(radiograph(10), b"\x29\0\x10\0??\x04\0abcd"), ""
    yield "cut_in_the_header", radiograph(11)[:500], ""
    yield "only_a_preamble", bytes(128) + b"DICM", "no SOPInstanceUID"
    yield "text", b"PatientName: ZZTOP^PHI", "not DICOM"
    yield "empty", b"", "not DICOM"
    # What is declared of the pixels.
    yield "frames_2_billion", radiograph(12, NumberOfFrames=2_000_000_000), "frames, more than the limit"
    yield "huge", radiograph(13, Rows=65535, Columns=65535), "pixels, more than the limit"
    yield "huge_compressed", _compressed(14, jls, JPEGLSLossless, Rows=65535, Columns=65535), "more than the limit"
    yield "no_rows", radiograph(15, Rows=0), "no size"
    yield "no_pixels", radiograph(16, b""), "no pixels"
    yield "few_pixels", radiograph(17, PIXELS.tobytes()[:100]), "cannot be decoded"
    yield "bits_0", radiograph(18, BitsAllocated=0), "cannot be decoded"
    yield "bits_12345", radiograph(19, BitsAllocated=12344, BitsStored=12344), "cannot be decoded"
    yield "samples_65535", radiograph(20, SamplesPerPixel=65535), "cannot be decoded"
    yield "palette_without_one", radiograph(21, PhotometricInterpretation="PALETTE COLOR"), "cannot be rendered"
    yield "photometric_unknown", radiograph(22, PhotometricInterpretation="ZZTOP"), ""
    yield "frame_missing", radiograph(23, NumberOfFrames=9), ""
    # Codestreams.
    for number, (name, stream, syntax) in enumerate(
        [
            ("jpeg", jpeg, JPEGBaseline8Bit),
            ("jpeg_lossless", lossless, JPEGLosslessSV1),
            ("jpeg_ls", jls, JPEGLSLossless),
            ("jpeg_2000", j2k, JPEG2000Lossless),
        ],
        30,
    ):
        yield f"{name}_cut", _compressed(10 * number, stream[: len(stream) // 2], syntax), ""
        yield f"{name}_of_zeros", _compressed(10 * number + 1, stream[:20] + bytes(len(stream)), syntax), "cannot be"
        noise = bytearray(stream)
        noise[len(stream) // 2 :: 7] = b"\x5a" * len(noise[len(stream) // 2 :: 7])
        yield f"{name}_mutated", _compressed(10 * number + 2, bytes(noise), syntax), ""
        yield f"{name}_empty", _compressed(10 * number + 3, b"\0\0", syntax), "cannot be"
        yield f"{name}_smaller", _compressed(10 * number + 4, stream, syntax, Rows=8, Columns=8), "the header declares"
        yield f"{name}_in_16_bit", _compressed(10 * number + 5, stream, syntax, BitsAllocated=16, BitsStored=16), ""
    bomb = bytearray(j2k)
    place = bomb.index(b"\xff\x51")
    struct.pack_into(">II", bomb, place + 6, 0x7FFFFFFF, 0x7FFFFFFF)
    yield "jpeg_2000_of_2_billion_squared", _compressed(350, bytes(bomb), JPEG2000Lossless), "the header declares"
    tiles = bytearray(j2k)
    struct.pack_into(">II", tiles, place + 22, 1, 1)
    yield "jpeg_2000_of_3072_tiles", _compressed(351, bytes(tiles), JPEG2000Lossless), ""
    yield "rle_bomb", _compressed(360, _rle([b"\x81\0" * 100_000]), RLELossless), ""
    yield "rle_without_segments", _compressed(361, _rle([], 0), RLELossless), "cannot be decoded"
    yield "rle_segments_beyond_the_end", _compressed(362, _rle([b"\x81\0"], 15), RLELossless), "cannot be decoded"
    yield "rle_count_4_billion", _compressed(363, _rle([b"\x81\0"], 0xFFFFFFFF), RLELossless), "cannot be decoded"
    yield "offsets_beyond_the_end", _offsets(radiograph(364, encapsulate([jls]), UID(JPEGLSLossless))), ""
    yield "deflate_bomb", _deflate_bomb(), "inflates to more than"


def _offsets(file: bytes) -> bytes:
    """An encapsulated file whose Basic Offset Table (PS3.5 A.4) points far away."""
    place = file.index(_ITEM + b"\x04\0\0\0") + 8
    return file[:place] + b"\xf0\xff\xff\x7f" + file[place + 4 :]


def _deflate_bomb() -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        "2.25.9.370.1",
        "2.25.9.370",
        "2.25.9.370.2",
    )
    file = _file(dataset)
    (length,) = struct.unpack_from("<I", file, 140)
    end = 144 + length
    plain = bytearray(
        file[:end].replace(ExplicitVRLittleEndian.encode() + b"\0", DeflatedExplicitVRLittleEndian.encode())
    )
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(file[end:]) + packer.compress(b"\x29\0\x10\0UN\0\0" + struct.pack("<I", 300 << 20))
    for _ in range(300):
        packed += packer.compress(bytes(1 << 20))
    grown = len(plain) - end
    struct.pack_into("<I", plain, 140, length + grown)
    at = plain.index(b"\x02\0\x10\0UI") + 6
    struct.pack_into("<H", plain, at, struct.unpack_from("<H", plain, at)[0] + grown)
    return bytes(plain) + packed + packer.flush()
