"""A node of one's own: ``up`` in a process with data of its own and one destination, ended when it is done with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dicom_node.dimse import scu
from dicom_node.settings import (
    ENVIRONMENT_PREFIX,
    CompletionSettings,
    ConsoleSettings,
    DataSettings,
    Destination,
    EngineSettings,
    ListenerSettings,
    Settings,
)
from dicom_node.settings.page import as_toml
from engine.errors import NodeError

QUIET_SECONDS: Final = 2.0
START_SECONDS: Final = 60.0
_HEEDED: Final = f"{ENVIRONMENT_PREFIX}LISTENER__FAST"
"""The one variable that counts here as well: so the demo shows that the node does without the fast receive path."""

Report = Callable[[str, int, int], None]
"""Told what is going on: a step's name, how much of it is done, and of how much."""


def own_settings(out: Path, pacs: scu.Peer, engine: EngineSettings) -> Settings:
    """Defaults but for the places, a short quiet time, and the one destination; no environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Settings.model_construct(
        data=DataSettings(path=(out / "node").absolute(), minimum_free_mib=0),
        listener=ListenerSettings(port=port),
        console=ConsoleSettings(enabled=False),
        completion=CompletionSettings(quiet_seconds=QUIET_SECONDS),
        engine=engine,
        destinations=(Destination(name="pacs", aet=pacs.aet, host=pacs.host, port=pacs.port),),
    )


@contextmanager
def own_node(settings: Settings, out: Path, report: Report) -> Iterator[subprocess.Popen[str]]:
    """``medrega-pacs up`` in a process of its own, ended as by Ctrl-C and never outliving us."""
    report("Starting the node", 0, 0)
    config = out / "node.toml"
    config.write_text(as_toml(settings), encoding="utf-8")
    environment = {
        key: value for key, value in os.environ.items() if key == _HEEDED or not key.startswith(ENVIRONMENT_PREFIX)
    }
    with (out / "node.log").open("w", encoding="utf-8") as log:
        up = [sys.executable, "-m", "dicom_node.cli", "up", "--config", str(config)]
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-m", "dicom_node.process", str(os.getpid()), *up],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C at the terminal ends the demo, which then ends the node in order
        )
        try:
            _wait_until_up(settings, process, out)
            yield process
        finally:
            report("Stopping the node", 0, 0)
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(settings: Settings, process: subprocess.Popen[str], out: Path) -> None:
    listener = settings.listener
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            scu.echo(scu.Peer(listener.aet, listener.host, listener.port), "DEMO", scu.Timeouts(2, 2))
        except scu.PeerError:
            check_alive(process, out / "node.log")
            if time.monotonic() > until:
                raise NodeError("the node does not answer", advice=f"see {out / 'node.log'}") from None
            time.sleep(0.1)
        else:
            return


def check_alive(process: subprocess.Popen[str], log: Path) -> None:
    """An error that names its log, once the node has ended."""
    if process.poll() is not None:
        raise NodeError(f"the node ended with status {process.returncode}", advice=f"see {log}")
