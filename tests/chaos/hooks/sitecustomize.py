"""What every Python process of the node under chaos does besides its work; on its PYTHONPATH.

It writes down what it syncs, so that a power cut can take away the rest; its clock jumps when the world's does; and
where a mutation is asked for, it lacks one of the guards that the suite is there to prove.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import stat
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from types import ModuleType
from typing import Any

JOURNAL = os.environ.get("CHAOS_JOURNAL")
CLOCK = os.environ.get("CHAOS_CLOCK", "")
WITHOUT = os.environ.get("CHAOS_WITHOUT", "")

_fsync = os.fsync
_time = time.time
_read: tuple[float, float] = (-1.0, 0.0)
"""When the world's clock was last looked at, and how far it was off."""


def _off() -> float:
    global _read
    now = time.monotonic()
    if now - _read[0] > 0.2:
        with open(CLOCK, encoding="ascii") as clock:
            _read = (now, float(clock.read() or _read[1]))
    return _read[1]


class _Jumping(datetime):
    """The class, but for what time it says it is."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        """The world's."""
        return datetime.now(tz) + timedelta(seconds=_off())


def _on_the_worlds_clock(module: ModuleType) -> None:
    module.datetime = _Jumping


def _sync_and_write_down(descriptor: Any) -> None:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    before = os.fstat(number)
    names = os.listdir(number) if stat.S_ISDIR(before.st_mode) else []
    _fsync(number)
    # What was there when the call began is on the disk now. Lines are appended in one piece.
    line = " ".join([str(before.st_ino), str(before.st_size), str(before.st_nlink), *names])
    with open(str(JOURNAL), "ab", buffering=0) as journal:
        journal.write(line.encode() + b"\n")


def _without_sync(_module: ModuleType) -> None:
    os.fsync = lambda _descriptor: None


def _without_lease(module: ModuleType) -> None:
    module.Part._lease_is_free = lambda _self, _lease: True
    module.Part._hold = lambda _self, session, key, _owner: session.get(module.Lease, key)


def _without_uid(module: ModuleType) -> None:
    derive = module.derive_uid  # another process, a fork too, makes other UIDs of the same thing
    module.derive_uid = lambda *words: derive(str(os.getpid()), *words)


def _without_guard(module: ModuleType) -> None:
    if module.__name__.endswith("storage"):
        module.Storage.is_own = lambda _self, *_uids: False
    else:
        module.is_own_result = lambda _header: False


Change = Callable[[ModuleType], None]
MUTATIONS: dict[str, tuple[tuple[str, ...], Change]] = {
    "sync": (("dicom_node.spool.disk",), _without_sync),
    "lease": (("dicom_node.ledger.part",), _without_lease),
    "uid": (("sr_writer.uids",), _without_uid),
    "guard": (("dicom_node.intake.identity", "dicom_node.intake.storage"), _without_guard),
}
"""By what is taken away: the modules, and what is done to each once it has been imported."""


class _Mutant(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module as ever, and changes it before anyone else gets it."""

    def __init__(self, name: str, change: Change) -> None:
        self._name, self._change = name, change
        self._found: Any = None

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> Any:
        if name != self._name:
            return None
        self._found = importlib.machinery.PathFinder.find_spec(name, path)
        return importlib.machinery.ModuleSpec(name, self, origin=self._found.origin)

    def create_module(self, _spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return importlib.util.module_from_spec(self._found)

    def exec_module(self, module: ModuleType) -> None:
        self._found.loader.exec_module(module)
        self._change(module)


if JOURNAL:
    os.fsync = _sync_and_write_down
if CLOCK:
    time.time = lambda: _time() + _off()
    sys.meta_path.insert(0, _Mutant("dicom_node.ledger.database", _on_the_worlds_clock))
if WITHOUT:
    for name in MUTATIONS[WITHOUT][0]:
        sys.meta_path.insert(0, _Mutant(name, MUTATIONS[WITHOUT][1]))
