"""What only a process knows: counted where it happens, in files that the console's process reads together.

Counting does nothing until `begin` was called, so that commands and tests need no folder for it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dicom_node.process import is_running, this_host
from dicom_node.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

FOLDER: Final = "metrics"
VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""What the library looks for when it is imported."""
OTHER: Final = "other"
_STALE_SECONDS: Final = 86_400
_SECONDS: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)


def begin(settings: Settings, *, first: bool = False) -> None:
    """Count from now on, once for the life of a process; the `first` process of a node leaves nothing of former ones.

    What they counted begins at zero again, as Prometheus expects of a process that was started again.
    """
    global _counters  # the library's counters are a process's own, and so is this
    # A place for each space of process ids: the files are named by them, and containers may share the data folder.
    folder = settings.data.path / FOLDER / this_host()
    if first:
        _clean(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _counters is None:
        os.environ[VARIABLE] = str(folder.resolve())
        _counters = Counters(settings)


def _clean(own: Path) -> None:
    """Remove what processes of this machine left, and what others have not counted in for a day.

    Workers that run apart from this front go on counting, or may be starting at this moment: folders stay.
    """
    for file in own.glob("*.db"):
        pid = int(file.stem.rpartition("_")[2])  # the library names them so
        if pid == os.getpid() or not is_running(pid):
            file.unlink(missing_ok=True)
    long_ago = time.time() - _STALE_SECONDS
    for file in own.parent.glob("*/*.db"):
        with suppress(FileNotFoundError):  # another node cleans as well
            if file.parent != own and file.stat().st_mtime < long_ago:
                file.unlink()


class Counters:
    """The counters of this process.

    Parameters
    ----------
    settings : Settings
        Name the peers that are told apart; any other is "other", so that nobody can make labels up.
    """

    def __init__(self, settings: Settings) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        registry = CollectorRegistry()

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"medrega_{name}", words, labels, registry=registry)

        self._peers = frozenset(
            {
                *settings.listener.calling_aets,
                *(one.name for one in settings.dimse_users),
                *(one.name for one in settings.dicomweb_users),
                *(one.aet for one in (*settings.destinations, *settings.sources) if one.aet),
            }
        )
        self.accepted = counter("associations", "Associations accepted, by peer.", "peer")
        self.ended = counter("associations_ended", "Associations that ended, by how.", "how")
        self.rejected = counter("associations_rejected", "Association requests rejected, by reason.", "reason")
        self.instances = counter("received_instances", "Objects taken in and kept, by peer.", "peer")
        self.bytes = counter("received_bytes", "Bytes of their data sets, by peer.", "peer")
        self.refused = counter("refused_instances", "Objects not taken, by DIMSE status.", "status")
        self.questions = counter("engine_questions", "Questions asked of the model, by task.", "task")
        self.tokens = counter("engine_tokens", "Tokens, by task and by whether read or answered.", "task", "kind")
        self.seconds = counter("engine_seconds", "Seconds that answers took, by task.", "task")
        self.reading: Histogram = Histogram(
            "medrega_reading_seconds", "Seconds that reading a study took.", registry=registry, buckets=_SECONDS
        )

    def peer(self, aet: str) -> str:
        """A label for a peer."""
        return aet if aet in self._peers else OTHER


_counters: Counters | None = None


def accepted(aet: str) -> None:
    """An association was accepted."""
    if _counters is not None:
        _counters.accepted.labels(_counters.peer(aet)).inc()


def rejected(reason: str) -> None:
    """An association was rejected; `reason` is one of the listener's own."""
    if _counters is not None:
        _counters.rejected.labels(reason).inc()


def ended(how: str) -> None:
    """An association ended: released or aborted."""
    if _counters is not None:
        _counters.ended.labels(how).inc()


def received(aet: str, size: int) -> None:
    """An object of so many bytes was taken in."""
    if _counters is not None:
        peer = _counters.peer(aet)
        _counters.instances.labels(peer).inc()
        _counters.bytes.labels(peer).inc(size)


def refused(status: int) -> None:
    """An object was not taken."""
    if _counters is not None:
        _counters.refused.labels(f"0x{status:04X}").inc()


def asked(task: str, prompt_tokens: int, answer_tokens: int, seconds: float) -> None:
    """The model has answered."""
    if _counters is not None:
        _counters.questions.labels(task).inc()
        _counters.tokens.labels(task, "prompt").inc(prompt_tokens)
        _counters.tokens.labels(task, "answer").inc(answer_tokens)
        _counters.seconds.labels(task).inc(seconds)


def read(seconds: float) -> None:
    """A study was read."""
    if _counters is not None:
        _counters.reading.observe(seconds)


def files_of(settings: Settings) -> list[Path]:
    """Where the counts of a node's processes are; a process that ended as it began leaves an empty file."""
    return sorted(file for file in (settings.data.path / FOLDER).glob("*/*.db") if file.stat().st_size)
