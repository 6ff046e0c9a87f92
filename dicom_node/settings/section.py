"""What every table of the settings file is made of."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from engine.errors import SettingsError


def _ae_title(value: str) -> str:
    """An application entity title as PS3.5 6.2 (VR AE) allows it."""
    title = value.strip(" ")
    if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ValueError("an AE title is 1 to 16 printable ASCII characters without a backslash")
    return title


AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
_LOCAL: Final = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local_host(host: str) -> bool:
    """Whether a request's Host field names this machine.

    Else a page in a browser of this machine may have had its own name point here (DNS rebinding).
    """
    name, _, port = host.rpartition(":")
    return host in _LOCAL or (name in _LOCAL and port.isdigit())


def secret_of(file: Path) -> str:
    """A secret that stands in a file of its own, without the line's end.

    Raises
    ------
    SettingsError
        If the file cannot be read or is empty.
    """
    try:
        secret = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the secret in {file} cannot be read ({type(error).__name__})") from None
    if not secret:
        raise SettingsError(f"the secret's file {file} is empty")
    return secret


class Section(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)  # it may be a secret
