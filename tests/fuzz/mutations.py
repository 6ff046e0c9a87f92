"""Bytes made worse: what a run without coverage feedback does to what it begins with."""

from __future__ import annotations

import random

_NUMBERS = (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xfe\xff\xff\xff")


def mutated(content: bytes, chance: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """Change a few places; `others` are bytes of which pieces are put in."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            number = chance.choice(_NUMBERS)
            changed[at : at + len(number)] = number
        elif kind == 2:
            del changed[at : at + chance.choice((1, 2, 4, 16, 200))]
        elif kind == 3:
            changed[at:at] = changed[at : at + chance.choice((1, 4, 32, 300))] * chance.choice((1, 2, 50))
        elif kind == 4:
            del changed[at:]
        elif kind == 5 and others:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            changed[at:at] = other[begin : begin + chance.choice((4, 40, 400))]
        else:
            changed[at : at + 2] = chance.randbytes(2)
    return bytes(changed)
