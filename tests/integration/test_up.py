"""The node as a person runs it: whole or in parts, stopped by Ctrl-C, refused with a reason."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
from peers import listens, running, wait_until
from ports import free_port

from dicom_node.dimse import scu
from dicom_node.dimse.receiver import Receiver
from engine.phantom.studies import write_phantoms


def phantom(folder: Path) -> Path:
    write_phantoms(folder, 1, 5)
    (path,) = folder.glob("*.dcm")
    return path


def test_ctrl_c_stops_the_node_in_order(start_node: Callable[..., Any]) -> None:
    node = start_node([])
    wait_until(lambda: "Listening as MEDREGA@127.0.0.1" in node.log.read_text(), "the greeting")
    node.process.send_signal(signal.SIGINT)
    assert node.process.wait(150) == 0
    assert not listens(node.settings.listener.port)
    assert "Traceback" not in node.log.read_text()


def test_a_second_node_on_the_same_data_is_refused_in_one_line(start_node: Callable[..., Any], tmp_path: Path) -> None:
    start_node([])
    command = [sys.executable, "-m", "dicom_node.cli", "up", "--config", str(tmp_path / "node" / "medrega-pacs.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "another node runs on this data folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with Receiver(tmp_path / "got") as other:
        config = tmp_path / "medrega-pacs.toml"
        config.write_text(f'[data]\npath = "{tmp_path / "data"}"\n[listener]\nport = {other.peer.port}\n')
        command = [sys.executable, "-m", "dicom_node.cli", "up", "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert str(other.peer.port) in done.stderr
    assert "Traceback" not in done.stderr


def test_listener_and_worker_run_apart_on_a_redis_of_the_site(tmp_path: Path, start_node: Callable[..., Any]) -> None:
    port = free_port()
    redis = ["/usr/bin/redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with running(redis, tmp_path / "redis.log") as process, Receiver(tmp_path / "got") as pacs:
        wait_until(lambda: listens(port), "Redis to listen", process)
        node = start_node([pacs.peer], broker=f"redis://127.0.0.1:{port}/0", parts=("listen", "worker"))
        path = phantom(tmp_path / "phantoms")
        (sent,) = scu.send([scu.StoredFile.open(path)], node.peer)
        assert sent.ok
        record = node.ended(str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID))
        assert record.runs[-1].state == "DELIVERED"
        assert {file.stem for file in pacs.files} == {result.sop_instance_uid for result in record.results}
