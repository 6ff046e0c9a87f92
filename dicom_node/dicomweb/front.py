"""The front as a reading worker on another host sees it: images by WADO-RS, readings and results home by PUT.

Truth stays in the front's spool. What is fetched lies in a cache of this process and is removed after the run; what a
killed process left there is removed by the next one that starts.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import structlog

from dicom_node.dicomweb.client import Client, Credentials
from dicom_node.dimse.scu import PeerError, Timeouts
from dicom_node.dimse.tls import client_context
from dicom_node.ledger import LeaseLostError
from dicom_node.ledger.records import Claim, StoredInstance
from dicom_node.reading.home import HomeLostError
from dicom_node.settings.dicomweb import FrontSettings
from engine.errors import NodeError, SettingsError

_MIB: Final = 1 << 20
_RENEW_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Front:
    """The way to the front's spool; a `dicom_node.reading.home.Home`.

    Parameters
    ----------
    settings : FrontSettings
    cache : Path
        Folder for fetched images; several processes of this host may share it.

    Raises
    ------
    SettingsError
        If there is no URL, or a secret or certificate cannot be used.
    """

    def __init__(self, settings: FrontSettings, cache: Path) -> None:
        if settings.url is None:
            raise SettingsError("front.url is not set")
        self._settings = settings
        self._url = settings.url
        self._credentials = Credentials.read(settings.user, settings.password_file, settings.token_file)
        self._connect().close()  # wrong settings are told now
        self._cache = _Cache(cache, settings.cache_mib * _MIB)
        self._owners: dict[str, str] = {}

    @contextmanager
    def files(self, claim: Claim, renew: Callable[[], None]) -> Iterator[dict[Path, StoredInstance]]:
        """Fetch a run's images; they are removed at the end of the block.

        An image that the front no longer has is a file that is not there.

        Raises
        ------
        HomeLostError
            If the front cannot be reached, or the cache is full of what other runs need.
        NodeError
            If the front refuses, or the images are more than the cache may hold.
        """
        begin = time.monotonic()
        with self._cache.folder() as folder, self._connect() as client:
            files = {folder.path / f"{number}.dcm": instance for number, instance in enumerate(claim.instances)}
            told = begin

            def write(chunk: bytes) -> None:
                nonlocal told
                folder.grow(len(chunk))
                if time.monotonic() - told > _RENEW_SECONDS:
                    renew()
                    told = time.monotonic()

            for path, instance in files.items():
                client.fetch(_instance_path(claim, instance), path, write)
                write(b"")
            log.info("images fetched", files=len(files), bytes=folder.size, seconds=round(time.monotonic() - begin, 1))
            self._owners[claim.run_id] = claim.owner
            try:
                yield files
            finally:
                del self._owners[claim.run_id]

    def reading(self, run_id: str) -> str:
        """See `Home.reading`."""
        with self._connect() as client:
            return client.work("GET", f"/work/{run_id}/reading", self._owners[run_id]).decode("utf-8")

    def store_reading(self, run_id: str, text: str) -> None:
        """See `Home.store_reading`."""
        with self._connect() as client:
            client.work("PUT", f"/work/{run_id}/reading", self._owners[run_id], text.encode())

    def store_result(self, run_id: str, variant: str, kind: str, content: bytes) -> tuple[str, str]:
        """See `Home.store_result`."""
        with self._connect() as client:
            path = client.work("PUT", f"/work/{run_id}/results/{variant}/{kind}", self._owners[run_id], content)
        return path.decode("utf-8"), hashlib.sha256(content).hexdigest()

    def _connect(self) -> _FrontClient:
        """A client by the certificates of now; its connections live as long as one step of a run."""
        settings = self._settings
        timeouts = Timeouts(association=min(settings.timeout_seconds, 30), dimse=settings.timeout_seconds)
        tls = client_context(settings.tls) if settings.tls is not None else None
        return _FrontClient(self._url, self._credentials, tls=tls, timeouts=timeouts)


class _FrontClient(Client):
    """The user agent of a front, with the resource that only its workers use."""

    def fetch(self, path: str, target: Path, on_chunk: Callable[[bytes], None]) -> None:
        """Write an instance to a file, as it is in the front's spool; no file where it is not there any more."""
        with self._told(), self._request("GET", path, headers={"Accept": "application/dicom"}) as response:
            if response.status_code == 404:
                return
            self._check(response)
            with target.open("xb") as file:
                for chunk in response.iter_raw():
                    on_chunk(chunk)
                    file.write(chunk)

    def work(self, method: str, path: str, owner: str, content: bytes | None = None) -> bytes:
        """Get or put what a run makes; the answer's body."""
        options: dict[str, Any] = {"params": {"owner": owner}}
        if content is not None:
            digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
            options |= {"content": content, "headers": {"Content-Digest": f"sha-256=:{digest}:"}}
        with self._told(), self._request(method, path, **options) as response:
            if response.status_code == 409:
                raise LeaseLostError("the front says that the run is not this worker's to read")
            self._check(response)
            return b"".join(response.iter_raw())

    def _check(self, response: httpx.Response) -> None:
        if response.status_code >= 300:
            raise self._refusal(response.status_code)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except PeerError as error:
            if error.retry:
                raise HomeLostError(str(error), advice=error.advice) from None
            raise


class _Cache:
    """Folders below one that several processes share; those of a process are its own as long as it lives."""

    def __init__(self, root: Path, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._lock = threading.Lock()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        everyone = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(everyone, fcntl.LOCK_EX)  # nobody makes a folder while another one looks whose are left
            for left in root.iterdir():
                if left.is_dir() and _is_free(left):
                    shutil.rmtree(left, ignore_errors=True)
            self._own = root / secrets.token_hex(8)
            self._own.mkdir(mode=0o700)
            # Held open, and so locked, until the process ends.
            self._held = os.open(self._own, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._held, fcntl.LOCK_EX)
        finally:
            os.close(everyone)

    @contextmanager
    def folder(self) -> Iterator[_Folder]:
        """A folder for one run, removed at the end."""
        folder = _Folder(self, self._own / secrets.token_hex(8))
        folder.path.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder.path, ignore_errors=True)
            self.take(-folder.size)

    def take(self, size: int) -> int:
        """Account for bytes; how many there are of all runs then."""
        with self._lock:
            self._used += size
            return self._used


class _Folder:
    def __init__(self, cache: _Cache, path: Path) -> None:
        self.path = path
        self.size = 0
        self._cache = cache

    def grow(self, size: int) -> None:
        """Account for bytes that are about to be written."""
        self.size += size
        used = self._cache.take(size)
        if self.size > self._cache.limit:
            raise NodeError("the study is larger than front.cache_mib", advice="raise it")
        if used > self._cache.limit:
            raise HomeLostError("other studies fill the cache of fetched images", advice="raise front.cache_mib")


def _is_free(folder: Path) -> bool:
    """Whether the process that made a folder has ended."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _instance_path(claim: Claim, instance: StoredInstance) -> str:
    study, series = claim.study_instance_uid, instance.series_instance_uid
    return f"/studies/{study}/series/{series}/instances/{instance.sop_instance_uid}"
