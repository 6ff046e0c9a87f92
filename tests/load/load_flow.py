"""Studies that flow through a whole node, what its processes take meanwhile, and how long each stage lasts."""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Final, cast

import httpx
import numpy as np
from chaos_senders import Senders, Study, make_studies
from node_bench import Pacs, RunningNode, image, written
from ports import free_port
from sqlalchemy import func, select

from dicom_node.ledger import Ledger, State
from dicom_node.ledger.models import Event, Instance, Run
from dicom_node.queue.broker import connect
from dicom_node.running import processes

STAGES: Final = ("receive", "complete", "queue", "read", "write", "deliver", "whole")
_ENDED: Final = (State.DELIVERED, State.FAILED, State.IGNORED, State.CANCELLED)
_INTERVAL: Final = 5.0
_WAITING_AT_MOST: Final = 60
"""Studies that are sent and not delivered yet, so that what is measured is the node's pace and no queue of hours."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the node takes at a moment; `seconds` since the first study was sent, `done` studies delivered by then."""

    seconds: float
    done: int
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Trend:
    """How a figure changed over the second half.

    Parameters
    ----------
    figure : str
    mean : float
    slope : float
        Per 1000 studies, by least squares.
    allowed : float
        What it may grow by in 1000 studies.
    """

    figure: str
    mean: float
    slope: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it does not grow."""
        return self.slope <= self.allowed


@dataclass
class Flow:
    """What came of a run: studies a second, seconds by stage, and the samples."""

    studies: int
    images: int
    seconds: float
    ended: dict[str, int]
    twice: int
    stages: dict[str, list[float]]
    samples: list[Sample]
    ledger_bytes: int
    complaints: list[str]
    """Warnings and errors of the node's log."""
    ENOUGH: ClassVar = 1000
    """Studies by which what grows can be told from what is still warming up."""


def flow(
    folder: Path, count: int, *, large: int = 0, images: int = 2000, seconds: float = 3600, **sections: Any
) -> Flow:
    """Send studies of one to four images, and some large ones, through a node of its own.

    Parameters
    ----------
    folder : Path
    count : int
        Studies at most; no more are sent once the time is over.
    large : int
        Studies of `images` images each that are sent among the others.
    images : int
    seconds : float
        For which new studies are sent.
    sections : dict
        Sections of the node's settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(count)  # noqa: S311 - repeatable, not secret
    patients = make_studies(folder / "sent", count, rng)
    for number in range(large):
        patients.insert(count * number // large + count // (2 * large), _large(folder / "large" / str(number), images))
    defaults = {
        "completion": {"quiet_seconds": 5},
        "sweeper": {"interval_seconds": 1},
        "console": {"port": free_port()},
        "log": {"level": "warning"},
    }
    with Pacs(folder / "pacs", keep=False) as pacs:
        node = RunningNode(folder, pacs, **(defaults | sections))
        node.start()
        try:
            return _watched(node, pacs, patients, seconds)
        finally:
            node.stop()


def _large(folder: Path, images: int) -> Study:
    first = image()
    uids = first.StudyInstanceUID, first.SeriesInstanceUID
    paths = [written(folder, image(*uids, InstanceNumber=number + 1)) for number in range(images)]
    return Study(str(uids[0]), "P1", paths, [])


def _watched(node: RunningNode, pacs: Pacs, patients: Sequence[Study], seconds: float) -> Flow:
    samples: list[Sample] = []
    stop, room = threading.Event(), threading.Event()
    begin = time.monotonic()

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        room.wait()
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)

    # What the chaos suite's senders need of a world.
    world = cast("Any", SimpleNamespace(settings=node.settings, run=run))
    senders = Senders(world, list(patients), seed=1, seconds=0)
    threads = [
        threading.Thread(target=_watch, args=(node, begin, samples, stop)),
        threading.Thread(target=_make_room, args=(node.ledger, room, stop)),
    ]
    for thread in threads:
        thread.start()
    senders.start()
    try:
        senders.join(seconds / 3)  # it waits so long for each of three
        _settle(node.ledger, 300)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return Flow(
        studies=sum(bool(one.acknowledged) for one in patients),
        images=sum(len(one.acknowledged) for one in patients),
        seconds=samples[-1].seconds,
        ended=_states(node.ledger),
        twice=sum(times > 1 for times in pacs.count.values()),
        stages=stages_of(node.ledger),
        samples=samples,
        ledger_bytes=(node.settings.data.path / "ledger.sqlite3").stat().st_size,
        complaints=[
            line for line in (node.folder / "node.log").read_text(errors="replace").splitlines() if line[:1] == "{"
        ],
    )


def _make_room(ledger: Ledger, room: threading.Event, stop: threading.Event) -> None:
    """Hold the senders back while more studies wait than the node has to have to be busy."""
    while True:
        waiting = sum(count for state, count in _states(ledger).items() if State(state) not in _ENDED)
        if waiting < _WAITING_AT_MOST or stop.is_set():
            room.set()
        else:
            room.clear()
        if stop.wait(0.5):
            room.set()
            return


def _states(ledger: Ledger) -> dict[str, int]:
    return {str(one.state): one.count for one in ledger.standing.runs() if one.count}


def _settle(ledger: Ledger, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(State(state) not in _ENDED for state in _states(ledger)):
            return
        threading.Event().wait(1)


def _watch(node: RunningNode, begin: float, samples: list[Sample], stop: threading.Event) -> None:
    """Take a sample every few seconds, and scrape what a monitoring server would."""
    broker = connect(node.settings)
    url = f"http://127.0.0.1:{node.settings.console.port}"
    with httpx.Client(base_url=url, timeout=30) as browser:
        last = False
        while not last:
            last = stop.wait(_INTERVAL)
            with suppress(httpx.TransportError):  # the console starts after the listener
                browser.get("/healthz/ready").raise_for_status()
                browser.get("/metrics").raise_for_status()
            figures = _figures(node)
            figures["broker keys"] = float(cast(int, broker.dbsize()))
            memory = cast("dict[str, Any]", broker.info("memory"))
            figures["broker used MB"] = memory["used_memory"] / 1e6
            states = _states(node.ledger)
            done = sum(states.get(state, 0) for state in _ENDED)
            samples.append(Sample(time.monotonic() - begin, done, figures))
            with (node.folder / "samples.jsonl").open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(asdict(samples[-1])) + "\n")
            if last or len(samples) % 12 == 0:
                print(f"{samples[-1].seconds:7.0f} s  {done} studies done of {sum(states.values())} begun", flush=True)
    broker.close()


def _figures(node: RunningNode) -> dict[str, float]:
    """Memory, open files and threads of each process; files that are to go again."""
    figures: dict[str, float] = {}
    for process in processes(node.settings):
        with suppress(OSError):
            folder = Path(f"/proc/{process.pid}")
            status = (folder / "status").read_text()
            figures[f"{process.role} MB"] = process.memory / 1e6
            figures[f"{process.role} files"] = float(len(list((folder / "fd").iterdir())))
            figures[f"{process.role} threads"] = float(status.partition("\nThreads:")[2].split()[0])
    data = node.settings.data.path
    figures["incoming files"] = float(len(list((data / "incoming").iterdir())))
    figures["temporary files"] = float(sum(1 for path in (data / "temporary").rglob("*") if path.is_file()))
    return figures


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """How everything changed over the second half, as studies went through."""
    done = [sample.done for sample in samples]
    late = [sample for sample in samples if sample.done >= done[-1] / 2]
    at = np.array([sample.done for sample in late]) / 1000
    found = []
    for figure in sorted({name for sample in late for name in sample.figures}):
        values = np.array([sample.figures.get(figure, np.nan) for sample in late])
        here = ~np.isnan(values)
        slope = float(np.polyfit(at[here], values[here], 1)[0]) if len(set(at[here])) > 1 else 0.0
        mean = float(values[here].mean())
        # Memory: 1 % of what the process takes in 1000 studies, half a MB at least. Files, threads, keys: one.
        allowed = max(0.5, mean / 100) if figure.endswith("MB") else 1.0
        found.append(Trend(figure, mean, slope, allowed))
    return found


def stages_of(ledger: Ledger) -> dict[str, list[float]]:
    """Seconds of each study's latest run in each stage, from the ledger's events."""
    with ledger._database.read() as session:
        arrived = dict(
            session.execute(select(Instance.run_id, func.min(Instance.received_at)).group_by(Instance.run_id)).all()  # type: ignore[arg-type]
        )
        last = dict(session.execute(select(Run.id, Run.last_image_at)).all())  # type: ignore[arg-type]
        events = session.execute(
            select(Event.run_id, Event.to_state, Event.at).where(Event.to_state.is_not(None)).order_by(Event.id)
        ).all()
    at: dict[str, dict[State, float]] = {}
    for run, state, moment in events:
        at.setdefault(run, {})[state] = moment.timestamp()
    steps = (State.COMPLETE, State.READING, State.WRITING, State.DELIVERING, State.DELIVERED)
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    for run, times in at.items():
        if run not in arrived or not all(step in times for step in steps):
            continue
        begin = arrived[run].timestamp()
        points = [begin, last[run].timestamp(), *(times[step] for step in steps)]
        for name, (before, after) in zip(STAGES, pairwise(points), strict=False):
            stages[name].append(after - before)
        stages["whole"].append(points[-1] - begin)
    return stages


def percentiles(values: Iterable[float]) -> tuple[float, float, float, float]:
    """Of seconds: the 50th, 90th, 99th, and the longest."""
    told = np.percentile(list(values) or [0.0], (50, 90, 99, 100))
    return tuple(map(float, told))  # type: ignore[return-value]
