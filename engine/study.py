"""Studies, series and instances as they lie on disk: headers only, never pixels.

Files come from anywhere, so a header is read defensively: what cannot be read becomes a `NotDicomError` with a reason,
a broken element is left out, and no file makes the process run out of memory or stack.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from engine.errors import MedregaError, NotDicomError
from engine.findings import NotRead
from engine.header import READ_ERRORS as READ_ERRORS
from engine.header import read_header
from engine.limits import LIMITS, Limits

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_PREAMBLE: Final = 128
_LONGEST_META: Final = 1 << 16
_PROCESSING_EQUIPMENT: Final = "109102"
_SOFTWARE: Final = "medrega-pacs "
"""How one of the software versions of every result begins, whatever the model."""
_DICOMDIR_CLASS: Final = "1.2.840.10008.1.3.10"
_IDENTITY: Final = ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID")
_IN_META: Final = {"SOPInstanceUID": "MediaStorageSOPInstanceUID", "SOPClassUID": "MediaStorageSOPClassUID"}
# Groups 0002 and 0008, the latter in either byte order: how a dataset begins that was stored without a preamble.
_DATASET_BEGINNINGS: Final = {b"\x02\x00", b"\x08\x00", b"\x00\x08"}


@dataclass(frozen=True)
class Instance:
    """One DICOM object on disk.

    Parameters
    ----------
    path : Path
        Where the whole object is.
    header : pydicom.dataset.Dataset
        Everything but the pixels, with `file_meta`; elements that cannot be read are left out, and UIDs that stand
        only in the file meta information (PS3.10 7.1) are filled in. Do not change it.
    sop_instance_uid, sop_class_uid, series_instance_uid, study_instance_uid : str
    number_of_frames : int
        1 for a single-frame object (PS3.3 C.7.6.6).
    limits : Limits
        What reading it may cost.
    """

    path: Path
    header: Dataset
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    number_of_frames: int
    limits: Limits = LIMITS

    @property
    def modality(self) -> str:
        """Modality (0008,0060), empty when the object does not say."""
        return str(self.header.get("Modality") or "")

    @property
    def transfer_syntax(self) -> UID:
        """Transfer Syntax UID (0002,0010); of a bare data set, the one that it was read in (PS3.5 10.1)."""
        told = self.header.file_meta.get("TransferSyntaxUID")
        if told:
            return UID(str(told))
        implicit, little = self.header.original_encoding
        if implicit:
            return ImplicitVRLittleEndian
        return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


@dataclass(frozen=True)
class Series:
    """The instances of one series, in the order of their Instance Number."""

    series_instance_uid: str
    modality: str
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Study:
    """One study.

    Parameters
    ----------
    study_instance_uid : str
    series : tuple of Series
    unusable : tuple of NotRead
        Objects left aside on loading, and why.
    """

    study_instance_uid: str
    series: tuple[Series, ...]
    unusable: tuple[NotRead, ...] = ()

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Every instance, series by series."""
        return tuple(instance for series in self.series for instance in series.instances)

    @property
    def headers(self) -> list[Dataset]:
        """The header of every instance."""
        return [instance.header for instance in self.instances]


def open_part10(path: Path, limits: Limits = LIMITS) -> BinaryIO:
    """Open a DICOM file (PS3.10) for reading; a deflated one is inflated, as far as the limits allow.

    Raises
    ------
    NotDicomError
        If the file cannot be opened, does not begin like DICOM, or inflates beyond the limit.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise NotDicomError(f"the file cannot be opened ({error.strerror})") from error
        try:
            head = file.read(_LONGEST_META)
            file.seek(0)
            if head[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
                if head[:2] not in _DATASET_BEGINNINGS:
                    raise NotDicomError("the file is not DICOM")
            elif (meta := _file_meta(head)).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                return _inflate(file, meta, limits.inflated_bytes)
        except READ_ERRORS as error:
            raise _damaged(error) from error
        stack.pop_all()  # the caller closes it
        return file


def _file_meta(head: bytes) -> FileMetaDataset:
    """The file meta information (PS3.10 7.1), read from a file's beginning alone."""
    elements = BytesIO(head[_PREAMBLE + 4 :])
    return FileMetaDataset(
        read_dataset(
            elements,
            is_implicit_VR=False,
            is_little_endian=True,
            stop_when=lambda tag, _vr, _length: tag.group != 2,
        )
    )


def _inflate(file: BinaryIO, meta: FileMetaDataset, limit: int) -> BinaryIO:
    """The same file in Explicit VR Little Endian, in memory (PS3.5 A.5)."""
    # Group length counts from behind its own twelve bytes to the end of the group (PS3.10 7.1).
    file.seek(_PREAMBLE + 4 + 12 + int(meta.FileMetaInformationGroupLength))
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    dataset = inflater.decompress(file.read(), limit)
    if inflater.unconsumed_tail:
        raise NotDicomError(f"the deflated object inflates to more than {limit >> 20} MiB")
    plain = FileMetaDataset(meta)
    plain.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = DicomBytesIO()
    buffer.write(bytes(_PREAMBLE) + b"DICM")
    write_file_meta_info(buffer, plain, enforce_standard=False)
    return BytesIO(buffer.getvalue() + dataset)


def load_instance(path: Path, limits: Limits = LIMITS) -> Instance:
    """Read the header of one file.

    Raises
    ------
    NotDicomError
        If the file is no DICOM object with the UIDs that identify it (PS3.3 C.12.1), exceeds a limit, or is too damaged
        to be read.
    """
    with open_part10(path, limits) as file:
        try:
            header = read_header(file, limits)
            meta = header.file_meta
            if isinstance(file, BytesIO):
                meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            if meta.get("MediaStorageSOPClassUID") == _DICOMDIR_CLASS:
                raise NotDicomError("the file is a DICOMDIR, an index of other files")
            for keyword, spare in _IN_META.items():
                if not header.get(keyword) and meta.get(spare):
                    setattr(header, keyword, meta[spare].value)
            uids = {keyword: _uid(header, keyword) for keyword in _IDENTITY}
            frames = max(1, _integer(header, "NumberOfFrames", 1))
            if frames > limits.frames:
                raise NotDicomError(f"the object declares {frames} frames, more than the limit of {limits.frames}")
            return Instance(
                path=path,
                header=header,
                sop_instance_uid=uids["SOPInstanceUID"],
                sop_class_uid=uids["SOPClassUID"],
                series_instance_uid=uids["SeriesInstanceUID"],
                study_instance_uid=uids["StudyInstanceUID"],
                number_of_frames=frames,
                limits=limits,
            )
        except READ_ERRORS as error:
            raise _damaged(error) from error


def load_studies(paths: Iterable[Path], limits: Limits = LIMITS) -> tuple[list[Study], list[tuple[Path, MedregaError]]]:
    """Read files and folders, grouped by study, in the order in which they are met.

    Parameters
    ----------
    paths : iterable of Path
        Files, and folders that are searched to any depth; hidden files and DICOMDIRs in them are passed over.
    limits : Limits
        Of each object.

    Returns
    -------
    studies : list of Study
    refused : list of (Path, MedregaError)
        Files that are no usable DICOM, and why.
    """
    refused: list[tuple[Path, MedregaError]] = []
    studies: dict[str, dict[str, Instance]] = {}
    unusable: dict[str, list[NotRead]] = {}
    for path in _files(paths):
        try:
            instance = load_instance(path, limits)
        except NotDicomError as error:
            refused.append((path, error))
            continue
        known = studies.setdefault(instance.study_instance_uid, {})
        if instance.sop_instance_uid in known:
            reason = "a second object with the same SOP Instance UID; the first one counts"
            unusable.setdefault(instance.study_instance_uid, []).append(
                NotRead(instance.series_instance_uid, instance.sop_instance_uid, reason)
            )
        else:
            known[instance.sop_instance_uid] = instance
    return [
        Study(uid, _by_series(instances.values()), tuple(unusable.get(uid, ()))) for uid, instances in studies.items()
    ], refused


def is_own_result(header: Dataset) -> bool:
    """Whether this software made an object, which is never read.

    Contributing Equipment (PS3.3 C.12.1.5) says so, or General Equipment (C.7.5.1): archives change the rest.
    """
    if _names_us(header.get("SoftwareVersions")):
        return True
    for item in header.get("ContributingEquipmentSequence") or ():
        purposes = [str(purpose.get("CodeValue") or "") for purpose in item.get("PurposeOfReferenceCodeSequence") or ()]
        if _PROCESSING_EQUIPMENT in purposes and _names_us(item.get("SoftwareVersions")):
            return True
    return False


def _names_us(versions: str | Iterable[object] | None) -> bool:
    named = [versions] if isinstance(versions, str) else [str(version) for version in versions or ()]
    return any(name.startswith(_SOFTWARE) for name in named)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            inside = (file for file in sorted(path.rglob("*")) if file.is_file())
            found = [f for f in inside if not f.name.startswith(".") and f.name.upper() != "DICOMDIR"]
        else:
            found = [path]
        for file in found:
            if (real := file.resolve()) not in seen:
                seen.add(real)
                yield file


def _by_series(instances: Iterable[Instance]) -> tuple[Series, ...]:
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(instance.series_instance_uid, []).append(instance)
    return tuple(
        Series(
            uid,
            next((i.modality for i in group if i.modality), ""),
            tuple(sorted(group, key=lambda i: (_integer(i.header, "InstanceNumber", 0), i.sop_instance_uid))),
        )
        for uid, group in groups.items()
    )


def _uid(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    if not value:
        raise NotDicomError(f"the object has no {keyword}", advice="Ask the sender to send complete DICOM objects.")
    text = str(value)
    # UIDs name files and folders further on, so nothing but digits and dots may pass (PS3.5 9.1).
    if len(text) > 64 or not _UID.fullmatch(text):
        raise NotDicomError(f"the object's {keyword} is not a UID")
    return text


def _integer(header: Dataset, keyword: str, default: int) -> int:
    try:
        return int(header.get(keyword) or default)
    except (TypeError, ValueError):
        return default


def _damaged(error: BaseException) -> NotDicomError:
    # The library's own words may quote the dataset, so only the kind of the error is told.
    if isinstance(error, RecursionError):
        return NotDicomError("the object's sequences are nested too deeply to be read")
    if isinstance(error, MemoryError):
        return NotDicomError("the object's header does not fit into memory")
    return NotDicomError(f"the file is damaged and cannot be read as DICOM ({type(error).__name__})")
