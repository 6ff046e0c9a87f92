"""An object on its way into the spool: written while it arrives, and given its place once it is whole."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from dicom_node.spool.disk import SpoolError, full_disk_told, write_all, write_back
from dicom_node.spool.part10 import mapped
from dicom_node.spool.place import Stored
from dicom_node.spool.seal import Seal

if TYPE_CHECKING:
    from dicom_node.spool.spool import Spool

_WRITE_BACK: Final = 1 << 18
"""Bytes after which the disk begins to write what came, while the rest still arrives."""


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
        with full_disk_told():
            descriptor = self._open(*parts)
            for part in parts:
                self.size += len(part)
                if self._synced:
                    self._checksum = zlib.crc32(part, self._checksum)
            end = self._offset + self.size
            if end - self._written_back >= _WRITE_BACK:
                self._spool.space.check(end - self._written_back)
                write_back(descriptor, self._written_back, end - self._written_back)
                self._written_back = end

    @contextmanager
    def content(self) -> Iterator[memoryview]:
        """The data set as written so far, mapped and not read."""
        with mapped(self._open(), self._offset) as view:
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
            with full_disk_told():
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
            with full_disk_told():
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
            write_all(self._descriptor, *parts)
        return self._descriptor
