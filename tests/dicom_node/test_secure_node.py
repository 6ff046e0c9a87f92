"""A whole node on a Redis of the site's own, by TLS and with a password: what of its secrets can be seen, how its files
are left, and what it makes of messages that are not its own.
"""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any, Final

import pytest
from certificates import Authority
from node_bench import Pacs, RunningNode, image, wait_until, written
from ports import free_port
from redis_server import redis_server

from dicom_node.dimse.scu import StoredFile, send
from dicom_node.ledger import State
from dicom_node.passwords import HashedPassword
from dicom_node.queue.broker import connect, queue_key
from dicom_node.queue.dispatch import READ_TASK, reading_queue

MARK: Final = "Zq7secret"
"""In each secret, with a number behind."""


class Evil:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def message(body: bytes, kind: str, task: str = READ_TASK) -> str:
    """A message as kombu puts it into Redis."""
    delivery = {"exchange": "", "routing_key": "reading"}
    encoding = "binary" if kind != "application/json" else "utf-8"
    return json.dumps(
        {
            "body": b64encode(body).decode(),
            "content-encoding": encoding,
            "content-type": kind,
            "headers": {"lang": "py", "task": task, "id": "1", "root_id": "1", "parent_id": None, "argsrepr": "()"},
            "properties": {"delivery_info": delivery, "delivery_tag": "1", "body_encoding": "base64", "priority": 0},
        }
    )


def secrets_in(folder: Path) -> dict[str, Any]:
    """Settings with each kind of secret in a file."""
    texts = {f"{number}": f"{MARK}{number}" + "x" * 32 for number in range(6)}
    texts["hash"] = str(HashedPassword.of(MARK))
    files = {name: folder / name for name in texts}
    for name, file in files.items():
        file.write_text(texts[name])
        file.chmod(0o600)
    return {
        "broker": {"password_file": files["0"]},
        "console": {"enabled": True, "port": free_port()},
        "dicomweb": {"enabled": True, "port": free_port()},
        "dicomweb_users": [
            {"name": "A", "password_file": files["hash"], "rights": ["store"]},
            {"name": "B", "token_file": files["1"], "rights": ["retrieve"]},
        ],
        "dimse_users": [{"name": "C", "passcode_file": files["2"]}, {"name": "D", "passcode_hash": texts["hash"]}],
        "metrics": {"token_file": files["3"]},
        "oidc": {"issuer": "https://127.0.0.1:9/", "password_file": files["4"], "viewers": ["x"]},
        "front": {"url": "https://127.0.0.1:9/", "token_file": files["5"]},
        "log": {"level": "debug"},
    }


def processes_of(pid: int) -> list[Path]:
    """A process and its descendants, in /proc."""
    found = [Path(f"/proc/{pid}")]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            is_child = f"\nPPid:\t{pid}\n" in status.read_text()
        except OSError:
            continue
        if is_child:
            found += processes_of(int(status.parent.name))
    return found


def studies_of(node: RunningNode, sent: Path, *datasets: Any) -> None:
    files = [StoredFile.open(written(sent, dataset)) for dataset in datasets]
    assert {result.status for result in send(files, node.peer, "CT1")} == {0}
    for dataset in datasets:
        assert wait_until(node.is_in(dataset.StudyInstanceUID, State.DELIVERED), 40), node.ledger.studies()


def test_a_node_keeps_its_secrets_and_files_to_itself_and_runs_nobody_elses_messages(
    tmp_path: Path, pacs: Pacs, request: pytest.FixtureRequest
) -> None:
    authority = Authority(tmp_path / "authority")
    changes = secrets_in(tmp_path)
    before = os.umask(0o077)
    request.addfinalizer(lambda: os.umask(before))
    with redis_server(tmp_path, authority.issue("redis"), f"{MARK}0" + "x" * 32) as port:
        changes["broker"]["url"] = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority.ca}"
        node = RunningNode(tmp_path, pacs, **changes)  # which opens the ledger in this process
        os.umask(0o022)
        try:
            node.start()
            assert node.process is not None
            workers = node.children()
            evil = tmp_path / "evil"
            hostile = [
                message(pickle.dumps(((Evil(evil),), {}, {})), "application/x-python-serialize"),
                message(pickle.dumps(((Evil(evil),), {}, {})), "application/json"),
                message(b'[["../../../../etc/passwd"], {}, {}]', "application/json"),
                message(b'[[{"a": 1}], {}, {}]', "application/json"),
                message(b"[[], {}, {}]", "application/json"),
                message(b'[["x"], {}, {}]', "application/json", "os.system"),
                message(b"[" * 100_000, "application/json"),
            ]
            with connect(node.settings) as connection:
                connection.lpush(queue_key(reading_queue(node.settings.engine.queue), 0), *hostile)
            studies_of(node, tmp_path / "sent", image(), image())
            assert not evil.exists()
            assert node.children() == workers
            assert "untrusted content of type pickle" in (tmp_path / "node.log").read_text()

            # As everybody on the machine sees them.
            for process in processes_of(node.process.pid):
                assert MARK.encode() not in (process / "cmdline").read_bytes()
            shown = subprocess.run(
                [sys.executable, "-m", "dicom_node.cli", "config", "show"],
                cwd=tmp_path, env=os.environ | node.settings.to_environment(),
                capture_output=True, timeout=60, check=True,
            )  # fmt: skip
            log = (tmp_path / "node.log").read_bytes()
            assert log.count(b"\n") > 10
            for words in (shown.stdout, shown.stderr, log, repr(node.settings).encode()):
                assert MARK.encode() not in words
                assert changes["dimse_users"][1]["passcode_hash"].encode() not in words

            open_to_others = {
                str(path.relative_to(tmp_path))
                for path in (tmp_path / "data", *(tmp_path / "data").rglob("*"))
                if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
            }
            assert open_to_others == set()
        finally:
            node.stop()
