"""``make differential``: 100 000 streams into the fast and the stock receive path; each must come to the same."""

import math
from pathlib import Path

import pytest
import streams
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

PARTS = 4
"""Each can run in a process of its own; every other one syncs each object, as the default is."""
AT_ONCE = 8
EXAMPLES = 100
"""Of a run of hypothesis, which remembers them all: with thousands the collections of garbage take most of the time."""
_SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a stream that fails
@pytest.mark.parametrize("part", range(PARTS))
def test_streams_come_to_the_same(tmp_path: Path, part: int) -> None:
    pair = streams.Pair(tmp_path, AT_ONCE, durability="instance" if part % 2 else "association")
    wanted = streams.count(100_000) // PARTS
    try:
        with streams.quiet_threads():
            for number in range(math.ceil(wanted / AT_ONCE / EXAMPLES)):

                @seed(number * PARTS + part)
                @_SETTINGS
                @given(st.lists(streams.streams(), min_size=AT_ONCE, max_size=AT_ONCE))
                def play(pieces: list[list[bytes]]) -> None:
                    pair.compare(pieces)

                play()
                print(f"part {part}: {pair.played} streams", flush=True)
        assert pair.leftovers() == []
    finally:
        pair.close()
    assert pair.played >= wanted
