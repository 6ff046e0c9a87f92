"""multipart/related (RFC 2387, RFC 2046 5.1) as PS3.18 8.6 uses it, a stream both ways: no part is ever held whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Final

from engine.errors import NodeError

PART_10: Final = "application/dicom"
_CHUNK: Final = 1 << 18
_LARGEST_HEADER: Final = 8192
"""Bytes of a part's header fields, and of what stands before the first part, that are looked at."""

_LONGEST_BOUNDARY: Final = 200
"""RFC 2046 5.1.1 says 70, and Orthanc's are 73 long."""


class MultipartError(NodeError):
    """A body is not what its Content-Type says, or ends too early."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type with its parameters (RFC 9110 8.3.1); names and type in lower case."""

    name: str
    parameters: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> MediaType:
        """Read a Content-Type, or one element of Accept; nameless where it cannot be read."""
        message = Message()
        message["Content-Type"] = text
        try:
            pairs = [(str(key), str(value)) for key, value in message.get_params(failobj=[]) or []]
        except (TypeError, ValueError):  # the library's, over parameters in pieces (RFC 2231) that do not fit
            pairs = []
        name = pairs[0][0].strip().lower() if pairs else ""
        return cls(name, {key.lower(): value for key, value in pairs[1:]})


@dataclass(frozen=True, slots=True)
class Part:
    """A part; `content` is read once, before the next part is asked for, which skips what is left of it."""

    headers: dict[str, str]
    content: Iterator[bytes]


def boundary_of(media_type: MediaType) -> str:
    """The boundary of a multipart body.

    Raises
    ------
    MultipartError
        If there is none, or it is not made of printable ASCII characters.
    """
    boundary = media_type.parameters.get("boundary", "")
    if not (1 <= len(boundary) <= _LONGEST_BOUNDARY and boundary.isascii() and boundary.isprintable()):
        raise MultipartError("the Content-Type has no boundary that can be used")
    return boundary


def read_parts(chunks: Iterable[bytes], boundary: str) -> Iterator[Part]:
    """Cut a body into its parts as it arrives.

    Raises
    ------
    MultipartError
        From this iterator or from a part's: if the body is malformed, or ends before its last boundary.
    """
    body = _Body(iter(chunks), boundary)
    body.skip_preamble()
    while body.delimiter_opens_a_part():
        content = body.content()
        yield Part(body.headers(), content)
        for _ in content:
            pass


class Multipart:
    """DICOM files as one body, whose length is known before it is sent: not every peer takes one of unknown length."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        boundary = secrets.token_hex(16)
        self.media_type = f'multipart/related; type="{PART_10}"; boundary={boundary}'
        self._head = f"--{boundary}\r\nContent-Type: {PART_10}\r\n\r\n".encode("ascii")
        self._end = f"--{boundary}--\r\n".encode("ascii")
        self.length = sum(len(self._head) + path.stat().st_size + 2 for path in paths) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for path in self._paths:
            yield self._head
            yield from content(path)
            yield b"\r\n"
        yield self._end


def content(path: Path) -> Iterator[bytes]:
    """A file in chunks."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


class _Body:
    def __init__(self, chunks: Iterator[bytes], boundary: str) -> None:
        self._chunks = chunks
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # The line's end before the first boundary may be missing, where nothing stands before it.
        self._buffer = bytearray(b"\r\n")

    def _fill(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise MultipartError("the body ends before its last boundary")
        self._buffer += chunk

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def content(self) -> Iterator[bytes]:
        """What stands before the next delimiter, which is consumed."""
        tail = len(self._delimiter) - 1  # a delimiter may have begun in what has arrived
        while (at := self._buffer.find(self._delimiter)) < 0:
            if len(self._buffer) > tail:
                yield self._take(len(self._buffer) - tail)
            self._fill()
        if at:
            yield self._take(at)
        self._take(len(self._delimiter))

    def skip_preamble(self) -> None:
        skipped = 0
        for chunk in self.content():
            skipped += len(chunk)
            if skipped > _LARGEST_HEADER:
                raise MultipartError("the body does not begin with the boundary that its Content-Type names")

    def delimiter_opens_a_part(self) -> bool:
        """Read the rest of a delimiter's line; False behind the last part."""
        while len(self._buffer) < 2:
            self._fill()
        if self._buffer[:2] == b"--":
            return False
        if self._until(b"\r\n").strip(b" \t"):
            raise MultipartError("a boundary is followed by something else in its line")
        return True

    def headers(self) -> dict[str, str]:
        """A part's header fields, names in lower case."""
        found: dict[str, str] = {}
        length = 0
        while line := self._until(b"\r\n"):
            length += len(line)
            if length > _LARGEST_HEADER:
                raise MultipartError("a part's header fields are too long")
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or not name.strip():
                raise MultipartError("a part's header field has no name")
            found[name.strip().lower()] = value.strip()
        return found

    def _until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            if len(self._buffer) > _LARGEST_HEADER:
                raise MultipartError("a part's header fields are too long")
            self._fill()
        line = self._take(at)
        self._take(len(end))
        return line
