"""What everything costs with a ledger of so many studies: to start, to sweep, to show, to receive, to purge."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench_scaling import running_broker
from console_client import Console
from load_ledger import KEPT_DAYS, fill, read_node
from node_bench import Pacs, RunningNode, image, wait_until, written
from ports import free_port

from dicom_node.dimse.scu import StoredFile, send
from dicom_node.ledger import Ledger
from dicom_node.ledger.backup import back_up
from dicom_node.ledger.ledger import ledger_url
from dicom_node.queue.dispatch import Dispatcher, make_app
from dicom_node.queue.sweeper import Sweeper
from dicom_node.retention import Retention
from dicom_node.settings import Settings
from dicom_node.spool import Spool

RUNS: Final = 5


def costs(folder: Path, count: int, **sections: Any) -> dict[str, float]:
    """Seconds of each, and the ledger's MB, with so many studies in the ledger."""
    folder.mkdir(parents=True)
    console = {"port": free_port()}
    defaults = {"console": console, "log": {"level": "warning"}, "sweeper": {"interval_seconds": 1}}
    with Pacs(folder / "pacs") as pacs:
        node = read_node(folder, pacs, **(defaults | sections))
        begin = time.perf_counter()
        fill(node.ledger, count, node.settings.data.path)
        found = {"filled": time.perf_counter() - begin}
        begin = time.perf_counter()
        node.start()
        found["start until it listens"] = time.perf_counter() - begin
        try:
            found |= _received(node, folder)
            found |= _commands(node, folder)
        finally:
            assert node.process is not None
            node.process.terminate()
            node.process.wait(60)
        found |= _pages(folder, node.settings)
        found |= _parts(node.settings, node.ledger)
        node.ledger.close()
    begin = time.perf_counter()
    back_up(ledger_url(node.settings), folder / "backup")
    found["ledger backup"] = time.perf_counter() - begin
    found["ledger, MB"] = (folder / "backup").stat().st_size / 1e6
    return found


def _median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _received(node: RunningNode, folder: Path) -> dict[str, float]:
    """An image of a new study, from the association's begin to Success, and to its row."""
    answered, entered = [], []
    for _ in range(3 * RUNS):
        one = image()
        file = StoredFile.open(written(folder / "sent", one))
        path = f"studies/{one.StudyInstanceUID}/{one.SOPInstanceUID}.dcm"
        begin = time.perf_counter()
        send([file], node.peer)
        answered.append(time.perf_counter() - begin)
        assert wait_until(lambda path=path: bool(node.ledger.intake.known_paths([path])))
        entered.append(time.perf_counter() - begin)
    return {"an image received": statistics.median(answered), "an image entered": statistics.median(entered)}


def _commands(node: RunningNode, folder: Path) -> dict[str, float]:
    """Commands of a person, the interpreter's start included."""
    study = next(iter(node.ledger.studies())).study_instance_uid
    found = {}
    for words in (
        ["studies"],
        ["studies", "--state", "FAILED"],
        ["study", study],
        ["destinations"],
        ["doctor", "--skip", "engine"],
        ["purge", "--dry-run"],
    ):
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "dicom_node.cli", *words],
            cwd=folder,
            env={**os.environ, **node.settings.to_environment()},
            capture_output=True,
            check=False,
        )
        found[" ".join(words[:1] if len(words) == 2 and words[0] == "study" else words)] = time.perf_counter() - begin
    return found


def _pages(folder: Path, settings: Settings) -> dict[str, float]:
    """The console's pages, as a browser of somebody who has signed in gets them."""
    console = Console(folder, console={"port": free_port()}, engine=settings.engine.model_dump(mode="json"))
    try:
        browser = console.signed_in()
        study = console.ledger.studies()[0].study_instance_uid
        return {
            f"GET {name}": _median(lambda path=path: browser.get(path).raise_for_status())
            for name, path in {
                "/": "/",
                "/?page=2": "/?page=2",
                "/?page=500": "/?page=500",
                "/?state=FAILED": "/?state=FAILED",
                "/?search=(part of a UID)": f"/?search={study[3:20]}",
                "/?search=(a name)": "/?search=PHANTOM",
                "/?modality=CR": "/?modality=CR",
                "/study": f"/study/{study}",
                "/engine": "/engine",
                "/destinations": "/destinations",
                "/metrics": "/metrics",
            }.items()
        }
    finally:
        console.close()


def _parts(settings: Settings, ledger: Ledger) -> dict[str, float]:
    """What the node does by itself."""
    with running_broker(settings):
        sweeper = Sweeper(settings, ledger, Dispatcher(settings, ledger, make_app(settings)))
        sweeper.sweep()
        found = {"a sweep": _median(sweeper.sweep)}
    retention = Retention(
        settings.model_copy(
            update={
                "retention": settings.retention.model_copy(
                    update={"images_days": KEPT_DAYS - 1.0, "results_days": KEPT_DAYS - 1.0}
                )
            }
        ),
        Spool(settings.data.path),
        ledger,
    )
    found["retention, what is due"] = _median(retention.plan)
    due = [one for one in retention.plan() if one.images_go][:20]
    begin = time.perf_counter()
    retention.purge(due)
    found["retention, a study removed"] = (time.perf_counter() - begin) / max(1, len(due))
    return found
