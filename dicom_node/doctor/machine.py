"""This machine: the data folder, its space, and its clock."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import httpx

from dicom_node.dimse.tls import client_context
from dicom_node.doctor.finding import Check, Finding, fail, ok, warn
from dicom_node.doctor.services import broker_clock, database_clock, latest_event
from dicom_node.settings import Settings
from engine.errors import MedregaError

_MIB: Final = 1 << 20
_SLOW_SYNC: Final = 0.1
"""Seconds: at one sync an image, a sender gets ten images a second off."""
_FEW_FILES: Final = 1024
_APART: Final = timedelta(seconds=5)
_FAR_APART: Final = timedelta(minutes=1)


def machine_checks(settings: Settings) -> list[Check]:
    """Checks of the machine that this runs on."""
    return [
        Check("folder", lambda: _folder(settings.data.path)),
        Check("space", lambda: _space(settings)),
        Check("clock", lambda: _clock(settings)),
    ]


def _folder(path: Path) -> Iterator[Finding]:
    existing = path
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        yield fail(f"data.path: {existing} is a file", "set data.path to a folder")
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        remedy = f"run as the user whom the folder belongs to ({existing.owner()}), or give it to this one"
        yield fail(f"data.path: {existing} cannot be written to by this user", remedy)
        return
    if existing != path:
        yield ok(f"{path} is made when the node starts")
        return
    if path.stat().st_mode & 0o077:
        yield warn(
            f"other users of this machine may look into {path}, which holds patients' images", f"chmod 700 {path}"
        )
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=path) as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        # The best of five: what else the machine does at this moment is not the disk's fault.
        seconds = min(_synced(first) for _ in range(5))
        try:
            second.hardlink_to(first)
        except OSError as error:
            words = f"the file system of {path} knows no hard links ({error.strerror}), by which images get into place"
            yield fail(words, "put data.path on a file system such as ext4 or xfs")
            return
    if seconds > _SLOW_SYNC:
        words = f"{path} can be written to, and takes {seconds * 1000:.0f} ms to sync a file: so long each image waits"
        yield warn(words, "put data.path on a faster disk, one of this machine's own")
    else:
        yield ok(f"{path} can be written to; a file is synced in {seconds * 1000:.1f} ms")
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < _FEW_FILES:
        yield warn(f"a process may open {most} files only", f"ulimit -n {_FEW_FILES * 4}, or LimitNOFILE= of its unit")


def _synced(path: Path) -> float:
    """Seconds to write and sync a small file."""
    begin = time.perf_counter()
    with path.open("wb") as file:
        file.write(b"\0" * 4096)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - begin


def _space(settings: Settings) -> Iterator[Finding]:
    path = settings.data.path.resolve()
    while not path.exists():
        path = path.parent
    usage, nodes = shutil.disk_usage(path), os.statvfs(path)
    least, highest = settings.data.minimum_free_mib * _MIB, settings.retention.refuse_above_percent
    percent = 100 * (1 - usage.free / usage.total)
    said = f"{usage.free / (1 << 30):.1f} GiB free of {usage.total / (1 << 30):.0f}"
    remedy = "make room: medrega-pacs purge, or set [retention]; senders keep what is refused"
    if usage.free < least or (highest is not None and percent > highest):
        limit = "data.minimum_free_mib" if usage.free < least else "retention.refuse_above_percent"
        yield fail(f"{said}: images are refused, by {limit}", remedy)
    elif nodes.f_files and nodes.f_favail < nodes.f_files // 100:
        yield fail(f"{said}, and the file system can hold no more files (inodes)", remedy)
    elif usage.free < 4 * least or (highest is not None and percent > 0.9 * highest):
        yield warn(f"{said}: images will be refused soon", remedy)
    else:
        yield ok(said)


def _clock(settings: Settings) -> Iterator[Finding]:
    others: dict[str, datetime] = {}
    ahead: dict[str, timedelta] = {}
    for name, ask in (("the database", database_clock), ("the broker", broker_clock)):
        try:
            theirs = ask(settings)
        except MedregaError:
            continue  # its own check tells
        if theirs is not None:
            ahead[name] = datetime.now(UTC) - theirs
            others[name] = theirs
    for peer in (*settings.destinations, *settings.sources):
        if peer.url is not None and (said := _date_of(peer.url, client_context(peer.tls) if peer.tls else None)):
            ahead[peer.name] = datetime.now(UTC) - said
    for name, difference in ahead.items():
        if abs(difference) > _APART:
            words = f"this machine's clock is {_apart(difference)} {name}'s"
            tell = fail if abs(difference) > _FAR_APART else warn
            yield tell(words, "have both machines kept on time by NTP (chrony, systemd-timesyncd)")
    newest = latest_event(settings)
    reference = others.get("the database") or datetime.now(UTC)
    if newest is not None and newest - reference > _APART:
        words = f"the ledger's newest entry is of {newest:%Y-%m-%d %H:%M} UTC, in the future: the clock was set back"
        yield fail(words, "set the clock right; until then studies wait for times that have not come")
    elif not any(abs(difference) > _APART for difference in ahead.values()):
        same = f"the same as of {', '.join(ahead)}" if ahead else "no other clock to compare it with"
        yield ok(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}, {same}")


def _apart(difference: timedelta) -> str:
    seconds = abs(difference.total_seconds())
    size = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"{size} {'ahead of' if difference > timedelta() else 'behind'}"


def _date_of(url: str, tls: object) -> datetime | None:
    """The time of a web server, by its own header (RFC 9110 6.6.1); None where it does not say."""
    try:
        answer = httpx.head(url, verify=tls or True, timeout=5, trust_env=False)  # type: ignore[arg-type]
        return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
    except (httpx.HTTPError, KeyError, ValueError):
        return None  # whether it can be reached is its own check's matter
