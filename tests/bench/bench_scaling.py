"""Whether cost grows with what there is to do and no faster: associations, instances, studies in the ledger and queue.

``.venv/bin/python tests/bench/bench_scaling.py``; a part of ``make bench``, which draws it as ``scaling.png``. Memory
holds the spool and the ledger, so that what is measured is this program's work and no disk's.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent.parent))
sys.path.append(str(Path(__file__).parent.parent / "dicom_node"))

import structlog
from bench_receive import encode, ours, running, sent
from node_bench import Clock, node_settings, received
from ports import free_port

from dicom_node.children import Child, Children, tethered
from dicom_node.ledger import Ledger, State
from dicom_node.queue.broker import server_command, wait_until_up
from dicom_node.queue.dispatch import Dispatcher, make_app
from dicom_node.queue.sweeper import Sweeper
from dicom_node.settings import Settings

ASSOCIATIONS: Final = (1, 2, 4, 8)
INSTANCES: Final = (10, 100, 1_000, 10_000)
STUDIES: Final = (1, 10, 100, 1_000)
TINY, CT = 3_000, 530_000
RUNS: Final = 7
Row = dict[str, Any]


def rows() -> list[Row]:
    """Rows of all curves; `curve` and `at` say where the picture has them."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - memory, so that no disk is measured
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        return [*_associations(folder), *_instances(folder), *_studies(folder)]


def _row(curve: str, unit: str, at: int, ours_: float, runs: int = 1) -> Row:
    return {
        "row": f"{curve}: {at}",
        "unit": unit,
        "ours": ours_,
        "peer": None,
        "ratio": None,
        "goal": None,
        "runs": runs,
        "curve": curve,
        "at": at,
    }


def _associations(folder: Path) -> Iterator[Row]:
    """The same number of objects from each of several senders at once, into one process of default settings."""
    for size, count, curve, unit in (
        (TINY, 1_000, "tiny instances by associations", "instances/s"),
        (CT, 100, "CT by associations", "MB/s"),
    ):
        for associations in ASSOCIATIONS:
            files = encode(folder, associations, count, size)
            spent, entered = _received(folder, files)
            assert entered == associations * count
            amount = sum(file.stat().st_size for file in files) / 1e6 if unit == "MB/s" else entered
            yield _row(curve, unit, associations, amount / spent)
        for file in folder.glob("*.pdus"):
            file.unlink()


def _instances(folder: Path) -> Iterator[Row]:
    """Tiny instances of one study over one association: each has its file and its row in the ledger."""
    for count in INSTANCES:
        spent, entered = _received(folder, encode(folder, 1, count, TINY))
        assert entered == count
        yield _row("an instance, by instances of its study", "ms", count, 1000 * spent / count)


def _received(folder: Path, files: list[Path]) -> tuple[float, int]:
    """Seconds from the first sender's beginning to the last one's end, and the ledger's rows after that."""
    with TemporaryDirectory(dir=folder) as name:
        port = free_port()
        with running(ours(), Path(name), port):
            spent = sent(files, port)
        with sqlite3.connect(f"{name}/ledger.sqlite3") as ledger:
            (entered,) = ledger.execute("SELECT count(*) FROM instance").fetchone()
        ledger.close()
    return spent, int(entered)


def _studies(folder: Path) -> Iterator[Row]:
    """Studies of ten images, which are closed, routed and queued, and then wait."""
    settings = node_settings(folder, completion={"quiet_seconds": 60})
    with running_broker(settings):
        for count in STUDIES:
            clock = Clock()
            ledger = Ledger(f"sqlite:///{folder / f'{count}.sqlite3'}", clock)
            ledger.migrate()
            try:
                yield from _of_ledger(ledger, clock, settings, count)
            finally:
                ledger.close()


def _of_ledger(ledger: Ledger, clock: Clock, settings: Settings, count: int) -> Iterator[Row]:
    sweeper = Sweeper(settings, ledger, Dispatcher(settings, ledger, make_app(settings), clock))
    for number in range(count):
        study = f"1.2.{count}.{number}"
        ledger.arrivals.enter([received(study, f"{study}.1.{image}") for image in range(10)])
    clock.forward(61)
    begin = time.perf_counter()
    while ledger.studies(State.RECEIVING) or ledger.studies(State.COMPLETE):
        sweeper.sweep()
    queued = time.perf_counter() - begin
    assert len(ledger.studies(State.QUEUED)) == count
    clock.forward(10)  # so that the sweeps look for lost messages as well
    new = iter(range(RUNS))
    yield _row("a study from quiet to queued, by studies", "ms", count, 1000 * queued / count)
    yield _row("a sweep with nothing to do, by studies queued", "ms", count, _median(sweeper.sweep), RUNS)
    yield _row("studies, the command's list, by studies", "ms", count, _median(ledger.studies), RUNS)

    def arrive() -> None:
        study = f"1.3.{count}.{next(new)}"
        ledger.arrivals.enter([received(study, f"{study}.1.1")])

    yield _row("first image of one more study, by studies", "ms", count, _median(arrive), RUNS)


def _median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)


@contextmanager
def running_broker(settings: Settings) -> Iterator[None]:
    """The embedded broker of a node that does not run."""
    children = Children()
    children.add(Child("broker", tethered(server_command(settings)), ends_last=True))
    try:
        wait_until_up(settings)
        yield
    finally:
        children.stop(5)


if __name__ == "__main__":
    for one in rows():
        print(f"{one['row']:<70} {one['ours']:>12.4g} {one['unit']}")
