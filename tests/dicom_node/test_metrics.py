"""Metrics: what the ledger knows and the processes counted, and rules and a dashboard that ask for nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from node_bench import node_settings
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.ledger import Ledger
from dicom_node.ledger.headers import Indexed
from dicom_node.ledger.tallies import Counted, count
from dicom_node.metrics.drift import tallies_of
from dicom_node.metrics.exposition import exposition
from dicom_node.metrics.worker import serve
from dicom_node.process import this_host
from dicom_node.routing.header import Header
from dicom_node.settings import Settings
from engine.findings import HeldBack, ImageRead, RunState, StudyReading

if TYPE_CHECKING:
    from console_client import Console

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = "ZZTOP^PHI"
COUNTING = """
from dicom_node.metrics import process as metrics
from dicom_node.settings import Settings
metrics.begin(Settings())
metrics.accepted("CT1")
metrics.ended("released")
metrics.rejected("called AE title not recognised")
metrics.received("CT1", 1000)
metrics.received("ZZTOP^PHI", 1)
metrics.refused(0xA700)
metrics.asked("report", 300, 40, 1.5)
metrics.read(12)
"""


def settings_in(folder: Path) -> Settings:
    return Settings.model_validate(
        {
            "data": {"path": folder},
            "listener": {"calling_aets": ["CT1"]},
            "audit": {"host": "arr.example"},
            "destinations": [{"name": "pacs", "aet": "PACS", "port": 104}],
        }
    )


def counted_in(settings: Settings) -> None:
    subprocess.run([sys.executable, "-c", COUNTING], env=settings.to_environment(), check=True)


def samples(text: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_an_empty_node_gives_every_state_and_counts_of_all_its_processes(tmp_path: Path, ledger: Ledger) -> None:
    settings = settings_in(tmp_path / "data")
    for _ in range(2):
        counted_in(settings)
    found = samples(exposition(settings, ledger))
    assert all(name.startswith("medrega_") for name, _ in found)
    assert found["medrega_studies", ("FAILED",)] == found["medrega_oldest_seconds", ("READING",)] == 0
    assert found["medrega_destination_up", ("pacs",)] == 1
    assert found["medrega_received_bytes_total", ("CT1",)] == 2000
    assert found["medrega_received_instances_total", ("other",)] == 2  # nobody makes labels up
    assert found["medrega_engine_tokens_total", ("answer", "report")] == 80
    assert found["medrega_reading_seconds_count", ()] == 2
    assert NAME not in exposition(settings, ledger).decode()


def test_a_node_that_starts_again_counts_from_zero(tmp_path: Path, ledger: Ledger) -> None:
    settings = settings_in(tmp_path / "data")
    counted_in(settings)
    (settings.data.path / "metrics" / this_host() / "counter_1.db").touch()  # as who is killed at his first line leaves
    assert samples(exposition(settings, ledger))["medrega_received_bytes_total", ("CT1",)] == 1000
    again = "from dicom_node.metrics import process\nfrom dicom_node.settings import Settings\n"
    code = again + "process.begin(Settings(), first=True)"
    subprocess.run([sys.executable, "-c", code], env=settings.to_environment(), check=True)
    assert ("medrega_received_bytes_total", ("CT1",)) not in samples(exposition(settings, ledger))


def reading(**changes: Any) -> StudyReading:
    model: Any = None
    whole = StudyReading(
        "1.2", RunState.NO_FINDINGS, {}, (), model, {}, "chest", "", (),
        (ImageRead("1.2.3.4", "1.2.3", 1, 8, 8),), (), (), datetime.now(UTC),
    )  # fmt: skip
    return replace(whole, **changes)


def test_a_front_that_starts_leaves_the_counts_of_a_worker_that_runs_and_the_folder_of_one_that_starts(
    tmp_path: Path, ledger: Ledger
) -> None:
    settings = settings_in(tmp_path / "data")
    folder = settings.data.path / "metrics" / this_host()
    folder.mkdir(parents=True)
    before = folder.stat().st_ino
    count = "from dicom_node.metrics import process\nfrom dicom_node.settings import Settings\nprocess.begin(Settings()"
    worker = f"{count})\nprocess.received('CT1', 1000)\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", worker], env=settings.to_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        subprocess.run([sys.executable, "-c", f"{count}, first=True)"], env=settings.to_environment(), check=True)
        assert folder.stat().st_ino == before
        assert samples(exposition(settings, ledger))["medrega_received_bytes_total", ("CT1",)] == 1000
        running.communicate(b"\n")


def test_a_node_that_starts_leaves_the_folders_of_others_and_what_counts_in_them(tmp_path: Path) -> None:
    begun, long_gone = tmp_path / "metrics" / "begun", tmp_path / "metrics" / "gone"
    for folder in (begun, long_gone):
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    left, counting = long_gone / "counter_1.db", long_gone / "counter_2.db"
    for file in (left, counting):
        file.touch()
    os.utime(left, (0, 0))
    code = "from dicom_node.metrics import process\nfrom dicom_node.settings import Settings\n"
    code += "process.begin(Settings(), first=True)"
    environment = settings_in(tmp_path).to_environment()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert begun.exists(), "whoever made it may not have counted yet"
    assert list(long_gone.iterdir()) == [counting]


def test_a_reading_counts_for_its_scanner_and_for_what_was_held_back_without_its_words() -> None:
    held = (HeldBack("the box is 12.5 times too small: see 7", NAME), HeldBack("it repeats another sentence", NAME))
    headers = [
        Indexed("9", Header(model="Report Maker").to_json(), "", ""),
        Indexed("1.2.3", Header(model="Scanner\x1b 3000").to_json(), "", ""),
    ]
    assert tallies_of(reading(held_back=held), headers) == {
        Counted("readings", RunState.NO_FINDINGS, "chest"): 1,
        Counted("readings_by_scanner", "Scanner 3000"): 1,
        Counted("held_back", "the box is # times too small"): 1,
        Counted("held_back", "it repeats another sentence"): 1,
    }


def test_counts_add_up_and_their_labels_are_bounded(tmp_path: Path, ledger: Ledger) -> None:
    def entered(counts: dict[Counted, int]) -> None:
        with ledger._database.write() as session:
            count(session, counts)

    for _ in range(2):
        entered({Counted("readings_by_scanner", f"model {number:03}"): 2 for number in range(150)})
    tallies = ledger.tallies.all()
    assert len(tallies) == 101
    assert tallies[Counted("readings_by_scanner", "model 000")] == 4
    assert sum(tallies.values()) == 600
    found = samples(exposition(settings_in(tmp_path), ledger))
    assert found["medrega_readings_by_scanner_total", ("other",)] == 200


def asked_for(expressions: list[str]) -> set[str]:
    return {name for expression in expressions for name in re.findall(r"\bmedrega_\w+", expression)}


def exposed(tmp_path: Path, ledger: Ledger) -> set[str]:
    settings = settings_in(tmp_path / "data")
    counted_in(settings)
    text = exposition(settings, ledger).decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    suffixes = {"histogram": ("_bucket", "_count", "_sum")}
    return {name + suffix for name, kind in kinds.items() for suffix in suffixes.get(kind, ("",))}


def rules() -> list[dict[str, Any]]:
    return yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]  # type: ignore[no-any-return]


def panels() -> list[dict[str, Any]]:
    return json.loads((DEPLOY / "grafana.json").read_text())["panels"]  # type: ignore[no-any-return]


def test_rules_and_dashboard_ask_for_metrics_that_there_are_and_the_guide_names_all(
    tmp_path: Path, ledger: Ledger
) -> None:
    there = exposed(tmp_path, ledger)
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    assert asked_for([rule["expr"] for rule in rules()]) <= there
    assert asked_for(queries) <= there
    guide = (DEPLOY / "MONITORING.md").read_text()
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in there}
    assert {name for name in families if f"`{name}" not in guide} == set()
    assert {rule["alert"] for rule in rules() if f"`{rule['alert']}`" not in guide} == set()


def test_rules_say_what_is_wrong_and_what_to_do() -> None:
    assert all(set(rule["annotations"]) == {"summary", "action"} for rule in rules())
    assert {rule["labels"]["severity"] for rule in rules()} == {"warning", "critical"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus's promtool (apt install prometheus)")
def test_promtool_takes_the_rules() -> None:
    subprocess.run(["promtool", "check", "rules", DEPLOY / "alerts.yml"], check=True, capture_output=True)


@pytest.mark.slow  # sixteen days of figures
@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus's promtool (apt install prometheus)")
def test_rules_fire_on_what_they_are_for_and_on_nothing_else() -> None:
    tests = Path(__file__).with_name("alerts_test.yml")
    subprocess.run(["promtool", "test", "rules", tests], check=True, capture_output=True)


def test_metrics_are_for_this_machine_and_not_for_whom_a_proxy_on_it_asks(console: Console) -> None:
    client = console.client()
    assert "medrega_studies" in client.get("/metrics").text
    assert client.get("/metrics", headers={"X-Forwarded-For": "10.0.0.9"}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:11180", "127.0.0.1.evil.example", "[::1", "", "1:x"])
def test_a_page_whose_name_was_made_to_point_here_reads_no_metrics(console: Console, host: str) -> None:
    assert console.client().get("/metrics", headers={"Host": host}).status_code == 401


@pytest.mark.parametrize("opened", [False, True])
def test_a_worker_s_metrics_are_for_this_machine_until_said(tmp_path: Path, opened: bool) -> None:
    port = free_port()
    settings = node_settings(tmp_path, metrics={"worker_port": port, "open_worker_port": opened})
    stop = serve(settings)
    try:
        for host, answered in ((f"localhost:{port}", True), ("evil.example", opened)):
            status = httpx.get(f"http://127.0.0.1:{port}/metrics", headers={"Host": host}).status_code
            assert status == (200 if answered else 403)
    finally:
        stop()


def test_a_token_is_asked_of_everybody_once_there_is_one(tmp_path: Path) -> None:
    from console_client import Console

    (tmp_path / "token").write_text("SECRET\n")
    console = Console(tmp_path, metrics={"token_file": tmp_path / "token"})
    try:
        client = console.client()
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer OTHER"}).status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer SECRET"}).status_code == 200
    finally:
        console.close()
