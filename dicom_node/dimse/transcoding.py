"""The same object in another transfer syntax, without loss: for peers that do not take the one that it is stored in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.dimse.stored_file import StoredFile
from engine.errors import NodeError, UndecodableError
from engine.imaging.decoder import Decoder
from engine.limits import LIMITS
from engine.study import READ_ERRORS

FALLBACKS: Final = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
"""What nearly every peer takes, the better one first; each the other's. Implicit VR Little Endian is the default that
all have to take (PS3.5 10.1)."""
_LARGEST: Final = 2 << 30
"""Bytes of pixels: a whole object stands in memory while it is decoded."""


_DECODED: Final = {"YBR_FULL_422": "YBR_FULL", "YBR_ICT": "RGB", "YBR_RCT": "RGB"}
"""What colours are once they are decoded: each pixel has its own, and JPEG 2000 takes its transform back."""


class TranscodingError(NodeError):
    """An object cannot be had in another transfer syntax without loss."""


def transcode(file: StoredFile, transfer_syntax_uid: str, folder: Path) -> StoredFile:
    """Write an object in another transfer syntax; identifiers and values stay, compressed pixels are decoded.

    Parameters
    ----------
    file : StoredFile
    transfer_syntax_uid : str
        One of `FALLBACKS`.
    folder : Path
        For the new file, which is the caller's to remove before the next one.

    Raises
    ------
    TranscodingError
        If the pixels cannot be decoded, or would need their bytes swapped.
    """
    syntax = UID(file.transfer_syntax_uid)
    target = UID(transfer_syntax_uid)
    if syntax == ExplicitVRBigEndian:
        raise TranscodingError("Explicit VR Big Endian is retired, and this node does not swap its bytes")
    path = folder / "transcoded.dcm"  # not by its UID, which nobody has looked at
    try:
        dataset = dcmread(file.path)
        if syntax.is_compressed and syntax.is_encapsulated and "PixelData" in dataset:
            size = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
            if size * int(dataset.get("SamplesPerPixel") or 1) * int(dataset.BitsAllocated) // 8 > _LARGEST:
                raise TranscodingError("its pixels are more than 2 GiB when decoded")
            _decompress(dataset, syntax)
        dataset.file_meta.TransferSyntaxUID = target
        dataset.save_as(path, implicit_vr=target.is_implicit_VR, little_endian=True, enforce_file_format=True)
    except UndecodableError as error:
        raise TranscodingError(str(error)) from None
    except READ_ERRORS as error:
        raise TranscodingError(f"it cannot be decoded ({type(error).__name__})") from None
    return StoredFile.open(path)


def _decompress(dataset: Dataset, syntax: UID) -> None:
    """Decode the pixels where engine.imaging does it too, out of this process.

    Colours stay in the space that they were compressed in: the conversion to RGB would round.
    """
    options = as_pixel_options(dataset)
    offsets = options.pop("extended_offsets", None)
    decoder, count = Decoder.of(LIMITS), options["number_of_frames"]
    frames = [
        decoder.decode(codestream, syntax, {**options, "number_of_frames": 1})[0]
        for codestream in generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets)
    ]
    if len(frames) != count:
        raise TranscodingError("it does not hold the frames that it declares")
    allocated = frames[0].dtype.itemsize * 8
    native = b"".join(frame.tobytes() for frame in frames)
    dataset.PixelData = native + b"\0" * (len(native) % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    dataset["PixelData"].is_undefined_length = False
    dataset.BitsAllocated = allocated
    if dataset.get("SamplesPerPixel") == 3:
        dataset.PlanarConfiguration = 0
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            del dataset[keyword]
    told = dataset.PhotometricInterpretation
    dataset.PhotometricInterpretation = _DECODED.get(told, told)
