"""The router on a ledger and a spool: decisions on complete runs, rules that change, switches, the index of headers."""

import io
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node_bench import Clock, image, node_settings, script, wait_until, written
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from dicom_node.cli.app import app
from dicom_node.delivery.deliverer import Deliverer
from dicom_node.dimse.receiver import Receiver
from dicom_node.ledger import DeliveryState, Ledger, State
from dicom_node.ledger.records import CompleteRun, ReceivedInstance, RunRecord
from dicom_node.logs import set_up_logging
from dicom_node.reading.reader import Reader
from dicom_node.routing.decision import Action, Decision, Priority, Target
from dicom_node.routing.index import Index
from dicom_node.routing.router import Router
from dicom_node.settings import LogSettings, Settings
from dicom_node.spool import Spool
from engine.errors import NodeError, SettingsError

RULES = """
[[routes]]
name = "shadow"
when = 'station == "NEW"'
action = "shadow"

[[routes]]
name = "mammography"
when = 'modality == "MG" && age >= 40 && study_description.contains("Screening")'
priority = "high"
plan = "phantom"
destinations = [{ name = "archive", languages = ["zh"] }]

[[routes]]
name = "off"
when = 'body_part == "HAND"'
action = "off"

[[routes]]
name = "none-of-them"
when = 'modality == "DX"'
sample = 0

[[routes]]
name = "rest"
when = 'modality == "CR"'
"""
PEERS = [{"name": "pacs", "aet": "PACS", "port": 4242}, {"name": "archive", "aet": "ARCHIVE", "port": 4243}]


class NoDispatcher:
    """Stands where messages are sent: what is due is looked up in the ledger."""

    def dispatch_deliveries(self) -> None:
        """Send nothing."""


class Bench:
    """A router and a reader on one ledger and spool."""

    def __init__(self, folder: Path, ledger: Ledger, **changes: Any) -> None:
        self.folder, self.ledger = folder, ledger
        self.rules = folder / "routes.toml"
        self.write(RULES)
        sections = {
            "destinations": PEERS,
            "routing": {"rules": self.rules, "time_zone": "UTC"},
            "ledger": {"url": f"sqlite:///{folder / 'ledger.sqlite3'}"},
        }
        self.settings: Settings = node_settings(folder, **sections | changes)
        self.spool = Spool(self.settings.data.path)
        self.router = Router(self.settings, ledger, self.spool)
        self.reader = Reader(self.settings, ledger, self.spool, NoDispatcher())  # type: ignore[arg-type]

    def write(self, rules: str) -> None:
        """Write the rules, as an editor does: in place of the file that was there."""
        new = self.rules.with_suffix(".new")
        new.write_text(rules, encoding="utf-8")
        new.replace(self.rules)

    def complete(self, *datasets: Dataset, called: str = "MEDREGA", raw: bytes | None = None) -> str:
        """A complete run of a study; the id."""
        study = datasets[0].StudyInstanceUID
        for dataset in datasets:
            path = f"studies/{study}/{dataset.SOPInstanceUID}.dcm"
            written(self.spool.path(path).parent, dataset)
            if raw is not None and dataset is datasets[-1]:
                self.spool.path(path).write_bytes(raw)
            uids = (study, dataset.SeriesInstanceUID, dataset.SOPInstanceUID, dataset.SOPClassUID)
            self.ledger.intake.record(ReceivedInstance(*map(str, uids), "1.2.840.10008.1.2.1", "CT1", path, called))
        run = next(run for run in self.ledger.intake.receiving() if run.study_instance_uid == study)
        self.ledger.intake.complete(run.id, run.last_image_at, "quiet")
        return run.id

    def routed(self, *datasets: Dataset, **options: Any) -> str:
        """The same, once decided."""
        run_id = self.complete(*datasets, **options)
        self.router.route_complete()
        return run_id

    def run(self, run_id: str) -> RunRecord:
        (found,) = (
            r for s in self.ledger.studies() for r in self.ledger.study(s.study_instance_uid).runs if r.id == run_id
        )
        return found

    def decision(self, run_id: str) -> Decision:
        claim = self.ledger.runs.claim(run_id, "tests", 60)
        assert claim is not None
        return claim.decision


@pytest.fixture
def bench(tmp_path: Path, ledger: Ledger) -> Iterator[Bench]:
    bench = Bench(tmp_path, ledger)
    yield bench
    bench.reader.close()


@pytest.fixture
def log() -> Callable[[], str]:
    """What has been logged."""
    stream = io.StringIO()
    set_up_logging(LogSettings(format="json"), stream)
    return stream.getvalue


def mammogram(**changes: Any) -> Dataset:
    about = {"Modality": "MG", "PatientAge": "061Y", "StudyDescription": "Screening R. Roe", "PatientSex": "F"}
    return image(**about | changes)


def test_a_run_is_queued_as_its_route_says(bench: Bench) -> None:
    run_id = bench.routed(mammogram())
    run = bench.run(run_id)
    assert (run.state, run.route, run.priority, run.plan) == (State.QUEUED, "mammography", Priority.HIGH, "phantom")
    assert bench.decision(run_id) == Decision(
        route="mammography",
        priority=Priority.HIGH,
        plan="phantom",
        destinations=(Target("archive", None, ("zh",)),),
    )


@pytest.mark.parametrize(
    ("changes", "route", "reason"),
    [
        ({"BodyPartExamined": "HAND"}, "off", "route off is off"),
        ({"Modality": "DX"}, "none-of-them", "route none-of-them reads a share of its studies"),
        ({"Modality": "OT"}, None, "no route matches this study"),
    ],
)
def test_what_is_not_read_says_why(bench: Bench, changes: dict[str, str], route: str | None, reason: str) -> None:
    run = bench.run(bench.routed(image(**changes)))
    assert (run.state, run.route) == (State.IGNORED, route)
    assert run.reason.startswith(reason)


def test_what_was_ignored_goes_by_the_rules_as_they_are_when_it_is_tried_again(bench: Bench) -> None:
    dataset = image(Modality="OT")
    run_id = bench.routed(dataset)
    bench.write(RULES + '[[routes]]\nname = "others"\n')
    assert bench.ledger.retry(dataset.StudyInstanceUID) is State.COMPLETE
    assert bench.router.route_complete() == {run_id: State.QUEUED}
    assert bench.run(run_id).route == "others"


def test_an_entry_point_asks_for_a_priority_and_names_a_route(tmp_path: Path, ledger: Ledger) -> None:
    entries = [{"aet": "ER", "priority": "stat"}, {"aet": "TRIAL", "route": "shadow", "priority": "low"}]
    bench = Bench(tmp_path, ledger, entries=entries)
    asked, named, plain = (bench.run(bench.routed(image(), called=aet)) for aet in ("ER", "TRIAL", "MEDREGA"))
    assert (asked.route, asked.priority) == ("rest", Priority.STAT)
    assert (named.route, named.priority) == ("shadow", Priority.LOW)
    assert (plain.route, plain.priority) == ("rest", Priority.ROUTINE)
    with pytest.raises(SettingsError, match="TRIAL names the route shadw, which there is not") as caught:
        Bench(tmp_path, ledger, entries=[{"aet": "TRIAL", "route": "shadw"}])
    assert caught.value.advice == "did you mean shadow?"


def test_without_rules_every_study_takes_the_one_route_there_is(tmp_path: Path, ledger: Ledger) -> None:
    bench = Bench(tmp_path, ledger, routing={}, entries=[{"aet": "ER", "priority": "stat"}])
    run = bench.run(bench.routed(image(Modality="OT"), called="ER"))
    assert (run.state, run.route, run.priority) == (State.QUEUED, "default", Priority.STAT)
    assert len(ledger.headers.unread(10)) == 0  # nothing is read for nobody
    ledger.switches.set_route("default", Action.OFF)
    assert bench.run(bench.routed(image())).state is State.IGNORED


def test_the_earlier_images_of_a_study_count_too(bench: Bench) -> None:
    first = mammogram()
    bench.routed(first)
    late = image(study=first.StudyInstanceUID, series=first.SeriesInstanceUID, Modality="MG")
    assert bench.run(bench.routed(late)).route == "mammography"


def test_a_broken_object_is_told_and_holds_nothing_up(bench: Bench, log: Callable[[], str]) -> None:
    first = mammogram()
    other = image(study=first.StudyInstanceUID, Modality="MG")
    assert bench.run(bench.routed(first, other, raw=b"nothing")).route == "mammography"
    assert log().count("header not read") == 1
    assert other.SOPInstanceUID in log()


def test_a_study_that_cannot_be_decided_on_holds_no_other_one_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    odd, good = image(), image()
    odd_id, good_id = bench.complete(odd), bench.complete(good)
    decide = bench.router.decide

    def fail(run: CompleteRun) -> Decision:
        if run.id == odd_id:
            raise RecursionError("ROE^JANE")
        return decide(run)

    with monkeypatch.context() as patched:
        patched.setattr(bench.router, "decide", fail)
        assert bench.router.route_complete() == {good_id: State.QUEUED}
    run = bench.run(odd_id)
    assert (run.state, run.reason) == (State.FAILED, "the rules could not be worked out (RecursionError)")
    assert bench.ledger.retry(odd.StudyInstanceUID) is State.COMPLETE
    assert bench.router.route_complete() == {odd_id: State.QUEUED}


def test_no_patient_data_reaches_ledger_or_log(bench: Bench, log: Callable[[], str]) -> None:
    bench.routed(mammogram(patient="ROE^JANE"))
    kept = b"".join(path.read_bytes() for path in bench.folder.glob("ledger.sqlite3*"))
    for secret in ("ROE", "Screening", "R. Roe", "061Y"):
        assert secret.encode() not in kept
        assert secret not in log()


def test_rules_are_followed_while_the_node_runs_and_faulty_ones_change_nothing(
    bench: Bench, log: Callable[[], str]
) -> None:
    bench.write(RULES.replace('name = "rest"', 'name = "all"'))
    assert bench.run(bench.routed(image())).route == "all"
    bench.write(RULES.replace("modality == ", "modalty == "))
    assert [bench.run(bench.routed(image())).route for _ in range(2)] == ["all", "all"]
    assert log().count("the rules of routing are wrong; the old ones stay") == 1
    assert "routes.toml:9:9: when: there is no attribute modalty; did you mean modality?" in log()
    bench.rules.unlink()
    assert bench.run(bench.routed(image())).route == "all"
    assert log().count("there is no file of rules") == 1
    bench.write(RULES)
    assert bench.run(bench.routed(image())).route == "rest"


def test_faulty_rules_stop_a_start(bench: Bench) -> None:
    bench.write('[[routes]]\nname = "a"\nwhen = "ag > 3"\n')
    with pytest.raises(SettingsError, match=r"routes\.toml:3:9: when: there is no attribute ag; did you mean age\?"):
        Router(bench.settings, bench.ledger, bench.spool)


def test_headers_are_read_once_in_batches_and_after_a_crash_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    series = image().SeriesInstanceUID
    datasets = [image(study="1.2.3", series=series, BodyPartExamined="CHEST") for _ in range(5)]
    run_id = bench.complete(*datasets)
    monkeypatch.setattr("dicom_node.routing.index._BATCH", 2)
    index = Index(bench.ledger, bench.spool)
    assert index.read() == 2
    again = Index(bench.ledger, bench.spool)  # another process, after the first was killed
    assert [again.read(run_id) for _ in range(3)] == [2, 1, 0]
    assert len(bench.ledger.headers.of_run(run_id)) == 5
    monkeypatch.setattr("dicom_node.routing.index.read_header", None)  # what has been read is not read again
    bench.router.route_complete()
    assert bench.run(run_id).state is State.QUEUED


def test_headers_are_read_while_a_study_arrives(bench: Bench) -> None:
    bench.router.start()
    try:
        dataset = image()
        path = written(bench.spool.path("studies/1"), dataset)
        received = ReceivedInstance(
            "1", "2", dataset.SOPInstanceUID, "3", "1.2.840.10008.1.2.1", "A", str(path.relative_to(bench.spool.root))
        )
        run_id = bench.ledger.intake.record(received)
        assert wait_until(lambda: len(bench.ledger.headers.of_run(run_id)) == 1, 10)
    finally:
        bench.router.stop()


def test_shadow_reads_keeps_and_sends_nothing(bench: Bench) -> None:
    dataset = image(StationName="NEW")
    bench.reader.read(bench.routed(dataset))
    record = bench.ledger.study(dataset.StudyInstanceUID)
    run = record.runs[-1]
    assert (run.state, run.route) == (State.DELIVERED, "shadow")
    assert run.reason == "shadow: nothing is sent; the results stay in the data folder"
    assert {result.kind for result in record.results} >= {"sr", "seg"}
    assert record.deliveries == ()
    assert (run.plan, run.findings) == ("phantom", 1)


def test_a_decision_s_destinations_and_languages_are_kept_to(bench: Bench) -> None:
    dataset = mammogram()
    bench.reader.read(bench.routed(dataset))
    record = bench.ledger.study(dataset.StudyInstanceUID)
    assert {delivery.destination for delivery in record.deliveries} == {"archive"}
    assert {path.parent.name for path in bench.spool.path("results").glob("*/*/*.dcm")} == {"viewer-zh"}
    assert (record.runs[-1].plan, record.runs[-1].findings) == ("phantom", 1)


def test_a_plan_that_a_worker_does_not_have_fails_the_run(bench: Bench) -> None:
    run_id = bench.complete(image())
    bench.ledger.runs.route(run_id, Decision(route="rest", plan="nowhere"))
    bench.reader.read(run_id)
    assert bench.run(run_id).reason == "route rest names the plan nowhere, which this worker does not have"


def test_off_by_hand_stops_what_waits_and_what_comes(bench: Bench) -> None:
    dataset = image()
    waiting, other = bench.routed(dataset), bench.routed(mammogram())
    assert bench.ledger.switches.set_route("rest", Action.OFF, "wrong side") == 1
    assert (bench.run(waiting).state, bench.run(waiting).reason) == (
        State.CANCELLED,
        "route rest was switched off (wrong side)",
    )
    assert bench.run(other).state is State.QUEUED
    assert bench.run(bench.routed(image())).state is State.IGNORED
    with pytest.raises(NodeError, match="route rest was switched off") as caught:
        bench.ledger.retry(dataset.StudyInstanceUID)
    assert caught.value.advice == "`medrega-pacs route on rest` lets it go on"
    assert bench.ledger.switches.set_route("rest", Action.READ) == 0
    bench.ledger.retry(dataset.StudyInstanceUID)
    bench.reader.read(waiting)
    assert bench.run(waiting).state is State.DELIVERING


def test_a_run_that_was_queued_while_its_route_was_switched_off_is_not_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = bench.complete(image())
    bench.ledger.switches.set_route("rest", Action.OFF)
    with monkeypatch.context() as patched:  # the router looked before the switch was set
        patched.setattr("dicom_node.ledger.runs.switched", lambda *_: (Action.READ, ""))
        bench.router.route_complete()
    assert bench.run(run_id).state is State.QUEUED
    bench.reader.read(run_id)
    assert bench.run(run_id).state is State.CANCELLED


def test_what_a_crash_left_on_a_switched_route_is_stopped_by_the_next_sweep(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = bench.routed(image())
    with monkeypatch.context() as patched:
        patched.setattr(type(bench.ledger.switches), "_stop_runs", lambda *_: 0)
        bench.ledger.switches.set_route("rest", Action.OFF)
    assert bench.run(run_id).state is State.QUEUED
    bench.router.route_complete()
    assert bench.run(run_id).state is State.CANCELLED


def test_off_by_hand_breaks_a_reading_off(bench: Bench) -> None:
    script(bench.folder, delay_seconds=60)
    run_id = bench.routed(image())
    reading = threading.Thread(target=bench.reader.read, args=(run_id,))
    reading.start()
    assert wait_until(lambda: bench.run(run_id).state is State.READING)
    bench.ledger.switches.set_route("rest", Action.OFF)
    reading.join(10)  # the model would have taken a minute for each answer
    assert not reading.is_alive()
    assert bench.run(run_id).state is State.CANCELLED
    assert not (bench.spool.root / "readings" / run_id).exists()


@pytest.mark.parametrize(
    ("action", "state", "reason"),
    [
        (Action.OFF, State.CANCELLED, "route rest was switched off"),
        (Action.SHADOW, State.DELIVERED, "route rest was switched to shadow: nothing is sent"),
    ],
)
def test_a_switch_by_hand_stops_deliveries(bench: Bench, action: Action, state: State, reason: str) -> None:
    dataset = image()
    run_id = bench.routed(dataset)
    bench.reader.read(run_id)
    assert bench.ledger.switches.set_route("rest", action) == 1
    run = bench.run(run_id)
    assert (run.state, run.reason) == (state, reason)
    assert {d.state for d in bench.ledger.study(dataset.StudyInstanceUID).deliveries} == {DeliveryState.CANCELLED}
    Deliverer(bench.settings, bench.ledger, bench.spool).deliver(run_id, "pacs")  # a message that was on its way
    assert bench.run(run_id).state is state


def test_a_delivery_under_way_is_broken_off_before_its_next_object(tmp_path: Path, ledger: Ledger) -> None:
    def off(_path: Path) -> None:
        ledger.switches.set_route("rest", Action.OFF)

    with Receiver(tmp_path / "pacs", on_stored=off) as pacs:
        peer = {"name": "pacs", "aet": pacs.peer.aet, "host": pacs.peer.host, "port": pacs.peer.port}
        bench = Bench(tmp_path, ledger, destinations=[peer, PEERS[1]])
        dataset = image()
        run_id = bench.routed(dataset)
        bench.reader.read(run_id)
        bench.reader.close()
        Deliverer(bench.settings, ledger, bench.spool).deliver(run_id, "pacs")
        sent = len(pacs.files)
    states = Counter(delivery.state for delivery in ledger.study(dataset.StudyInstanceUID).deliveries)
    assert 1 <= states.pop(DeliveryState.DELIVERED) <= sent < 4
    assert set(states) == {DeliveryState.CANCELLED}
    assert bench.run(run_id).state is State.CANCELLED


def test_shadow_by_hand_counts_for_readings_under_way(bench: Bench) -> None:
    run_id = bench.routed(image())
    bench.ledger.switches.set_route("rest", Action.SHADOW)
    bench.reader.read(run_id)
    assert bench.run(run_id).reason == "route rest was switched to shadow: nothing is sent"
    assert bench.run(run_id).state is State.DELIVERED


def invoke(bench: Bench, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["route", *arguments], env=bench.settings.to_environment())
    said = str(done.exception) if done.exception and not isinstance(done.exception, SystemExit) else ""
    return done.exit_code, " ".join((done.output + said).split())


def test_the_commands_switch_list_check_and_explain(bench: Bench, tmp_path: Path) -> None:
    bench.routed(image())
    assert invoke(bench, "check") == (
        0,
        f"{bench.rules}: the rules are right: shadow, mammography, off, none-of-them, rest",
    )
    assert "there is no route rst; did you mean rest?" in re.sub(r" │ │ ", " ", invoke(bench, "off", "rst")[1])
    assert "route rest is off; 1 study cancelled" in invoke(bench, "off", "rest", "--reason", "drill")[1]
    assert "off by hand (drill)" in invoke(bench, "list")[1]
    assert '"by_hand": { "action": "off"' in invoke(bench, "list", "--json")[1]
    bench.write("[[routes]]")  # a kill switch works whatever has become of the rules
    assert invoke(bench, "shadow", "rest")[1].endswith("route rest is in shadow; 0 studies will have nothing more sent")
    status, said = invoke(bench, "check")
    assert (status, said) == (1, f"medrega-pacs: {bench.rules}:1:1: name: is missing")
    assert '"column": 1, "why": "name: is missing"' in invoke(bench, "check", "--json")[1]
    bench.write(RULES)
    assert invoke(bench, "on", "rest") == (0, "route rest goes by its rule again")
    folder = tmp_path / "study"
    written(folder, mammogram(PatientAge="012Y"))
    status, said = invoke(bench, "test", str(folder), "--called", "ER", "--at", "03:00")
    assert status == 0
    assert "not read: no route matches this study" in said
    assert 'station == "NEW" cannot be decided: station stands in no header of the study' in said
    assert "age >= 40 is false: age is 12" in said
    assert '"time": "03:00"' in invoke(bench, "test", str(folder), "--at", "03:00", "--json")[1]
    written(folder, image(study="1.2.3"))
    assert (
        "study 1.2.3: route rest, read, priority routine, the plan that fits best"
        in invoke(bench, "test", str(folder))[1]
    )


def test_a_spooled_study_is_explained_as_it_came(bench: Bench) -> None:
    dataset = image()
    dataset.file_meta.ReceivingApplicationEntityTitle = "ER"
    path = written(bench.folder / "study", dataset)
    assert '"called_aet": "ER"' in invoke(bench, "test", os.fspath(path), "--json")[1]


def test_a_clock_is_the_site_s(clock: Clock, bench: Bench) -> None:
    bench.write('[[routes]]\nname = "noon"\nwhen = \'time == "12:00" && weekday == "sun"\'\n')
    assert clock().hour == 12
    assert bench.run(bench.routed(image())).route == "noon"
