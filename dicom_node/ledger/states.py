"""A run's states, and the one table of transitions between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from engine.errors import NodeError


class State(StrEnum):
    """Where a run, that is one reading of a study, stands."""

    RECEIVING = "RECEIVING"
    """Images arrive."""
    COMPLETE = "COMPLETE"
    """No image arrived for the quiet time."""
    QUEUED = "QUEUED"
    """Waits for a worker."""
    READING = "READING"
    """A worker holds its lease and asks the model."""
    WRITING = "WRITING"
    """The reading is stored; results are made of it."""
    DELIVERING = "DELIVERING"
    """The results are stored and on their way."""
    DELIVERED = "DELIVERED"
    """Every destination has every result."""
    COMMITTED = "COMMITTED"
    """Every destination that is asked for it has committed to keep every result (PS3.4 J)."""
    IGNORED = "IGNORED"
    """Nothing in it is for this node; the reason says what."""
    CANCELLED = "CANCELLED"
    """Stopped on request."""
    FAILED = "FAILED"
    """Gave up; the reason says why, and `Ledger.retry` is the way back in."""


TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.RECEIVING: frozenset({State.COMPLETE, State.CANCELLED}),
    # IGNORED: no route matches, or the one that does is off.
    State.COMPLETE: frozenset({State.QUEUED, State.IGNORED, State.FAILED, State.CANCELLED}),
    State.QUEUED: frozenset({State.READING, State.FAILED, State.CANCELLED}),
    # Back to QUEUED: the worker was lost, the node stopped, or an error that may pass.
    State.READING: frozenset({State.WRITING, State.QUEUED, State.IGNORED, State.FAILED, State.CANCELLED}),
    State.WRITING: frozenset({State.DELIVERING, State.QUEUED, State.FAILED, State.CANCELLED}),
    State.DELIVERING: frozenset({State.DELIVERED, State.FAILED, State.CANCELLED}),
    # A note that withdraws the results goes the way that they went, and so does what a destination has not kept.
    State.DELIVERED: frozenset({State.COMMITTED, State.DELIVERING, State.FAILED}),
    State.COMMITTED: frozenset({State.DELIVERING}),
    # The way back in: to the results that exist already, else through the queue, and through the rules where none of
    # them has taken the run yet. One that was cancelled while it received goes on receiving.
    State.IGNORED: frozenset({State.COMPLETE}),
    State.CANCELLED: frozenset({State.RECEIVING, State.COMPLETE, State.QUEUED, State.DELIVERING}),
    # Or given up by a person, so that its images need not be kept any more.
    State.FAILED: frozenset({State.COMPLETE, State.QUEUED, State.DELIVERING, State.CANCELLED}),
}

ACTIVE: Final = frozenset(
    {State.RECEIVING, State.COMPLETE, State.QUEUED, State.READING, State.WRITING, State.DELIVERING}
)
"""States that something still has to happen in."""

GATHERING: Final = frozenset({State.RECEIVING, State.CANCELLED})
"""States in which images may still join a run: one that was cancelled while it received takes them until they end."""

LEASED: Final = frozenset({State.READING, State.WRITING})
"""States in which a worker must hold the run's lease."""


class TransitionError(NodeError):
    """A run cannot go from its state to the one asked for."""


def check_transition(current: State, wanted: State) -> None:
    """Refuse what `TRANSITIONS` does not allow.

    Raises
    ------
    TransitionError
    """
    if wanted not in TRANSITIONS[current]:
        raise TransitionError(f"a run that is {current} cannot become {wanted}")
