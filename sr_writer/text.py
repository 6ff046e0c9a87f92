"""Text that fits its value representation: no control characters, no delimiter, not too long (PS3.5 6.2).

The Standard counts characters. Validators and many an archive's columns count bytes, so these limits are bytes of
UTF-8: what keeps within them is within the Standard's too.
"""

from __future__ import annotations

import unicodedata

LONG_STRING = 64
"""Length of LO."""
SHORT_TEXT = 1024
"""Length of ST."""
LONG_TEXT = 10240
"""Length of LT."""
_ELLIPSIS = "…"


def clean_line(words: str, limit: int = LONG_STRING) -> str:
    """Make one line that LO can hold: control characters and the delimiter replaced, cut at `limit` with an ellipsis.

    Parameters
    ----------
    words : str
    limit : int
        Bytes of UTF-8.
    """
    return _cut(" ".join("".join(_plain(character) for character in words.replace("\\", "/")).split()), limit)


def clean_text(words: str, limit: int = LONG_TEXT) -> str:
    """Make text that ST, LT and UT can hold; line ends stay, as CR LF (PS3.5 6.1.2.3)."""
    lines = ("".join(_plain(character) for character in line).rstrip() for line in words.splitlines())
    return _cut("\r\n".join(lines).strip(), limit)


def _cut(words: str, limit: int) -> str:
    """Shorten to a number of bytes, between characters."""
    encoded = words.encode("utf-8")
    if len(encoded) <= limit:
        return words
    return encoded[: limit - len(_ELLIPSIS.encode("utf-8"))].decode("utf-8", "ignore").rstrip() + _ELLIPSIS


def _plain(character: str) -> str:
    """Give a blank for what no value representation of text can hold: control characters and lone surrogates."""
    return " " if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} else character
