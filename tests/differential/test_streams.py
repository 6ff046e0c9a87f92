"""``make differential``: 100 000 streams into the fast and the stock receive path; each must come to the same."""

from pathlib import Path

import streams
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

AT_ONCE = 16


def test_streams_come_to_the_same(tmp_path: Path) -> None:
    pair = streams.Pair(tmp_path, AT_ONCE)

    @settings(
        max_examples=streams.count(100_000) // AT_ONCE,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(streams.streams(), min_size=AT_ONCE, max_size=AT_ONCE))
    def play(pieces: list[list[bytes]]) -> None:
        pair.compare(pieces)

    try:
        with streams.quiet_threads():
            play()
        assert pair.leftovers() == []
    finally:
        pair.close()
    print(f"{pair.played} streams")
