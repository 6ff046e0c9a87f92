"""DICOM files (PS3.10) as they lie on disk, to be sent as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pynetdicom.dsutils import split_dataset

from engine.errors import NotDicomError
from engine.study import READ_ERRORS


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A DICOM file as its file meta information (PS3.10 7.1) describes it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int
    """Where the data set begins, in bytes."""

    @classmethod
    def open(cls, path: Path) -> StoredFile:
        """Read the file meta information only.

        Raises
        ------
        NotDicomError
            If there is none, or it lacks one of the three UIDs.
        """
        try:
            meta, offset = split_dataset(path)
        except OSError as error:
            raise NotDicomError(f"cannot be read ({error.strerror})") from None
        except READ_ERRORS:
            raise NotDicomError("not a DICOM file") from None
        keywords = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
        sop_class, sop_instance, syntax = uids = [str(meta.get(keyword, "")) for keyword in keywords]
        if not all(uids):
            missing = ", ".join(keyword for keyword, uid in zip(keywords, uids, strict=True) if not uid)
            raise NotDicomError(f"its file meta information lacks {missing}")
        return cls(path, sop_class, sop_instance, syntax, offset)


def find_files(paths: Iterable[Path]) -> tuple[list[StoredFile], list[tuple[Path, NotDicomError]]]:
    """DICOM files among files and folders, in order of their names, and those that are none."""
    files: list[StoredFile] = []
    refused: list[tuple[Path, NotDicomError]] = []
    for given in paths:
        for path in sorted(p for p in given.rglob("*") if p.is_file()) if given.is_dir() else [given]:
            try:
                files.append(StoredFile.open(path))
            except NotDicomError as error:
                refused.append((path, error))
    return files, refused
