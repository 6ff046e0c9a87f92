"""Faults: each strikes a world, and says by what it knows that it did; without that it has not happened."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final

import redis
from chaos_world import World

Fault = Callable[[World, random.Random], str]
"""Strikes, and returns its evidence; empty where it did not come about."""

_HIT_SECONDS: Final = 20.0


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def _found(find: Callable[[], list[int | None]]) -> list[int]:
    """What a fault is to strike, once it is there."""
    until = time.monotonic() + _HIT_SECONDS
    while not (pids := [pid for pid in find() if pid is not None]) and time.monotonic() < until:
        time.sleep(0.005)
    return pids


def _signal(find: Callable[[], list[int | None]], number: signal.Signals = signal.SIGKILL) -> str:
    struck = []
    for pid in _found(find):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            struck.append(pid)
    if number is signal.SIGKILL and not all(map(_gone, struck)):
        return ""
    return f"{number.name} to {len(struck)}" if struck else ""


def _struck(*names: str, number: signal.Signals = signal.SIGKILL) -> Fault:
    """A signal to one of these parts."""
    return lambda world, rng: _signal(lambda: [world.pid(rng.choice(names))], number)


def _struck_children(words: str) -> Fault:
    """SIGKILL to each process whose command line has these words."""
    return lambda world, _rng: _signal(lambda: [*world.children(words)])


def _stopped(find: Callable[[World], list[int | None]], seconds: tuple[float, float]) -> Fault:
    """SIGSTOP, and SIGCONT some seconds later."""

    def strike(world: World, rng: random.Random) -> str:
        pids, length = _found(lambda: find(world))[:1], rng.uniform(*seconds)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if number is signal.SIGSTOP:
                time.sleep(length)
        return f"for {length:.0f} s" if pids else ""

    return strike


def stopped_writer(world: World, _rng: random.Random) -> str:
    """A process that writes results is stopped until its run was taken from it and another has had time to write it."""
    with closing(sqlite3.connect(world.data / "ledger.sqlite3", isolation_level=None, timeout=0.5)) as ledger:
        writing = "SELECT run.id, owner FROM run JOIN lease ON lease.key = 'run:' || run.id WHERE state = 'WRITING'"

        def wait(words: str, run: str) -> bool:
            until = time.monotonic() + 3 * _HIT_SECONDS  # others are before it in the queue
            while not (true := ledger.execute(words, (run,)).fetchall()) and time.monotonic() < until:
                time.sleep(0.05)
            return bool(true)

        until = time.monotonic() + _HIT_SECONDS
        while time.monotonic() < until:
            time.sleep(0.02)
            for run, owner in ledger.execute(writing).fetchall()[:1]:
                pid = int(owner.split(":")[1])
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    try:
                        # With the ledger locked nobody could take it: stopped a moment too soon.
                        ledger.execute("BEGIN IMMEDIATE")
                        ledger.execute("ROLLBACK")
                        if any((world.data / "results" / run).rglob("*.dcm")):
                            continue  # a moment too late: it would have little left to write once it goes on
                        if not wait("SELECT 1 FROM run WHERE id = ? AND state = 'QUEUED'", run):
                            continue
                        written = wait("SELECT 1 FROM result WHERE run_id = ?", run)
                        return "another one wrote" if written else "run taken away"
                    except sqlite3.OperationalError:
                        continue
                    finally:
                        os.kill(pid, signal.SIGCONT)
    return ""


def flushed_redis(world: World, _rng: random.Random) -> str:
    with closing(redis.Redis(port=world.broker_port)) as broker:
        for _ in range(50):
            with suppress(redis.RedisError):
                before = broker.dbsize()
                broker.flushall()
                return f"{before} keys"
            time.sleep(0.1)
    return ""


def locked_ledger(world: World, rng: random.Random) -> str:
    path = world.data / "ledger.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as one:
        one.execute("BEGIN IMMEDIATE")
        try:
            with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
                other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            time.sleep(rng.uniform(2, 6))
            return str(error)
        finally:
            one.execute("ROLLBACK")
    return ""


def _moody(mood: str) -> Fault:
    def strike(world: World, rng: random.Random) -> str:
        before = world.line.hit[mood]
        world.line.mood = mood
        until = time.monotonic() + _HIT_SECONDS
        try:
            while world.line.hit[mood] == before:
                if time.monotonic() > until:
                    return ""
                time.sleep(0.05)
            time.sleep(rng.uniform(1, 4))
        finally:
            world.line.mood = "pass"
        return f"{world.line.hit[mood] - before} connections"

    return strike


def full_disk(world: World, rng: random.Random) -> str:
    if not os.path.ismount(world.data.parent):
        return ""
    path = world.data.parent / "ballast"
    try:
        with path.open("wb", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        ballast.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
            time.sleep(rng.uniform(2, 5))
            free = os.statvfs(path).f_bavail
    finally:
        path.unlink()
    return f"{free} blocks free"


def _jump(seconds: int) -> Fault:
    def strike(world: World, rng: random.Random) -> str:
        world.set_clock(seconds)
        seen = world.run([sys.executable, "-c", "import time; print(time.time())"]).stdout
        time.sleep(rng.uniform(2, 5))
        jumped = float(seen or 0) - time.time()
        world.set_clock(0)
        return f"{jumped:+.0f} s" if abs(jumped - seconds) < 30 else ""

    return strike


def power_cut(world: World, _rng: random.Random) -> str:
    """Everything ends at once, and what no process had synced is gone.

    A file is cut to the size that it was last synced with. A name is gone unless its folder was synced with it in it,
    or its file once it had both of its names, as ext4, xfs and btrfs make names durable with the file. The ledger's and
    Redis's own files are left as they are.
    """
    world.hold_still()
    # Senders are other machines.
    killed = _signal(lambda: [pid for pid, command in world.processes().items() if "storescu" not in command])
    size: dict[int, int] = {}
    named: set[int] = set()
    names: set[tuple[int, str]] = set()
    for line in world.journal.read_text().splitlines():
        inode, synced, links, *listed = line.split()
        size[int(inode)] = max(int(synced), size.get(int(inode), 0))
        names |= {(int(inode), name) for name in listed}
        if int(links) > 1:
            named.add(int(inode))
    lost = 0
    for folder in ("incoming", "studies"):
        for path in (world.data / folder).rglob("*"):
            if path.is_file():
                status = path.stat()
                durable = status.st_ino in named or (path.parent.stat().st_ino, path.name) in names
                if not durable:
                    path.unlink()
                elif status.st_size > size.get(status.st_ino, 0):
                    os.truncate(path, size.get(status.st_ino, 0))
                else:
                    continue
                lost += 1
    world.let_go()
    return f"{killed}, {lost} files lost or cut" if killed else ""


FAULTS: Final[dict[str, Fault]] = {
    "listener killed": _struck("listen"),
    "worker killed": _struck("worker", "second-worker"),
    "reader killed": _struck_children("tasks reading"),
    "deliverer killed": _struck_children("tasks delivery"),
    "sweeper killed": _struck("second-sweeper"),
    "Redis killed": _struck("redis"),
    "Redis flushed": flushed_redis,
    "ledger locked": locked_ledger,
    "archive refuses": _moody("refuse"),
    "archive hangs": _moody("hang"),
    "archive aborts": _moody("abort"),
    "archive slow": _moody("slow"),
    "disk full": full_disk,
    "clock an hour on": _jump(3600),
    "clock an hour back": _jump(-3600),
    "listener told to end": _struck("listen", number=signal.SIGTERM),
    "worker told to end": _struck("worker", "second-worker", number=signal.SIGTERM),
    # For longer than its lease; then it goes on as if nothing had been.
    "reader stopped": _stopped(lambda world: [*world.children("tasks reading")], (7, 8)),
    "writer stopped": stopped_writer,
    "listener stopped": _stopped(lambda world: [world.pid("listen")], (1, 4)),
    "deliverer stopped": _stopped(lambda world: [*world.children("tasks delivery")], (1, 4)),
    "power cut": power_cut,
    "sender killed": _struck_children("/usr/bin/storescu"),
}
