"""The world that faults strike: a node in processes of its own, its Redis, its senders and its archive."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos_proxy import FaultyLine
from peers import Orthanc, listens, running_orthanc, wait_until
from ports import free_port

from dicom_node.ledger import Ledger
from dicom_node.settings import Settings

FOLDER: Final = Path(__file__).parent
_RESTART_SECONDS: Final = 0.5
_ROUTE_BACK: Final = """
function OnStoredInstance(instanceId, tags, metadata, origin)
  if origin['RemoteAet'] == 'MEDREGA' then
    SendToModality(instanceId, 'medrega')
  end
end
"""
"""An archive that routes every result back to where it came from."""
_SCRIPT: Final = {
    "answers": {
        "Please locate <ref>disc</ref>, <ref>ring</ref>": "<ref>disc</ref><box>[[100, 100, 300, 300]]</box>",
        "What is <ref>this</ref>": "disc",
    },
    "default": "Findings: A disc. Impression: A disc.",
    "delay_seconds": 0.1,
}


@dataclass
class Part:
    """A program that is started again when it dies, as a service manager does."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = True
    starts: int = 0
    died_at: float = field(default=0.0)


class World:
    """Everything that runs; a context manager that leaves nothing behind.

    Parameters
    ----------
    folder : Path
        Its own; made anew.
    tmpfs_mib : int
        Size of the disk under the data folder; 0 for none of its own.
    without : str
        A guard to take away (see ``hooks/sitecustomize.py``).
    """

    def __init__(self, folder: Path, tmpfs_mib: int = 0, without: str = "") -> None:
        self.folder = folder
        self.mark = secrets.token_hex(8)
        """Stands in the environment of each process that belongs to this world."""
        self.journal = folder / "synced.txt"
        self.clock = folder / "clock.txt"
        self.broker_port, self.line_port = free_port(), free_port()
        self.ballast: Path | None = None
        self._tmpfs = tmpfs_mib
        self._stack = ExitStack()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._environment = {
            **os.environ,
            "CHAOS_RUN": self.mark,
            "CHAOS_JOURNAL": str(self.journal),
            "CHAOS_CLOCK": str(self.clock),
            "CHAOS_WITHOUT": without,
            "PYTHONPATH": os.pathsep.join([str(FOLDER / "hooks"), str(FOLDER.parent)]),
            "TCP_NODELAY": "1",
        }
        self.parts: dict[str, Part] = {}

    @property
    def data(self) -> Path:
        return self.folder / "disk" / "data"

    def __enter__(self) -> World:
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        disk = self.folder / "disk"
        disk.mkdir(parents=True)
        self.journal.touch()
        self.set_clock(0)
        if self._tmpfs:
            size = f"size={self._tmpfs}m"
            subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], check=True)
            self._stack.callback(subprocess.run, ["/usr/bin/umount", "-l", str(disk)], check=False)
        listen = free_port()
        archive = self.folder / "orthanc"
        archive.mkdir()
        (archive / "route.lua").write_text(_ROUTE_BACK, encoding="utf-8")
        self.orthanc: Orthanc = self._stack.enter_context(
            running_orthanc(
                archive,
                DicomModalities={"medrega": ["MEDREGA", "127.0.0.1", listen]},
                LuaScripts=[str(archive / "route.lua")],
            )
        )
        self.line = FaultyLine(self.line_port, self.orthanc.peer.port)
        self._stack.callback(self.line.close)
        self.config = self._write_settings(listen)
        self.settings = Settings.load(self.config)
        python = [sys.executable, "-m", "dicom_node.cli"]
        redis = ["/usr/bin/redis-server", "--port", str(self.broker_port), "--bind", "127.0.0.1", "--save", ""]
        config = ["--config", str(self.config)]
        for part in (
            Part("redis", [*redis, "--dir", str(self.folder)]),
            Part("listen", [*python, "listen", *config]),
            Part("worker", [*python, "worker", *config]),
            Part("second-worker", [*python, "worker", *config]),
            Part("second-sweeper", [sys.executable, str(FOLDER / "chaos_sweeper.py"), str(self.config)]),
        ):
            self.parts[part.name] = part
        self._stack.callback(self._end_parts)
        keeper = threading.Thread(target=self._keep, daemon=True)
        keeper.start()
        self._stack.callback(keeper.join, 30)
        self._stack.callback(self._ended.set)
        wait_until(lambda: listens(listen), "the node to listen")
        for role in ("reading", "delivery"):
            wait_until(lambda role=role: len(self.children(f"tasks {role}")) >= 2, f"both workers' {role}")
        self.ledger = Ledger.open(self.settings)
        self._stack.callback(self.ledger.close)

    def _write_settings(self, port: int) -> Path:
        script = self.folder / "script.json"
        script.write_text(json.dumps(_SCRIPT), encoding="utf-8")
        path = self.folder / "medrega-pacs.toml"
        path.write_text(
            f"""
            [data]
            path = "{self.data}"
            minimum_free_mib = 0
            [listener]
            port = {port}
            [completion]
            quiet_seconds = 1.5
            [sweeper]
            interval_seconds = 0.3
            [engine]
            runtime = "scripted"
            model = "{script}"
            [reading]
            attempts = 50
            lease_seconds = 5
            first_delay_seconds = 0.2
            [delivery]
            first_delay_seconds = 0.3
            max_delay_seconds = 1.0
            probe_seconds = 0.5
            association_timeout_seconds = 3
            dimse_timeout_seconds = 5
            [broker]
            url = "redis://127.0.0.1:{self.broker_port}/0"
            [log]
            format = "json"
            [[destinations]]
            name = "archive"
            aet = "ORTHANC"
            port = {self.line_port}
            """,
            encoding="utf-8",
        )
        return path

    def _keep(self) -> None:
        """Start each part, and start it again when it has died."""
        while not self._ended.wait(0.1):
            with self._lock:
                for part in self.parts.values():
                    if part.process is not None and part.process.poll() is not None:
                        part.process, part.died_at = None, time.monotonic()
                    if part.wanted and part.process is None and time.monotonic() - part.died_at > _RESTART_SECONDS:
                        self._launch(part)

    def _launch(self, part: Part) -> None:
        environment = self._environment if part.name != "redis" else {**os.environ, "CHAOS_RUN": self.mark}
        with (self.folder / f"{part.name}.log").open("ab") as log:
            part.process = subprocess.Popen(part.command, env=environment, stdout=log, stderr=log)
        part.starts += 1

    def _end_parts(self) -> None:
        self.stop(signal.SIGCONT)
        self.stop(signal.SIGTERM)
        for part in reversed(self.parts.values()):
            if part.process is not None:
                if part.name == "redis":  # last, and not told yet
                    part.process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    part.process.wait(40)
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def stop(self, number: signal.Signals) -> None:
        """Send a signal to every part but Redis, which is not started again; Redis ends after the others."""
        with self._lock:
            order = [part for part in self.parts.values() if part.name != "redis"]
            for part in order:
                part.wanted = False
                if part.process is not None and part.process.poll() is None:
                    part.process.send_signal(number)

    def hold_still(self, *names: str) -> None:
        """Do not start these parts until `let_go`."""
        with self._lock:
            for name in names or self.parts:
                self.parts[name].wanted = False

    def let_go(self) -> None:
        """Start what does not run."""
        with self._lock:
            for part in self.parts.values():
                part.wanted = True

    def set_clock(self, seconds: int) -> None:
        """Set the clock of every process of the node so far off; in one piece, since they read it all the time."""
        new = self.clock.with_suffix(".new")
        new.write_text(f"{seconds:+d}", encoding="ascii")
        new.rename(self.clock)

    def pid(self, name: str) -> int | None:
        """Of a part that runs."""
        process = self.parts[name].process
        return process.pid if process is not None and process.poll() is None else None

    def processes(self) -> dict[int, str]:
        """Every process of this world, with its command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if f"CHAOS_RUN={self.mark}".encode() in (entry / "environ").read_bytes():
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def children(self, words: str) -> list[int]:
        """Processes whose command line has these words."""
        return [pid for pid, command in self.processes().items() if words in command]

    def answers(self) -> bool:
        """Whether the listener takes connections."""
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.settings.listener.port), timeout=1).close()
            return True
        return False

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program as the node's processes run: on their clock."""
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False, **options)
