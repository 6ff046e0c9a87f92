"""A DICOMweb user agent: STOW-RS (PS3.18 10.5), QIDO-RS (10.6) and WADO-RS (10.4) as delivery and pulling need them.

Stored files are sent byte for byte, and objects are handed on as they arrive, chunk by chunk: neither is decoded,
and no body is held in memory. That is why this stands on httpx and not on dicomweb-client, whose calls take and give
data sets.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx
from pydicom.dataset import Dataset

from dicom_node.dicomweb.files import ArrivingFile
from dicom_node.dicomweb.multipart import MediaType, Multipart, MultipartError, boundary_of, read_parts
from dicom_node.dicomweb.store_request import batches, told
from dicom_node.dimse.scu import PeerError, SendResult, StoredFile, Timeouts
from dicom_node.settings.section import secret_of
from engine.errors import NotDicomError, SettingsError
from engine.study import READ_ERRORS

_LARGEST_ANSWER: Final = 64 << 20
_MOST_MATCHES: Final = 10_000
"""Of a search, whose server may say for ever that it has more."""
_TIMEOUTS: Final = Timeouts()
_JSON: Final = "application/dicom+json"
_NO_STUDY: Final = "1.2.840.10008.1.1"
"""The UID of Verification, which no study has: a query for it answers without anyone's data."""
_OF_AN_OBJECT: Final = (400, 413, 415, 422)
"""Refusals of a request that one of its objects may have caused: each then goes in a request of its own."""
_ADVICE: Final = {
    401: "are user and password, or token, right?",
    403: "let this user in at the server",
    404: "is the URL right?",
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """HTTP authentication: Basic with a user (RFC 7617), or a bearer token (RFC 6750); none if empty."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    @classmethod
    def read(
        cls, user: str | None = None, password_file: Path | None = None, token_file: Path | None = None
    ) -> Credentials:
        """Read the secrets from the files that the settings name.

        Raises
        ------
        SettingsError
            If one cannot be read or is empty.
        """
        return cls(
            user or "",
            secret_of(password_file) if password_file is not None else "",
            secret_of(token_file) if token_file is not None else "",
        )


class Client:
    """A DICOMweb server as seen by its user; may be used by several threads, and holds connections until it is closed.

    Parameters
    ----------
    url : str
        The service's root, as ``https://pacs.example/dicom-web``.
    credentials : Credentials
    tls : ssl.SSLContext, optional
        For https; the system's certificate authorities without one.
    timeouts : Timeouts
        To connect, and for each silence.

    Raises
    ------
    SettingsError
        If the URL is no HTTP URL, or holds a password.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials = Credentials(),
        *,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = _TIMEOUTS,
    ) -> None:
        try:
            root = httpx.URL(url.rstrip("/"))
        except httpx.InvalidURL:
            raise SettingsError("a DICOMweb URL cannot be read", advice="as https://pacs.example/dicom-web") from None
        if root.scheme not in ("http", "https") or not root.host:
            raise SettingsError("a DICOMweb URL begins with https:// or http:// and a host")
        if root.userinfo:
            raise SettingsError("a DICOMweb URL holds no user or password", advice="set user and password_file")
        headers = {"Accept-Encoding": "identity"}  # pixels do not shrink, and a small answer must not unpack to a huge
        if credentials.token:
            if not (credentials.token.isascii() and credentials.token.isprintable()):
                raise SettingsError("a bearer token has characters that cannot be sent", advice="see RFC 6750 2.1")
            headers["Authorization"] = f"Bearer {credentials.token}"
        self._name = str(root)
        self._http = httpx.Client(
            base_url=root,
            auth=httpx.BasicAuth(credentials.user, credentials.password) if credentials.user else None,
            headers=headers,
            verify=(tls or ssl.create_default_context()) if root.scheme == "https" else False,
            timeout=httpx.Timeout(timeouts.dimse, connect=timeouts.association),
            trust_env=False,  # images of patients take no way round a proxy because of some environment variable
        )

    def __str__(self) -> str:
        return self._name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def verify(self) -> float:
        """Ask for something that cannot exist, as C-ECHO asks for nothing.

        Returns
        -------
        float
            Seconds until the server answered.

        Raises
        ------
        PeerError
            If it cannot be reached, does not let this user in, or cannot serve now.
        """
        begin = time.perf_counter()
        query = {"StudyInstanceUID": _NO_STUDY}
        with self._request("GET", "/studies", params=query, headers={"Accept": _JSON}) as response:
            # A server that only stores knows no queries, and is well.
            if response.status_code in (401, 403) or _passes(response.status_code):
                raise self._refusal(response.status_code)
        return time.perf_counter() - begin

    def store(
        self, files: Sequence[StoredFile], *, on_result: Callable[[SendResult], None] | None = None
    ) -> list[SendResult]:
        """Store files by STOW-RS, several in a request.

        Parameters
        ----------
        files : sequence of StoredFile
        on_result : callable, optional
            Called for each file, in order, once the request that it was part of is answered.

        Returns
        -------
        list of SendResult
            One for each file, in order; `status` is the failure or warning reason of PS3.18 I.2.2, which are those of
            C-STORE.

        Raises
        ------
        PeerError
            If the server cannot be reached or refuses a request as a whole; files not told of were not stored, or may
            have been, and storing them again does no harm.
        """
        results: list[SendResult] = []
        for batch in batches(files):
            for result in self._store(batch):
                results.append(result)
                if on_result is not None:
                    on_result(result)
        return results

    def query(self, level: str, values: Mapping[str, str], wanted: Iterable[str] = ()) -> list[Dataset]:
        """Search by QIDO-RS.

        Parameters
        ----------
        level : str
            STUDY, SERIES or IMAGE.
        values : mapping of str to str
            Matching keys by keyword; `StudyInstanceUID` and `SeriesInstanceUID` above the level become the path.
        wanted : iterable of str
            Keywords of attributes that are to come back besides.

        Returns
        -------
        list of Dataset
            Empty where nothing matches.

        Raises
        ------
        PeerError
            If the server cannot be reached, refuses, or answers what cannot be read.
        """
        keys = {keyword: value for keyword, value in values.items() if value}
        path = ""
        if level in ("SERIES", "IMAGE") and (study := keys.pop("StudyInstanceUID", "")):
            path = f"/studies/{quote(study, safe='')}"
            if level == "IMAGE" and (series := keys.pop("SeriesInstanceUID", "")):
                path += f"/series/{quote(series, safe='')}"
        path += {"STUDY": "/studies", "SERIES": "/series", "IMAGE": "/instances"}[level]
        includes = [("includefield", keyword) for keyword in dict.fromkeys((*wanted, *set(values) - set(keys)))]
        found: list[Dataset] = []
        while True:
            page, more = self._page(path, [*keys.items(), *includes, *([("offset", str(len(found)))] if found else [])])
            found += page
            if not (page and more) or len(found) >= _MOST_MATCHES:
                return found

    def retrieve(
        self,
        study_instance_uid: str,
        sink: Callable[[ArrivingFile], None],
        *,
        series_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
    ) -> int:
        """Fetch a study, a series or an instance by WADO-RS, in the transfer syntax in which the server has it.

        Parameters
        ----------
        study_instance_uid : str
        sink : callable
            Called with each object while it arrives; reads its `data_set` (see `dicomweb.files.keep`). What it raises
            ends the retrieval and goes on to the caller.
        series_instance_uid, sop_instance_uid : str, optional
            Only this series; only this instance of it.

        Returns
        -------
        int
            How many objects came.

        Raises
        ------
        PeerError
            If the server cannot be reached, has no such study, or breaks off.
        """
        path = f"/studies/{quote(study_instance_uid, safe='')}"
        if series_instance_uid is not None:
            path += f"/series/{quote(series_instance_uid, safe='')}"
        if sop_instance_uid is not None:
            path += f"/instances/{quote(sop_instance_uid, safe='')}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        count = 0
        with self._request("GET", path, headers={"Accept": accept}) as response:
            if response.status_code == 204:
                return 0
            if response.status_code not in (200, 206):
                raise self._refusal(response.status_code)
            try:
                boundary = boundary_of(MediaType.parse(response.headers.get("Content-Type", "")))
                for part in read_parts(response.iter_raw(), boundary):
                    sink(ArrivingFile.read(part.content))
                    count += 1
            except MultipartError as error:
                raise PeerError(f"{self} sent what cannot be read: {error}") from None
            except NotDicomError as error:
                raise PeerError(f"{self} sent what cannot be read: {error}", retry=False) from None
        return count

    def exchange(
        self, method: str, path: str, *, query: Sequence[tuple[str, str]] = (), body: Any = None
    ) -> tuple[int, Any]:
        """Ask another service of this server in JSON, as UPS-RS.

        Returns
        -------
        status : int
        answer : object
            The body as JSON; None where it is none.

        Raises
        ------
        PeerError
            If the server cannot be reached or breaks off.
        """
        headers = {"Accept": _JSON} | ({"Content-Type": _JSON} if body is not None else {})
        content = json.dumps(body).encode("utf-8") if body is not None else None
        with self._request(method, path, params=list(query), content=content, headers=headers) as response:
            return response.status_code, _json(response)

    @contextmanager
    def _request(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """A request and its answer's head; whatever the network does to them is a `PeerError`."""
        try:
            with self._http.stream(method, path, **options) as response:
                yield response
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: httpx.TransportError) -> PeerError:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return PeerError(
                f"the certificate of {self} is not trusted: {cause.verify_message}",
                advice="name its certificate authority in the tls settings",
                retry=False,
            )
        if isinstance(cause, ssl.SSLError):
            return PeerError(f"no TLS connection with {self} comes about: {cause.reason or 'no reason given'}")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return PeerError(
                f"{self} cannot be reached", advice="is it running, and are host, port and firewall right?"
            )
        if isinstance(error, httpx.TimeoutException):
            return PeerError(f"{self} did not answer in time")
        return PeerError(f"{self} broke the connection off")

    def _refusal(self, status: int) -> PeerError:
        if 300 <= status < 400:
            return PeerError(
                f"{self} sends elsewhere (HTTP status {status})",
                advice="set the URL of the service itself",
                retry=False,
            )
        return PeerError(
            f"{self} answered with HTTP status {status}", advice=_ADVICE.get(status, ""), retry=_passes(status)
        )

    def _page(self, path: str, query: list[tuple[str, str]]) -> tuple[list[Dataset], bool]:
        """One answer to a search, and whether the server has more (PS3.18 8.3.4.4)."""
        with self._request("GET", path, params=query, headers={"Accept": _JSON}) as response:
            if response.status_code == 204:
                return [], False
            if response.status_code not in (200, 206):
                raise self._refusal(response.status_code)
            more = bool(re.match(r"299\b.*\b(more|additional)\b", response.headers.get("Warning", "")))
            items = _json(response)
        if not isinstance(items, list):
            raise PeerError(f"{self} answered what cannot be read", retry=False)
        try:
            return [Dataset.from_json(item) for item in items], more
        except (*READ_ERRORS, KeyError) as error:
            raise PeerError(f"{self} answered what cannot be read ({type(error).__name__})", retry=False) from None

    def _store(self, files: Sequence[StoredFile]) -> list[SendResult]:
        readable, lost = [], {}
        for file in files:
            try:
                file.path.stat()
                readable.append(file)
            except OSError as error:
                lost[file] = SendResult(file, None, f"the file cannot be read ({type(error).__name__})")
        answered = self._post(readable) if readable else {}
        return [lost.get(file) or answered[file] for file in files]

    def _post(self, files: Sequence[StoredFile]) -> dict[StoredFile, SendResult]:
        try:
            body = Multipart([file.path for file in files])
            headers = {"Accept": _JSON, "Content-Type": body.media_type, "Content-Length": str(body.length)}
            with self._request("POST", "/studies", content=body, headers=headers) as response:
                status, answer = response.status_code, _json(response)
                kind = response.headers.get("Content-Type", "")
        except OSError as error:
            raise PeerError(f"a stored file cannot be read ({type(error).__name__})") from None
        if status in _OF_AN_OBJECT:
            if len(files) > 1:
                return {file: self._store([file])[0] for file in files}
            return {files[0]: SendResult(files[0], None, f"HTTP status {status}")}
        if status not in (200, 202, 409):
            raise self._refusal(status)
        if kind.lower().startswith("text/html"):  # of a login or a proxy, which stored nothing
            raise PeerError(f"{self} answered with a web page", advice="set the URL of the service itself", retry=False)
        return told(files, status, answer)


def _passes(status: int) -> bool:
    """Whether a refusal may pass by itself (RFC 9110 15.5, 15.6)."""
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


def _json(response: httpx.Response) -> Any:
    """A body as JSON; None where it is none, or no end of it is to be seen."""
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > _LARGEST_ANSWER:
            return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
