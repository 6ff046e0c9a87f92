"""multipart/related as a stream: what comes out does not depend on how it was cut, and nothing malformed passes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.dicomweb.multipart import MediaType, MultipartError, boundary_of, read_parts

# Few letters, so that near misses of the boundary come up.
PIECES = [b"\r", b"\n", b"-", b"--", b"b", b"bb", b"x", b"\r\n--b", b"\r\n--bx"]
CONTENT = st.lists(st.sampled_from(PIECES), max_size=12)
BOUNDARIES = st.sampled_from(["bbb", "bb-bb", "b b", "=_b.'()+,/:?"])


def cut(whole: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield whole[:size]
        whole = whole[size:]
    yield whole


def collected(chunks: Iterator[bytes], boundary: str) -> list[tuple[dict[str, str], bytes]]:
    return [(part.headers, b"".join(part.content)) for part in read_parts(chunks, boundary)]


@given(st.lists(CONTENT, min_size=1, max_size=4), BOUNDARIES, st.lists(st.integers(0, 7), max_size=60), st.booleans())
def test_parts_come_out_as_they_went_in_however_the_body_is_cut(
    contents: list[list[bytes]], boundary: str, sizes: list[int], preamble: bool
) -> None:
    parts = [b"".join(pieces) for pieces in contents]
    delimiter = b"\r\n--" + boundary.encode()
    parts = [part for part in parts if delimiter not in b"\r\n" + part + b"\r\n"]
    whole = b"preamble" if preamble else b""
    for part in parts:
        whole += delimiter + b" \t\r\nContent-Type: a/b\r\nX:y:z\r\n\r\n" + part
    whole += delimiter + b"--\r\nepilogue"
    if not preamble:
        whole = whole.removeprefix(b"\r\n")
    expected = [({"content-type": "a/b", "x": "y:z"}, part) for part in parts]
    assert collected(cut(whole, sizes), boundary) == expected


@given(st.binary(max_size=400), st.lists(st.integers(0, 30), max_size=20))
def test_any_bytes_end_in_parts_or_in_one_error(whole: bytes, sizes: list[int]) -> None:
    with pytest.raises(MultipartError):
        collected(cut(whole, sizes), "none of these bytes holds it")
    start = b"--b\r\n" + whole
    with suppress(MultipartError):
        collected(cut(start, sizes), "b")


@given(st.integers(0, 200))
def test_a_body_that_is_cut_short_is_told(length: int) -> None:
    whole = b"--b\r\nA: b\r\n\r\n" + bytes(100) + b"\r\n--b\r\n\r\nrest\r\n--b--"
    if length < len(whole):
        with pytest.raises(MultipartError, match="ends before"):
            collected(iter([whole[:length]]), "b")


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (b"x" * 10_000, "does not begin"),
        (b"--b and more\r\n\r\n", "something else in its line"),
        (b"--b\r\nno colon\r\n\r\n\r\n--b--", "no name"),
        (b"--b\r\n: nameless\r\n\r\n\r\n--b--", "no name"),
        (b"--b\r\nA: " + b"x" * 10_000, "too long"),
        (b"--b\r\n" + b"A: b\r\n" * 5_000, "too long"),
    ],
)
def test_malformed_bodies_are_refused_with_a_reason(whole: bytes, said: str) -> None:
    with pytest.raises(MultipartError, match=said):
        collected(iter([whole]), "b")


def test_what_is_left_of_a_part_is_skipped() -> None:
    whole = b"--b\r\nA: 1\r\n\r\nunread\r\n--b\r\nA: 2\r\n\r\nread\r\n--b--"
    assert [part.headers["a"] for part in read_parts(cut(whole, [5] * 12), "b")] == ["1", "2"]


def test_a_large_part_is_never_held_whole() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"--b\r\n\r\n"
        yield from (bytes(65_536) for _ in range(800))
        yield b"\r\n--b--"

    tracemalloc.start()
    try:
        (size,) = [sum(map(len, part.content)) for part in read_parts(chunks(), "b")]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 800 * 65_536
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("text", "name", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary="a b"', "multipart/related", "a b"),
        ("Multipart/Related;BOUNDARY=x;type=application/dicom", "multipart/related", "x"),
        ("multipart/related; boundary=---1", "multipart/related", "---1"),
        ("multipart/related", "multipart/related", None),
        ('multipart/related; boundary=""', "multipart/related", None),
        (f"multipart/related; boundary={'x' * 201}", "multipart/related", None),
        ("multipart/related; boundary=é", "multipart/related", None),
        ("", "", None),
        (";;=;", "", None),
        ("multipart/related; a*=1; a*0=2", "", None),
        (f"multipart/related; a*{'9' * 5000}=1", "", None),
    ],
)
def test_media_types_and_their_boundaries(text: str, name: str, boundary: str | None) -> None:
    media_type = MediaType.parse(text)
    assert media_type.name == name
    if boundary is None:
        with pytest.raises(MultipartError, match="no boundary"):
            boundary_of(media_type)
    else:
        assert boundary_of(media_type) == boundary
