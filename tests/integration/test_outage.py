"""Destinations that are down for longer than attempts follow one another, and a broker that forgets."""

import base64
import json
import os
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pydicom
import pytest
import redis
from peers import SCRIPT, Orthanc, listens, running, running_orthanc, wait_until
from ports import free_port
from pydicom.uid import generate_uid

from dicom_node.dimse import scu
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import Circuit, StudyRecord
from dicom_node.settings import Settings
from engine.phantom.studies import write_phantoms

pytestmark = pytest.mark.slow

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
PASSWORD = "geheim:1"  # noqa: S105 - of the test's own server


def later_image(path: Path) -> Path:
    """Another image of the same study."""
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    later = path.with_name(f"later-{path.name}")
    dataset.save_as(later)
    return later


def settings_file(folder: Path, broker: int, pacs: int, web: int) -> Path:
    (folder / "script.json").write_text(json.dumps(SCRIPT), encoding="utf-8")
    (folder / "password").write_text(PASSWORD, encoding="ascii")
    path = folder / "medrega-pacs.toml"
    path.write_text(
        f"""
        [data]
        path = "{folder / "data"}"
        minimum_free_mib = 1
        [listener]
        port = {free_port()}
        [completion]
        quiet_seconds = 0.7
        [sweeper]
        interval_seconds = 0.2
        [engine]
        runtime = "scripted"
        model = "{folder / "script.json"}"
        [broker]
        url = "redis://127.0.0.1:{broker}/0"
        [delivery]
        first_delay_seconds = 0.2
        max_delay_seconds = 0.4
        breaker_failures = 2
        probe_seconds = 0.4
        [[destinations]]
        name = "pacs"
        aet = "PACS"
        port = {pacs}
        [[destinations]]
        name = "web"
        protocol = "dicomweb"
        url = "http://127.0.0.1:{web}/dicom-web"
        user = "node"
        password_file = "{folder / "password"}"
        profile = "ihe-air"
        """,
        encoding="utf-8",
    )
    return path


def test_what_waited_for_a_destination_arrives_in_order_and_once(tmp_path: Path) -> None:
    broker, pacs, web, dicom = free_port(), free_port(), free_port(), free_port()
    config = settings_file(tmp_path, broker, pacs, web)
    settings = Settings.load(config)
    redis_command = ["/usr/bin/redis-server", "--port", str(broker), "--bind", "127.0.0.1", "--save", ""]
    redis_command += ["--dir", str(tmp_path)]
    write_phantoms(tmp_path / "phantoms", 2, 5)
    paths = sorted((tmp_path / "phantoms").glob("*.dcm"))
    studies = [str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in paths]
    with ExitStack() as stack:
        first_broker = stack.enter_context(ExitStack())
        process = first_broker.enter_context(running(redis_command, tmp_path / "redis.log"))
        wait_until(lambda: listens(broker), "Redis to listen", process)
        for part in ("listen", "worker"):
            command = [sys.executable, "-m", "dicom_node.cli", part, "--config", str(config)]
            stack.enter_context(running(command, tmp_path / f"{part}.log"))
        wait_until(lambda: listens(settings.listener.port), "the node to listen")
        ledger = Ledger.open(settings)
        stack.callback(ledger.close)
        node = scu.Peer("MEDREGA", "127.0.0.1", settings.listener.port)

        def in_delivery(study: str, runs: int) -> StudyRecord | None:
            if not any(item.study_instance_uid == study for item in ledger.studies()):
                return None
            record = ledger.study(study)
            last = record.runs[-1]
            return record if (len(record.runs), last.state) == (runs, State.DELIVERING) else None

        assert all(result.ok for result in scu.send([scu.StoredFile.open(path) for path in paths], node))
        for study in studies:
            wait_until(lambda study=study: in_delivery(study, 1), "results on their way")
        later = later_image(paths[0])
        assert all(result.ok for result in scu.send([scu.StoredFile.open(later)], node))
        wait_until(lambda: in_delivery(studies[0], 2), "results of the later image on their way")

        def asked(times: int) -> bool:
            found = ledger.destinations.all(["pacs", "web"])
            return all(one.circuit is not Circuit.CLOSED and one.failures >= times for one in found)

        wait_until(lambda: asked(5), "both circuits to open, and questions to go on")
        redis.Redis(port=broker).flushall()
        first_broker.close()
        before = min(one.failures for one in ledger.destinations.all(["pacs", "web"]))
        process = stack.enter_context(running(redis_command, tmp_path / "redis.log"))
        wait_until(lambda: listens(broker), "Redis to listen again", process)
        wait_until(lambda: asked(before + 2), "questions to go on with an empty broker")
        # One question stood for all: of three runs' results few were tried themselves.
        assert max(item.attempts for study in studies for item in ledger.study(study).deliveries) <= 2

        received = tmp_path / "received"
        received.mkdir()
        log = tmp_path / "received.log"
        command = ["/usr/bin/storescp", "+B", "-od", str(received), "-xcr", f"echo #f >> {log}", "-xs", str(pacs)]
        stack.enter_context(running(command, tmp_path / "storescp.log", env={**os.environ, "TCP_NODELAY": "1"}))
        orthanc = stack.enter_context(
            running_orthanc(
                tmp_path / "orthanc",
                HttpPort=web,
                DicomPort=dicom,
                Plugins=[PLUGIN],
                DicomWeb={"Enable": True, "Root": "/dicom-web/"},
                RegisteredUsers={"node": PASSWORD},
                AuthenticationEnabled=True,
            )
        )
        records = [_delivered(ledger, study) for study in studies]
        _check_order_and_number(records, log.read_text().split())
        wanted = {
            item.sop_instance_uid for record in records for item in record.deliveries if item.destination == "web"
        }
        assert _instances(orthanc) == wanted
        found = {one.name: one for one in ledger.destinations.all(["pacs", "web"])}
        assert {(one.circuit, one.failures, one.waiting) for one in found.values()} == {(Circuit.CLOSED, 0, 0)}
        listed = subprocess.run(
            [sys.executable, "-m", "dicom_node.cli", "destinations", "--config", str(config)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    assert f"PACS@127.0.0.1:{pacs}" in listed
    assert "last error" in listed


def _delivered(ledger: Ledger, study: str) -> StudyRecord:
    def look() -> StudyRecord | None:
        record = ledger.study(study)
        return record if all(run.state is State.DELIVERED for run in record.runs) else None

    found = wait_until(look, "everything to be delivered")
    assert isinstance(found, StudyRecord)
    return found


def _check_order_and_number(records: list[StudyRecord], names: list[str]) -> None:
    """Each object came once; of a study, those of the later run after those of the earlier one."""
    assert len(names) == len(set(names))
    arrived = [name.partition(".")[2].rsplit(".dcm", 1)[0] for name in names]
    wanted = {item.sop_instance_uid for record in records for item in record.deliveries if item.destination == "pacs"}
    assert set(arrived) == wanted
    assert len(arrived) == len(wanted)
    for record in records:
        number = {run.id: run.number for run in record.runs}
        run_of = {item.sop_instance_uid: number[item.run_id] for item in record.deliveries}
        order = [run_of[uid] for uid in arrived if uid in run_of]
        assert order == sorted(order)


def _instances(orthanc: Orthanc) -> set[str]:
    def get(path: str) -> Any:
        token = base64.b64encode(f"node:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {token}"}
        request = urllib.request.Request(f"{orthanc.url}{path}", headers=headers)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read())

    return {get(f"/instances/{one}")["MainDicomTags"]["SOPInstanceUID"] for one in get("/instances")}
