"""DICOM files as they arrive: whatever the bytes, and however they are cut, one outcome."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from web_bench import encoded

from dicom_node.dicomweb.files import ArrivingFile
from engine.errors import NotDicomError

FILE = encoded()
# pydicom warns of what damaged elements say; a node's log withholds it.
damaged = pytest.mark.filterwarnings("ignore::UserWarning")


def cut(whole: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield whole[:size]
        whole = whole[size:]
    yield whole


@given(st.lists(st.integers(0, 300), max_size=20))
def test_a_file_is_the_same_however_it_is_cut(sizes: list[int]) -> None:
    one, other = ArrivingFile.read([FILE]), ArrivingFile.read(cut(FILE, sizes))
    uids = ("sop_class_uid", "sop_instance_uid", "transfer_syntax_uid")
    assert [getattr(one, uid) for uid in uids] == [getattr(other, uid) for uid in uids]
    assert FILE.endswith(data := b"".join(one.data_set))
    assert data == b"".join(other.data_set)


@damaged
@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_byte_ends_in_a_file_or_in_one_error(position: int, value: int) -> None:
    file = bytearray(FILE)
    file[position] = value
    try:
        found = ArrivingFile.read([bytes(file)])
    except NotDicomError:
        return
    assert sum(map(len, found.data_set)) < len(FILE)


@damaged
@given(st.binary(max_size=600))
def test_any_bytes_behind_the_prefix_end_in_a_file_or_in_one_error(content: bytes) -> None:
    for start in (b"", bytes(128) + b"DICM", bytes(128) + b"DICM\x02\0\0\0UL\x04\0"):
        try:
            ArrivingFile.read([start + content])
        except NotDicomError:
            continue


def test_file_meta_information_that_never_ends_is_not_waited_for() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + (0xFFFFFF00).to_bytes(4, "little")
        while True:
            taken += 1
            yield bytes(1000)

    with pytest.raises(NotDicomError, match="too long"):
        ArrivingFile.read(endless())
    assert taken == 0
