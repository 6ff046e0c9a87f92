"""Files as the spool writes them: preamble and file meta information, and the data set behind (PS3.10 7.1)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_file_meta_info

from dicom_node.intake.file_meta import PREAMBLE
from dicom_node.spool.disk import SpoolError
from engine.study import READ_ERRORS


@contextmanager
def content_of(path: Path, offset: int) -> Iterator[memoryview]:
    """What stands in a file from an offset on, mapped and not read."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with mapped(descriptor, offset) as view:
            yield view
    finally:
        os.close(descriptor)


@contextmanager
def mapped(descriptor: int, offset: int) -> Iterator[memoryview]:
    """What stands in an open file from an offset on, mapped and not read."""
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as whole, memoryview(whole) as view, view[offset:] as content:
        yield content


def split(path: Path) -> tuple[FileMetaDataset, int]:
    """File meta information of a file in the spool, and where its data set begins.

    Raises
    ------
    SpoolError
        If it does not begin as the spool writes files.
    """
    try:
        meta = read_file_meta_info(path)
        return meta, data_set_offset(path)
    except (*READ_ERRORS, SpoolError) as error:
        raise SpoolError(f"a file in the spool cannot be read ({type(error).__name__})") from None


def data_set_offset(path: Path) -> int:
    """Where the data set begins in a file of the spool.

    Raises
    ------
    SpoolError
        If the file does not begin as the spool writes files.
    """
    with path.open("rb") as file:
        head = file.read(len(PREAMBLE) + 12)
    # (0002,0000) UL 4: the length of what follows in the group (PS3.10 table 7.1-1)
    if len(head) < len(PREAMBLE) + 12 or head[132:140] != b"\x02\0\0\0UL\x04\0":
        raise SpoolError("a file in the spool has no file meta information")
    return len(head) + int.from_bytes(head[140:144], "little")
