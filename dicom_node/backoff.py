"""How long to wait before a peer is tried again."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Final, Protocol

_JITTER: Final = 0.2
"""What failed together must not knock together."""


class Delays(Protocol):
    """The settings of a wait."""

    @property
    def first_delay_seconds(self) -> float:
        """Before the second attempt."""

    @property
    def max_delay_seconds(self) -> float:
        """The longest."""


def delay_after(attempts: int, delays: Delays) -> timedelta:
    """The wait after so many attempts, of 1 or more: twice as long each time, and a little more or less."""
    seconds = min(delays.first_delay_seconds * 2.0 ** min(attempts - 1, 30), delays.max_delay_seconds)
    return timedelta(seconds=seconds * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret
