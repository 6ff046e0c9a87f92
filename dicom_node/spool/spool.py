"""The spool's folders; see `dicom_node.spool`."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from dicom_node.process import booted_at, new_owner, owner_is_gone
from dicom_node.settings.limits import LimitsSettings
from dicom_node.spool.disk import Space, SpoolError, full_disk_told, sync, write
from dicom_node.spool.incoming import IncomingFile
from dicom_node.spool.place import Stored, link
from dicom_node.spool.seal import Seal, names_follow_files

if TYPE_CHECKING:
    from dicom_node.ledger.records import Claim, StoredInstance
    from dicom_node.settings import Settings

_UID: Final = re.compile(r"[0-9.]{1,64}")
_RUN: Final = re.compile(r"[0-9a-f]{32}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_MIB: Final = 1 << 20
_LIMITS: Final = LimitsSettings()
_ABANDONED_SECONDS: Final = 3600
"""A file that nothing was added to for so long does not arrive any more, whoever was writing it."""
_KNOWN_FOLDERS: Final = 10_000


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
    space : Space
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
        self.space = Space(self.root, minimum_free, highest_percent)
        self._incoming = self.root / "incoming"
        self._studies = self.root / "studies"
        self._owner = new_owner()
        self._numbers = itertools.count()
        self._folders = threading.Lock()
        self._known_folders: set[str] = set()
        with full_disk_told():
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
        with full_disk_told():
            self.space.check(len(head))
            return IncomingFile(self, f"{self._incoming}/{self._owner}:{next(self._numbers)}.part", head, synced)

    def place(
        self, temporary: str, offset: int, study_instance_uid: str, sop_instance_uid: str, *, synced: bool
    ) -> tuple[Stored, str]:
        """Give a file its place, and see that the name is on the disk once the file is; see `IncomingFile.place`."""
        _check_uids(study_instance_uid, sop_instance_uid)
        folder = f"{self._studies}/{study_instance_uid}"
        with full_disk_told():
            for _attempt in range(3):
                self._have_folder(folder)
                try:
                    stored, name = link(folder, sop_instance_uid, temporary, offset, synced=synced)
                    break
                except FileNotFoundError:  # the study was purged just now
                    self._known_folders.discard(folder)
            else:
                raise SpoolError("the study's folder vanishes")
            if synced and stored is Stored.SAME:
                sync(f"{folder}/{name}")  # whoever put it there may not be as far
            if synced and (stored is Stored.SAME or not self.names_follow):
                sync(folder)
        return stored, f"studies/{study_instance_uid}/{name}"

    def set_aside(self, temporary: str, study_instance_uid: str, sop_instance_uid: str) -> None:
        """Give a file its place among the priors; see `IncomingFile.set_aside`."""
        folder = self._prior(study_instance_uid)
        _check_uids(sop_instance_uid)
        with full_disk_told():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.replace(temporary, folder / f"{sop_instance_uid}.dcm")

    def priors(self, study_instance_uid: str) -> list[Path]:
        """The files of a study that was fetched as a prior."""
        return sorted(self._prior(study_instance_uid).glob("*.dcm"))

    def remove_prior(self, study_instance_uid: str) -> None:
        """Remove a prior's files."""
        shutil.rmtree(self._prior(study_instance_uid), ignore_errors=True)

    def _prior(self, study_instance_uid: str) -> Path:
        _check_uids(study_instance_uid)
        return self.root / "priors" / study_instance_uid

    def sync(self, paths: Iterable[str]) -> None:
        """Sync objects that are in place, and their folders.

        Raises
        ------
        SpoolError
            If the disk fails.
        """
        files = [f"{self.root}/{path}" for path in paths]
        with full_disk_told():
            for file in (*files, *{file.rpartition("/")[0] for file in files}):
                with suppress(FileNotFoundError):  # delivered and purged meanwhile
                    sync(file)

    def _have_folder(self, folder: str) -> None:
        if folder in self._known_folders:
            return
        with self._folders:  # nobody may count on a folder that is not synced, whichever process made it
            Path(folder).mkdir(mode=0o700, exist_ok=True)
            sync(self._studies)
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
        with full_disk_told():
            missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.is_dir()]
            for folder in reversed(missing):
                folder.mkdir(mode=0o700, exist_ok=True)
                sync(folder.parent)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            try:
                write(temporary, content)
                temporary.rename(path)
                sync(path.parent)
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
        with full_disk_told():
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


def _check_uids(*uids: str) -> None:
    """Refuse what cannot name a file: ".." is made of digits and dots too."""
    if not all(_UID.fullmatch(uid) and uid.strip(".") for uid in uids):
        raise SpoolError("a UID is not made of digits and dots, at most 64")
