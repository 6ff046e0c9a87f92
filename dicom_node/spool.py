"""The spool: what is on disk, synced and in place before anyone hears of it.

Several processes may receive into it: a file gets its place by a hard link, which only one of them can make.

Under the data folder::

    incoming/                                         files being written, and those in place until they are entered,
                                                      with what they hold in their names (`dicom_node.seal`)
    studies/<study instance UID>/<SOP instance UID>.dcm        as received, behind file meta information (PS3.10 7.1)
    studies/<study instance UID>/<SOP instance UID>_<n>.dcm    other content under the same UID, kept apart
    readings/<run>/reading.json
    readings/<run>/review-<n>-<digest>.json           what the n-th review left of it
    results/<run>/<variant>/<kind>.dcm
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import mmap
import os
import re
import secrets
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_file_meta_info

from dicom_node.intake.file_meta import PREAMBLE
from dicom_node.process import booted_at, new_owner, owner_is_gone
from dicom_node.seal import Seal, names_follow_files
from dicom_node.settings.limits import LimitsSettings
from engine.errors import NodeError
from engine.study import READ_ERRORS

if TYPE_CHECKING:
    from dicom_node.ledger.records import Claim, StoredInstance
    from dicom_node.settings import Settings

_UID: Final = re.compile(r"[0-9.]{1,64}")
_RUN: Final = re.compile(r"[0-9a-f]{32}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_MIB: Final = 1 << 20
_LIMITS: Final = LimitsSettings()
_CHUNK: Final = 1 << 20
_ABANDONED_SECONDS: Final = 3600
"""A file that nothing was added to for so long does not arrive any more, whoever was writing it."""
_WRITE_BACK: Final = 1 << 18
"""Bytes after which the disk begins to write what came, while the rest still arrives."""
_KNOWN_FOLDERS: Final = 10_000
_LOOK_SECONDS: Final = 0.1
_LOOK_BYTES: Final = 1 << 26
"""How many received bytes a look at the free space is good for at most; and for so long."""
_LOOK_SHARE: Final = 16
"""And for so small a part of what may still come: others receive into the same disk."""


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
    highest_percent : float, optional
        How full the disk may be before nothing more is received.
    limits : LimitsSettings
        Of objects that are received, and read where they lie.

    Attributes
    ----------
    names_follow : bool
        Whether the sync of a file takes its names along on this disk.
    """

    def __init__(
        self,
        root: Path,
        minimum_free: int = 0,
        *,
        highest_percent: float | None = None,
        limits: LimitsSettings = _LIMITS,
    ) -> None:
        self.root = root.resolve()
        self.limits = limits
        self._minimum_free = minimum_free
        self._highest_percent = highest_percent
        self._incoming = self.root / "incoming"
        self._studies = self.root / "studies"
        self._owner = new_owner()
        self._numbers = itertools.count()
        self._looked, self._until_look = -1.0, 0
        self._folders = threading.Lock()
        self._known_folders: set[str] = set()
        with _full_disk_told():
            for folder in (self.root, self._incoming, self._studies, self.root / "readings", self.root / "results"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.names_follow = names_follow_files(self._studies)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The spool of a node, which refuses what would fill its disk."""
        free, percent = settings.data.minimum_free_mib * _MIB, settings.retention.refuse_above_percent
        return cls(settings.data.path, free, highest_percent=percent, limits=settings.limits)

    def clean(self) -> int:
        """Remove what a crash left half written; how many files.

        What a process of this machine is writing stays, and what one of another machine may be. So does what is in
        place already, and perhaps not in the ledger: see `left_in_place`.
        """
        removed = 0
        for path, links in self._left():
            if links == 1:
                path.unlink(missing_ok=True)
                removed += 1
            else:
                removed += self._remove_if_torn(path)
        for folder in (self.root / "priors").glob("*"):  # of a reading that a crash broke off
            with suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
        return removed

    def left_in_place(self) -> Iterator[str]:
        """What processes that are gone put into place and perhaps did not enter: its names under ``incoming/``."""
        for path, links in self._left():
            if links > 1:
                yield f"incoming/{path.name}"

    def _left(self) -> Iterator[tuple[Path, int]]:
        """Files under ``incoming/`` that nobody writes or enters any more, and how many names each has."""
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):  # another listener has just dealt with it
                state = path.stat()
                if owner_is_gone(path.stem) or time.time() - state.st_mtime > _ABANDONED_SECONDS:
                    yield path, state.st_nlink

    def remove_torn(self) -> int:
        """Remove what a power cut tore, though it has its place; how many files. To be called at the start.

        It is older than this start of the machine. What is younger another machine may be writing to a shared folder.
        """
        removed = 0
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):  # another listener has just dealt with it
                if not booted_at() <= path.stat().st_mtime <= time.time():
                    removed += self._remove_if_torn(path)
        return removed

    def _remove_if_torn(self, path: Path) -> bool:
        seal = Seal.of(path)
        with suppress(FileNotFoundError):  # another listener has just dealt with it
            if seal is None or seal.holds(path):
                return False
            for place in self.instances():
                if path.samefile(self.path(place)):
                    self.path(place).unlink()
            path.unlink()
        return seal is not None

    def place_of(self, incoming: str, study_instance_uid: str, sop_instance_uid: str) -> str | None:
        """Where a file under ``incoming/`` is in place, relative to the data folder; None if it is not."""
        for number in itertools.count(1):
            name = f"{sop_instance_uid}.dcm" if number == 1 else f"{sop_instance_uid}_{number}.dcm"
            place = f"studies/{study_instance_uid}/{name}"
            try:
                if self.path(place).samefile(self.path(incoming)):
                    return place
            except FileNotFoundError:
                return None
        return None

    def path(self, relative: str) -> Path:
        """Where a file of the ledger is."""
        return self.root / relative

    @contextmanager
    def files(self, claim: Claim, renew: Callable[[], None]) -> Iterator[dict[Path, StoredInstance]]:  # noqa: ARG002
        """The images of a run that is read, and what the ledger says of each; nothing is waited for."""
        yield {self.path(instance.path): instance for instance in claim.instances}

    def incoming(self, head: bytes, *, synced: bool = True) -> IncomingFile:
        """A file for an object that begins to arrive, with preamble and file meta information at its beginning.

        Parameters
        ----------
        head : bytes
        synced : bool
            Whether it is to be synced before it is in place. Else its bytes are on their way to the disk and
            `Spool.sync` waits for them: a crash of this program loses none of them, a power cut may.

        Raises
        ------
        SpoolFullError
            If there is no space.
        SpoolError
            If the disk fails.
        """
        with _full_disk_told():
            self.check_free(len(head))
            return IncomingFile(self, f"{self._incoming}/{self._owner}:{next(self._numbers)}.part", head, synced)

    def place(
        self, temporary: str, offset: int, study_instance_uid: str, sop_instance_uid: str, *, synced: bool
    ) -> tuple[Stored, str]:
        """Give a file its place, and see that the name is on the disk once the file is; see `IncomingFile.place`."""
        for uid in (study_instance_uid, sop_instance_uid):
            # "..", the one name of dots that means something else to a file system, is no UID either.
            if not _UID.fullmatch(uid) or not uid.strip("."):
                raise SpoolError("a UID is not made of digits and dots, at most 64")
        folder = f"{self._studies}/{study_instance_uid}"
        with _full_disk_told():
            for _attempt in range(3):
                self._have_folder(folder)
                try:
                    stored, name = _link(folder, sop_instance_uid, temporary, offset)
                    break
                except FileNotFoundError:  # the study was purged just now
                    self._known_folders.discard(folder)
            else:
                raise SpoolError("the study's folder vanishes")
            if synced and stored is Stored.SAME:
                _sync(f"{folder}/{name}")  # whoever put it there may not be as far
            if synced and (stored is Stored.SAME or not self.names_follow):
                _sync(folder)
        return stored, f"studies/{study_instance_uid}/{name}"

    def set_aside(self, temporary: str, study_instance_uid: str, sop_instance_uid: str) -> None:
        """Give a file its place among the priors; see `IncomingFile.set_aside`."""
        folder = self._prior(study_instance_uid)
        if not _UID.fullmatch(sop_instance_uid) or not sop_instance_uid.strip("."):
            raise SpoolError("a UID is not made of digits and dots, at most 64")
        with _full_disk_told():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.replace(temporary, folder / f"{sop_instance_uid}.dcm")

    def priors(self, study_instance_uid: str) -> list[Path]:
        """The files of a study that was fetched as a prior."""
        return sorted(self._prior(study_instance_uid).glob("*.dcm"))

    def remove_prior(self, study_instance_uid: str) -> None:
        """Remove a prior's files."""
        shutil.rmtree(self._prior(study_instance_uid), ignore_errors=True)

    def _prior(self, study_instance_uid: str) -> Path:
        if not _UID.fullmatch(study_instance_uid) or not study_instance_uid.strip("."):
            raise SpoolError("a UID is not made of digits and dots, at most 64")
        return self.root / "priors" / study_instance_uid

    def sync(self, paths: Iterable[str]) -> None:
        """Sync objects that are in place, and their folders.

        Raises
        ------
        SpoolError
            If the disk fails.
        """
        files = [f"{self.root}/{path}" for path in paths]
        with _full_disk_told():
            for file in (*files, *{file.rpartition("/")[0] for file in files}):
                with suppress(FileNotFoundError):  # delivered and purged meanwhile
                    _sync(file)

    def _have_folder(self, folder: str) -> None:
        if folder in self._known_folders:
            return
        with self._folders:  # nobody may count on a folder that is not synced, whichever process made it
            Path(folder).mkdir(mode=0o700, exist_ok=True)
            _sync(self._studies)
            if len(self._known_folders) >= _KNOWN_FOLDERS:
                self._known_folders.clear()
            self._known_folders.add(folder)

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

    def store_review(self, run_id: str, number: int, text: str) -> None:
        """Keep what a review left of a run's reading, beside that."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._store(self._reading(run_id).with_name(f"review-{number}-{digest[:8]}.json"), text.encode())

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
                _sync(folder.parent)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            try:
                _write(temporary, content)
                temporary.rename(path)
                _sync(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files, and the folders that this leaves empty; what is not there was removed before.

        Raises
        ------
        SpoolError
            If the disk fails.
        """
        folders: set[Path] = set()
        with _full_disk_told():
            for path in map(self.path, paths):
                path.unlink(missing_ok=True)
                folders.update(folder for folder in path.parents if self.root in folder.parent.parents)
            for folder in sorted(folders, reverse=True):  # the innermost first
                with suppress(OSError):  # not empty, or gone
                    folder.rmdir()

    def remove_readings(self, run_ids: Iterable[str]) -> None:
        """Remove stored readings and their reviews, as `remove`."""
        folders = [self._reading(run_id).parent for run_id in run_ids]
        self.remove(str(path.relative_to(self.root)) for folder in folders for path in folder.glob("*.json"))

    def size(self, study_instance_uid: str) -> int:
        """Bytes of a study's images."""
        try:
            with os.scandir(self._studies / study_instance_uid) as entries:
                return sum(entry.stat().st_size for entry in entries)
        except OSError:
            return 0

    @property
    def fullness(self) -> tuple[int, int]:
        """Bytes in use on the disk, and bytes that ordinary users may have in use there (as ``df`` counts)."""
        state = os.statvfs(self.root)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        return used, used + state.f_bavail * state.f_frsize

    def check_free(self, coming: int = 0) -> None:
        """Refuse what would fill the disk; it is looked at now and then, not for every few bytes.

        Parameters
        ----------
        coming : int
            Bytes that are about to be written; 0 to look in any case.

        Raises
        ------
        SpoolFullError
        """
        now = time.monotonic()
        self._until_look -= coming
        if coming and now - self._looked < _LOOK_SECONDS and self._until_look > 0:
            return
        self._until_look = 0  # unless there is known to be space
        used, usable = self.fullness
        room = usable - used - self._minimum_free
        if room < 0:
            raise SpoolFullError("less space is free than data.minimum_free_mib asks for")
        if self._highest_percent is not None:
            room = min(room, int(self._highest_percent / 100 * usable) - used)
            if room < 0:
                raise SpoolFullError("the disk is fuller than retention.refuse_above_percent")
        self._looked, self._until_look = now, min(_LOOK_BYTES, room // _LOOK_SHARE)


class IncomingFile:
    """An object that is being written to a file of its own, not yet in place; made by `Spool.incoming`.

    Attributes
    ----------
    size : int
        Bytes of its data set so far.
    """

    def __init__(self, spool: Spool, path: str, head: bytes, synced: bool) -> None:
        self._spool = spool
        self._path = path
        self._synced = synced
        self.size = 0
        self._head = head  # written with the first part: one system call less for a small object
        self._offset = self._written_back = len(head)
        self._checksum = zlib.crc32(head)
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._named = True

    def write(self, *parts: bytes | memoryview) -> None:
        """Add the next parts of the data set, encoded as received; they are never decoded.

        Raises
        ------
        SpoolError
            If the disk fails; `SpoolFullError` where there is no space.
        """
        with _full_disk_told():
            descriptor = self._open(*parts)
            for part in parts:
                self.size += len(part)
                if self._synced:
                    self._checksum = zlib.crc32(part, self._checksum)
            end = self._offset + self.size
            if end - self._written_back >= _WRITE_BACK:
                self._spool.check_free(end - self._written_back)
                _write_back(descriptor, self._written_back, end - self._written_back)
                self._written_back = end

    @contextmanager
    def content(self) -> Iterator[memoryview]:
        """The data set as written so far, mapped and not read."""
        with _mapped(self._open(), self._offset) as view:
            yield view

    def place(self, study_instance_uid: str, sop_instance_uid: str) -> tuple[Stored, str]:
        """Give the file its place among those of its study and sync it, where that can be by one commit of the disk's.

        Until `discard` it keeps its other name as well: that says that it may not be in the ledger yet, and what it
        holds, so that `Spool.remove_torn` can tell one that a power cut kept from being synced.

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
        try:
            with _full_disk_told():
                descriptor = self._open()
                sealed = self._synced and self._spool.names_follow
                if sealed:
                    self._seal()
                elif self._synced:
                    os.fsync(descriptor)
            stored, path = self._spool.place(
                self._path, self._offset, study_instance_uid, sop_instance_uid, synced=self._synced
            )
            if sealed and stored is not Stored.SAME:
                self._sync(descriptor, path)
            return stored, path
        except BaseException:
            self.discard()
            raise
        finally:
            self._close()

    def _seal(self) -> None:
        sealed = Seal(self._offset + self.size, self._checksum).name(self._path)
        os.rename(self._path, sealed)
        self._path = sealed

    def _sync(self, descriptor: int, path: str) -> None:
        try:
            with _full_disk_told():
                os.fsync(descriptor)
        except SpoolError:
            self._spool.path(path).unlink(missing_ok=True)  # the sender is told that it is not here
            raise

    def set_aside(self, study_instance_uid: str, sop_instance_uid: str) -> None:
        """Give the file its place among the priors, apart from the studies; unsynced, as it can be fetched again.

        Raises
        ------
        SpoolError
            If a UID cannot name a file, or the disk fails.
        """
        try:
            self._open()
            self._spool.set_aside(self._path, study_instance_uid, sop_instance_uid)
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave nothing of it where it was written; without effect on what is in place."""
        self._close()
        if self._named:
            self._named = False
            with suppress(FileNotFoundError):
                os.unlink(self._path)

    def hand_over(self) -> str:
        """Where it was written; whoever asks removes that name once the object is in the ledger."""
        self._named = False
        return self._path

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self, *parts: bytes | memoryview) -> int:
        """The descriptor, once what stands before some parts and they themselves are written."""
        if self._descriptor is None:
            raise SpoolError("the file was given up")
        if self._head:
            parts = (self._head, *parts)
            self._head = b""
        if parts:
            _write_all(self._descriptor, *parts)
        return self._descriptor


@contextmanager
def content_of(path: Path, offset: int) -> Iterator[memoryview]:
    """What stands in a file from an offset on, mapped and not read."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _mapped(descriptor, offset) as view:
            yield view
    finally:
        os.close(descriptor)


@contextmanager
def _mapped(descriptor: int, offset: int) -> Iterator[memoryview]:
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


def is_conflict(path: str) -> bool:
    """Whether a place is that of other content under a UID that another object had first."""
    return "_" in path.rpartition("/")[2]


def _link(folder: str, sop_instance_uid: str, file: str, offset: int) -> tuple[Stored, str]:
    """Put a file among those with its UID, unless one of them is the same; with its name."""
    number = 1
    while True:
        name = f"{sop_instance_uid}.dcm" if number == 1 else f"{sop_instance_uid}_{number}.dcm"
        try:
            os.link(file, f"{folder}/{name}")
        except FileExistsError:
            if _same_data_set(Path(folder, name), Path(file), offset):
                return Stored.SAME, name
            number += 1
        else:
            return (Stored.NEW if number == 1 else Stored.CONFLICT), name


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


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, *parts: bytes | memoryview) -> None:
    written = os.writev(descriptor, parts)
    if written < sum(map(len, parts)):
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _system_write_back() -> Callable[[int, int, int], object]:
    """Linux's sync_file_range, which begins to write and waits for nothing; elsewhere nothing."""
    if sys.platform == "linux":
        call = ctypes.CDLL(None).sync_file_range
        call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
        return lambda descriptor, begin, length: call(descriptor, begin, length, 2)  # SYNC_FILE_RANGE_WRITE
    return lambda _descriptor, _begin, _length: None


_write_back: Final = _system_write_back()


def _sync(path: Path | str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
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
