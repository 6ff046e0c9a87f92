"""What the answers to a storage SCU mean: stored, stored with a warning, not now, or not at all.

One table for C-STORE (PS3.4 B.2.3, PS3.7 9.1.1.1.9 and annex C), which STOW-RS shares (PS3.18 I.2.2), and one for
refused associations (PS3.8 9.3.4). *Transient* is what may pass without anyone changing anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What became of an object."""

    SUCCESS = "success"
    WARNING = "warning"
    """It is stored, and something is to be said about it."""
    TRANSIENT = "transient"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a status means, in the Standard's words and with what to do about it."""

    kind: Kind
    words: str
    advice: str = ""

    @property
    def stored(self) -> bool:
        """Whether the peer has the object."""
        return self.kind in (Kind.SUCCESS, Kind.WARNING)


_UNKNOWN: Final = Meaning(Kind.PERMANENT, "a status that is not in the Standard")
_STATUSES: Final[Mapping[int, Meaning]] = {
    0x0000: Meaning(Kind.SUCCESS, ""),
    # PS3.7 C.3: what was asked has been done, some attributes aside.
    0x0001: Meaning(Kind.WARNING, "requested optional attributes are not supported"),
    0x0107: Meaning(Kind.WARNING, "attribute list error"),
    0x0116: Meaning(Kind.WARNING, "attribute value out of range"),
    0xB000: Meaning(Kind.WARNING, "coercion of data elements"),
    0xB006: Meaning(Kind.WARNING, "elements discarded"),
    0xB007: Meaning(Kind.WARNING, "data set does not match SOP class"),
    # A result's UID is made from what it says, so an object of that UID there is this one, sent before a crash.
    0x0111: Meaning(Kind.WARNING, "duplicate SOP instance: the peer has it already"),
    # "A general failure in processing": nothing is said against the object, and archives give it while their database
    # or disk is away.
    0x0110: Meaning(Kind.TRANSIENT, "processing failure"),
    # A message ID that the peer takes for one still under way; the next association begins anew.
    0x0210: Meaning(Kind.TRANSIENT, "duplicate invocation"),
    0x0213: Meaning(Kind.TRANSIENT, "resource limitation"),
    0x0105: Meaning(Kind.PERMANENT, "no such attribute"),
    0x0106: Meaning(Kind.PERMANENT, "invalid attribute value"),
    0x0112: Meaning(Kind.PERMANENT, "no such SOP instance"),
    0x0115: Meaning(Kind.PERMANENT, "invalid argument value"),
    0x0117: Meaning(Kind.PERMANENT, "invalid SOP instance"),
    0x0118: Meaning(Kind.PERMANENT, "no such SOP class"),
    0x0119: Meaning(Kind.PERMANENT, "class-instance conflict"),
    0x0120: Meaning(Kind.PERMANENT, "missing attribute"),
    0x0121: Meaning(Kind.PERMANENT, "missing attribute value"),
    # It was negotiated and is refused all the same: a rule over there, which stays until someone changes it.
    0x0122: Meaning(Kind.PERMANENT, "refused: SOP class not supported", "let the peer take this SOP class from us"),
    0x0124: Meaning(Kind.PERMANENT, "refused: not authorized", "let our AE title store at the peer"),
    0xC122: Meaning(Kind.PERMANENT, "referenced transfer syntax not supported"),  # of STOW-RS
    0x0211: Meaning(Kind.PERMANENT, "unrecognized operation"),
    0x0212: Meaning(Kind.PERMANENT, "mistyped argument"),
}
_RANGES: Final[Mapping[int, Meaning]] = {
    0xA700: Meaning(Kind.TRANSIENT, "refused: out of resources"),  # a full disk is emptied
    0xA900: Meaning(Kind.PERMANENT, "data set does not match SOP class"),
    0xB000: Meaning(Kind.WARNING, "a warning that is not in the Standard"),  # Bxxx warns, whatever of (PS3.7 C.1.3)
    0xC000: Meaning(Kind.PERMANENT, "cannot understand"),
}


def meaning_of(status: int) -> Meaning:
    """What the status of a C-STORE response, or a failure or warning reason of STOW-RS, means."""
    if status in _STATUSES:
        return _STATUSES[status]
    family = status & (0xFF00 if status & 0xF000 == 0xA000 else 0xF000)
    return _RANGES.get(family, _UNKNOWN)


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    permanent: bool
    words: str
    advice: str = ""


_REASONS: Final[Mapping[tuple[int, int], str]] = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognised",
    (1, 7): "called AE title not recognised",
    (2, 1): "no reason given, by its upper layer",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


def rejection_of(result: int | None, source: int | None, reason: int | None, calling: str, called: str) -> Rejection:
    """What a refused association means.

    Parameters
    ----------
    result : int
        1 rejected permanent, 2 rejected transient.
    source, reason : int
        Table 9-21.
    calling, called : str
        AE titles, for the advice.
    """
    words = _REASONS.get((source or 0, reason or 0), "a reason that is not in the Standard")
    advice = {
        (1, 3): f"let {calling} in at the peer",
        (1, 7): f"is {called} its right AE title?",
        (2, 1): "does it ask for a user, or for another one?",
    }.get((source or 0, reason or 0), "")
    # Congestion and limits pass, even where a peer calls them permanent.
    return Rejection(result == 1 and source != 3, words, advice)
