"""How large an object may be: what reading one may cost, whatever it declares of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one object; beyond any of them it is left aside with its reason.

    Parameters
    ----------
    inflated_bytes : int
        Largest data set that a deflated file may inflate to: 400 KB can hold 400 MB.
    nesting : int
        Deepest sequence within sequences; the Standard's own stay below ten.
    items : int
        Most elements and sequence items of a header, all its sequences together; each costs about a kilobyte.
    value_bytes : int
        Longest value of a header that is text or numbers; bulk data (OB, OW and the like) is not meant.
    frames : int
        Most frames that an object may declare.
    pixels : int
        Largest frame that is decoded; the largest radiographs in use have about half of the default.
    decode_seconds : float
        How long decoding one compressed frame may take.
    decode_bytes : int
        How much memory decoding one compressed frame may take.
    """

    inflated_bytes: int = 256 << 20
    nesting: int = 24
    items: int = 250_000
    value_bytes: int = 1 << 20
    frames: int = 100_000
    pixels: int = 1 << 26
    decode_seconds: float = 60
    decode_bytes: int = 2 << 30


LIMITS = Limits()
"""Those of who sets none."""
