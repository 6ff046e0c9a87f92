"""The node as a person runs it: whole or in parts, stopped by Ctrl-C, refused with a reason."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
from peers import RunningNode, listens, running, wait_until
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.audit.verification import verify
from dicom_node.dimse import scu
from dicom_node.dimse.receiver import Receiver
from dicom_node.ledger import Ledger
from dicom_node.metrics.exposition import exposition
from engine.phantom.studies import write_phantoms


def phantom(folder: Path) -> Path:
    write_phantoms(folder, 1, 5)
    (path,) = folder.glob("*.dcm")
    return path


def metrics_of(node: RunningNode) -> dict[tuple[str, ...], float]:
    ledger = Ledger.open(node.settings)
    text = exposition(node.settings, ledger).decode()
    ledger.close()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def words_of(trail: Path) -> list[str]:
    """What happened, by the node's own words."""
    records = "".join(file.read_text() for file in sorted(trail.glob("*.jsonl")))
    return re.findall(r'EventTypeCode csd-code=\\"([a-z-]+)\\"', records)


def log_of(node: RunningNode) -> list[str]:
    return "".join(file.read_text() for file in node.log.parent.glob("*.log")).splitlines()


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
        figures, trail = metrics_of(node), node.settings.data.path / "audit"
        assert figures["medrega_studies", "DELIVERED"] == figures["medrega_received_instances_total", "other"] == 1
        assert figures["medrega_deliveries_total", pacs.peer.aet.lower(), "delivered"] == len(record.results)
        assert figures["medrega_readings_total", record.runs[-1].plan, "findings"] == 1
        assert figures["medrega_reading_seconds_count",] == 1
        assert sum(value for name, value in figures.items() if name[0] == "medrega_engine_tokens_total") > 0
        wait_until(lambda: "results-sent" in words_of(trail), "the trail to have what was sent")
        said = words_of(trail)
        assert said.count("images-received") == said.count("results-sent") == 1
        assert verify(trail).complaints == ()
        lines = [json.loads(line) for line in log_of(node) if line.startswith("{")]
        assert {line["event"] for line in lines if "run" in line} >= {
            "study complete",
            "routed",
            "read",
            "delivery tried",
        }
        assert {line.get("study") for line in lines if "run" in line} == {record.study_instance_uid}
