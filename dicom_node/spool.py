"""The spool: what is on disk, synced and moved into place before anyone hears of it.

Under the data folder::

    incoming/                                         files being written; emptied at start
    studies/<study instance UID>/<SOP instance UID>.dcm        as received, behind file meta information (PS3.10 7.1)
    studies/<study instance UID>/<SOP instance UID>_<n>.dcm    other content under the same UID, kept apart
    readings/<run>/reading.json
    results/<run>/<variant>/<kind>.dcm
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info

from engine.errors import NodeError
from engine.study import READ_ERRORS

_UID: Final = re.compile(r"[0-9.]{1,64}")
_RUN: Final = re.compile(r"[0-9a-f]{32}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_PREAMBLE: Final = b"\0" * 128 + b"DICM"
_CHUNK: Final = 1 << 20
_LOCKS: Final = 64


class SpoolError(NodeError):
    """The spool cannot keep a file."""


class SpoolFullError(SpoolError):
    """No space is left, or a quota is reached."""

    retry = True


class Stored(Enum):
    """What became of a received object."""

    NEW = "new"
    SAME = "same"
    """It was there already, byte for byte."""
    CONFLICT = "conflict"
    """Another object has its SOP instance UID; it is kept beside it."""


class Spool:
    """The node's files.

    Parameters
    ----------
    root : Path
        The data folder.
    minimum_free : int
        Free space in bytes below which nothing more is received.
    """

    def __init__(self, root: Path, minimum_free: int = 0) -> None:
        self.root = root.resolve()
        self._minimum_free = minimum_free
        self._incoming = self.root / "incoming"
        self._studies = self.root / "studies"
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._folders = threading.Lock()
        with _full_disk_told():
            for folder in (self.root, self._incoming, self._studies, self.root / "readings", self.root / "results"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clean(self) -> int:
        """Remove what a crash left half written; how many files. Call it before anything is received."""
        leftovers = [path for path in self._incoming.iterdir() if path.is_file()]
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def path(self, relative: str) -> Path:
        """Where a file of the ledger is."""
        return self.root / relative

    def store_instance(
        self, study_instance_uid: str, sop_instance_uid: str, meta: FileMetaDataset, dataset: bytes | memoryview
    ) -> tuple[Stored, str]:
        """Keep a received object: written, synced, moved into place, its folder synced.

        Parameters
        ----------
        study_instance_uid, sop_instance_uid : str
        meta : FileMetaDataset
            Written in front of the data set.
        dataset : bytes
            The encoded data set as received; it is never decoded.

        Returns
        -------
        stored : Stored
        path : str
            Relative to the data folder.

        Raises
        ------
        SpoolFullError
            If there is no space.
        SpoolError
            If a UID cannot name a file, or the disk fails.
        """
        for uid in (study_instance_uid, sop_instance_uid):
            # "..", the one name of dots that means something else to a file system, is no UID either.
            if not _UID.fullmatch(uid) or not uid.strip("."):
                raise SpoolError("a UID is not made of digits and dots, at most 64")
        folder = self._studies / study_instance_uid
        with _full_disk_told():
            self._check_free()
            temporary = self._incoming / f"{secrets.token_hex(16)}.part"
            try:
                _write(temporary, (_PREAMBLE, _encoded(meta), dataset))
                with self._folders:  # nobody may count on a folder before its maker has synced it
                    if not folder.is_dir():
                        folder.mkdir(mode=0o700, exist_ok=True)
                        _sync_folder(self._studies)
                with self._locks[hash((study_instance_uid, sop_instance_uid)) % _LOCKS]:
                    stored, target = self._place(folder, sop_instance_uid, dataset)
                    if stored is not Stored.SAME:
                        temporary.rename(target)
                        _sync_folder(folder)
            finally:
                temporary.unlink(missing_ok=True)
        return stored, str(target.relative_to(self.root))

    def instances(self) -> Iterator[str]:
        """Every object in place, relative to the data folder."""
        for folder in sorted(self._studies.iterdir()):
            if folder.is_dir():
                for path in sorted(folder.glob("*.dcm")):
                    yield str(path.relative_to(self.root))

    def store_reading(self, run_id: str, text: str) -> None:
        """Keep a reading."""
        self._store(self._reading(run_id), text.encode())

    def reading(self, run_id: str) -> str:
        """A stored reading.

        Raises
        ------
        SpoolError
            If it is not there.
        """
        try:
            return self._reading(run_id).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpoolError(f"the stored reading cannot be read ({type(error).__name__})") from None

    def store_result(self, run_id: str, variant: str, kind: str, content: bytes) -> tuple[str, str]:
        """Keep a result object.

        Returns
        -------
        path : str
            Relative to the data folder.
        sha256 : str
        """
        if not (_RUN.fullmatch(run_id) and _NAME.fullmatch(variant) and _NAME.fullmatch(kind)):
            raise SpoolError("a result's run, variant or kind cannot name a file")
        path = self.root / "results" / run_id / variant / f"{kind}.dcm"
        self._store(path, content)
        return str(path.relative_to(self.root)), hashlib.sha256(content).hexdigest()

    def sha256(self, relative: str) -> str:
        """Digest of a stored file.

        Raises
        ------
        SpoolError
            If it cannot be read.
        """
        try:
            with self.path(relative).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise SpoolError(f"a stored result cannot be read ({error.strerror})") from None

    def _reading(self, run_id: str) -> Path:
        if not _RUN.fullmatch(run_id):
            raise SpoolError("a run's id cannot name a folder")
        return self.root / "readings" / run_id / "reading.json"

    def _store(self, path: Path, content: bytes) -> None:
        with _full_disk_told():
            missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.is_dir()]
            for folder in reversed(missing):
                folder.mkdir(mode=0o700, exist_ok=True)
                _sync_folder(folder.parent)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            try:
                _write(temporary, (content,))
                temporary.rename(path)
                _sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def _place(self, folder: Path, sop_instance_uid: str, dataset: bytes | memoryview) -> tuple[Stored, Path]:
        """Where an object goes among those with its UID."""
        target = folder / f"{sop_instance_uid}.dcm"
        number = 1
        while target.exists():
            if _holds(target, dataset):
                return Stored.SAME, target
            number += 1
            target = folder / f"{sop_instance_uid}_{number}.dcm"
        return (Stored.NEW if number == 1 else Stored.CONFLICT), target

    def _check_free(self) -> None:
        if self._minimum_free:
            state = os.statvfs(self.root)
            if state.f_bavail * state.f_frsize < self._minimum_free:
                raise SpoolFullError("less space is free than data.minimum_free_mib asks for")


def split(path: Path) -> tuple[FileMetaDataset, int]:
    """File meta information of a file in the spool, and where its data set begins.

    Raises
    ------
    SpoolError
        If it does not begin as the spool writes files.
    """
    try:
        meta = read_file_meta_info(path)
        return meta, _data_set_offset(path)
    except (*READ_ERRORS, SpoolError) as error:
        raise SpoolError(f"a file in the spool cannot be read ({type(error).__name__})") from None


def _data_set_offset(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(len(_PREAMBLE) + 12)
    # (0002,0000) UL 4: the length of what follows in the group (PS3.10 table 7.1-1)
    if len(head) < len(_PREAMBLE) + 12 or head[132:140] != b"\x02\0\0\0UL\x04\0":
        raise SpoolError("a file in the spool has no file meta information")
    return len(head) + int.from_bytes(head[140:144], "little")


def _holds(path: Path, dataset: bytes | memoryview) -> bool:
    """Whether a file's data set is this one."""
    try:
        offset = _data_set_offset(path)
    except SpoolError:
        return False
    if path.stat().st_size - offset != len(dataset):
        return False
    view, position = memoryview(dataset), 0
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            if chunk != view[position : position + len(chunk)]:
                return False
            position += len(chunk)
    return True


def _encoded(meta: FileMetaDataset) -> bytes:
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta, enforce_standard=True)
    return buffer.getvalue()


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[file.write(view) :]
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _full_disk_told() -> Iterator[None]:
    """Tell a full disk from a broken one; neither's message names a path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpoolFullError("no space is left for the spool") from None
        raise SpoolError(f"the spool's disk failed ({error.strerror})") from None
