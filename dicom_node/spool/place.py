"""The places of a study's files: one for each object, found by its SOP instance UID and by its content."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Final

from dicom_node.spool.disk import SpoolError
from dicom_node.spool.part10 import data_set_offset

_CHUNK: Final = 1 << 20


class Stored(Enum):
    """What became of a received object."""

    NEW = "new"
    SAME = "same"
    """It was there already, byte for byte."""
    CONFLICT = "conflict"
    """Another object has its SOP instance UID; it is kept beside it."""


def is_conflict(path: str) -> bool:
    """Whether a place is that of other content under a UID that another object had first."""
    return "_" in path.rpartition("/")[2]


def link(folder: str, sop_instance_uid: str, file: str, offset: int, *, synced: bool) -> tuple[Stored, str]:
    """Put a file among those with its UID, unless one of them is the same; with its name.

    Where files get their places before they are `synced`, it takes that of one that a power cut has torn.
    """
    number = 1
    while True:
        name = f"{sop_instance_uid}.dcm" if number == 1 else f"{sop_instance_uid}_{number}.dcm"
        try:
            os.link(file, f"{folder}/{name}")
        except FileExistsError:
            if _same_data_set(Path(folder, name), Path(file), offset):
                return Stored.SAME, name
            if not synced and _is_torn(Path(folder, name), Path(file)):
                os.link(file, f"{file}.whole")
                os.replace(f"{file}.whole", f"{folder}/{name}")
                return Stored.NEW, name
            number += 1
        else:
            return (Stored.NEW if number == 1 else Stored.CONFLICT), name


def _is_torn(path: Path, whole: Path) -> bool:
    """Whether a file is but the beginning of another: what a power cut left of one that was not synced yet."""
    left = path.stat().st_size
    if left >= whole.stat().st_size:
        return False
    with path.open("rb") as one, whole.open("rb") as two:
        while chunk := one.read(_CHUNK):
            if chunk != two.read(len(chunk)):
                return False
    return True


def _same_data_set(path: Path, other: Path, other_offset: int) -> bool:
    """Whether two files hold the same data set, whatever their file meta information says."""
    try:
        offset = data_set_offset(path)
    except SpoolError:
        return False
    if path.stat().st_size - offset != other.stat().st_size - other_offset:
        return False
    with path.open("rb") as one, other.open("rb") as two:
        one.seek(offset)
        two.seek(other_offset)
        while chunk := one.read(_CHUNK):
            if chunk != two.read(_CHUNK):
                return False
    return True
