"""Senders: DCMTK's storescu, which sends each study until every image of it was acknowledged."""

from __future__ import annotations

import queue
import random
import re
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos_world import World
from node_bench import image, written

_ANSWERS: Final = re.compile(r"I: Sending file: (.+)|I: Received Store Response \((.+)\)")
_TIMEOUT: Final = 60


@dataclass
class Study:
    """A study of one patient, as its scanner has it."""

    uid: str
    patient: str
    first: list[Path]
    late: list[Path]
    """Images that are sent once the first ones are in."""
    acknowledged: set[str] = field(default_factory=set)

    @property
    def instances(self) -> set[str]:
        """SOP Instance UIDs."""
        return {path.stem for path in [*self.first, *self.late]}


def make_studies(folder: Path, count: int, rng: random.Random) -> list[Study]:
    """Write studies of one to four radiographs each, one in eight of them with an image that comes late."""
    studies = []
    for number in range(count):
        first = image(PatientID=f"CHAOS-{number}", patient=f"CHAOS^{number}")
        images = [first]
        for instance in range(2, rng.randint(2, 5)):
            images.append(
                image(
                    first.StudyInstanceUID,
                    first.SeriesInstanceUID,
                    PatientID=first.PatientID,
                    patient=str(first.PatientName),
                    InstanceNumber=instance,
                )
            )
        paths = [written(folder / str(number), one) for one in images]
        late = [paths.pop()] if len(paths) > 1 and number % 8 == 0 else []
        studies.append(Study(str(first.StudyInstanceUID), str(first.PatientID), paths, late))
    return studies


class Senders:
    """Threads that send all studies over the time that faults strike.

    Parameters
    ----------
    world : World
    studies : list of Study
    seed : int
    seconds : float
        Over which the studies are spread, at the least.
    count : int
        Senders at the same time.
    """

    def __init__(self, world: World, studies: list[Study], seed: int, seconds: float, count: int = 3) -> None:
        self._world = world
        self._waiting: queue.SimpleQueue[Study] = queue.SimpleQueue()
        for study in studies:
            self._waiting.put(study)
        pause = seconds * count / max(1, len(studies))
        self.broken = 0
        """Associations that did not bring everything."""
        self._given_up = threading.Event()
        self._threads = [
            threading.Thread(target=self._send_all, args=(random.Random(f"{seed}:{one}"), pause))  # noqa: S311 - repeatable
            for one in range(count)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the last image; whether all were taken in that time."""
        for thread in self._threads:
            thread.join(seconds)
        done = not any(thread.is_alive() for thread in self._threads)
        self._given_up.set()
        for thread in self._threads:
            thread.join(_TIMEOUT + 10)
        return done

    def _send_all(self, rng: random.Random, pause: float) -> None:
        late: list[Study] = []
        while not self._given_up.is_set():
            try:
                study = self._waiting.get_nowait()
            except queue.Empty:
                break
            self._send(study, study.first)
            if study.late:
                late.append(study)
            self._given_up.wait(rng.uniform(0, 2 * pause))
            if late and rng.random() < 0.3:
                self._send_late(late.pop(0))
        for study in late:
            self._send_late(study)

    def _send_late(self, study: Study) -> None:
        self._send(study, study.late)

    def _send(self, study: Study, paths: list[Path]) -> None:
        left = list(paths)
        while left and not self._given_up.is_set():
            taken = self._store(left)
            study.acknowledged |= taken
            left = [path for path in left if path.stem not in taken]
            if left:
                self.broken += 1
                self._given_up.wait(0.5)

    def _store(self, paths: list[Path]) -> set[str]:
        """Send over one association; SOP Instance UIDs that the node answered Success for."""
        port = str(self._world.settings.listener.port)
        command = [
            "/usr/bin/storescu",
            "-v",
            "-ta",
            "10",
            "-td",
            "20",
            "-to",
            "10",
            "-aec",
            "MEDREGA",
            "127.0.0.1",
            port,
        ]
        process = self._world.run([*command, *map(str, paths)], timeout=_TIMEOUT)
        assert process.returncode != -signal.SIGSEGV, process.stderr
        taken, sending = set(), ""
        for file, status in _ANSWERS.findall(process.stdout + process.stderr):
            if file:
                sending = Path(file.strip()).stem
            elif status == "Success":
                taken.add(sending)
        return taken
