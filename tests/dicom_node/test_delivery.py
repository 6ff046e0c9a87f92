"""Delivery to real receivers on loopback, and to those that are not there, refuse, or never answer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from listener_bench import Scp
from node_bench import Clock, image, node_settings, written
from ports import free_port
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, StoragePresentationContexts, VerificationPresentationContexts, evt
from pynetdicom.sop_class import ComputedRadiographyImageStorage, Verification
from queued import queue_complete

from dicom_node.delivery.deliverer import PERMANENT_ATTEMPTS, Deliverer
from dicom_node.dimse.receiver import Receiver
from dicom_node.ledger import DeliveryState, Ledger, State
from dicom_node.ledger.deliveries import AT_ONCE
from dicom_node.ledger.records import Circuit, DeliveryRecord, ReceivedInstance, StoredResult
from dicom_node.queue.dispatch import Dispatcher
from dicom_node.spool import Spool
from engine.errors import NodeError

# pynetdicom drops a socket whose connection was refused without closing it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


class Bench:
    """A deliverer and a study with stored results."""

    def __init__(self, folder: Path, ledger: Ledger, clock: Clock, *ports: int, **changes: Any) -> None:
        destinations = [{"name": f"pacs{number}", "aet": "PACS", "port": port} for number, port in enumerate(ports)]
        self.settings = node_settings(folder, destinations=destinations, **changes)
        self.ledger, self.clock = ledger, clock
        self.spool = Spool(self.settings.data.path)
        self.deliverer = Deliverer(self.settings, ledger, self.spool, clock)
        self.uids: list[str] = []
        self.run_id = self._deliverable(folder, [destination.name for destination in self.settings.destinations])

    def another(self, study: str, folder: Path) -> str:
        """Another study for the same destinations; its run."""
        return self._deliverable(folder, [destination.name for destination in self.settings.destinations], study)

    def _deliverable(self, folder: Path, names: list[str], study: str = "1.2.3") -> str:
        run_id = self.ledger.intake.record(
            ReceivedInstance(study, f"{study}.1", f"{study}.2", "1.2", "1.2", "CT1", f"{study}.dcm")
        )
        run = self.ledger.intake.receiving()[0]
        self.ledger.intake.complete(run_id, run.last_image_at, "quiet")
        queue_complete(self.ledger)
        claim = self.ledger.runs.claim(run_id, "elsewhere:1:1", 60)
        assert claim is not None
        self.ledger.runs.reading_stored(claim, "d" * 64)
        results = []
        for kind in ("sr", "seg"):
            dataset = image(study=study)
            content = written(folder / "made", dataset).read_bytes()
            path, digest = self.spool.store_result(run_id, "viewer-en", kind, content)
            results.append(
                StoredResult(dataset.SOPInstanceUID, dataset.SOPClassUID, dataset.SeriesInstanceUID, kind, digest, path)
            )
            self.uids.append(dataset.SOPInstanceUID)
        self.ledger.runs.results_stored(claim, dict.fromkeys(names, results))
        return run_id

    def deliver(self, number: int = 0) -> None:
        self.deliverer.deliver(self.run_id, f"pacs{number}")

    @property
    def state(self) -> State:
        return self.ledger.study("1.2.3").runs[0].state

    @property
    def reason(self) -> str:
        return self.ledger.study("1.2.3").runs[0].reason

    @property
    def deliveries(self) -> tuple[DeliveryRecord, ...]:
        return self.ledger.study("1.2.3").deliveries


@contextmanager
def answering(answer: Callable[[evt.Event], int], **options: Any) -> Iterator[int]:
    """A storage SCP that answers as told; its port."""
    entity = AE("PACS")
    entity.add_supported_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    for name, value in options.items():
        setattr(entity, name, value)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def test_all_results_arrive_byte_for_byte_in_one_association(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    associations = set()

    def stored(event: evt.Event) -> int:
        associations.add(event.assoc)
        return 0

    with answering(stored) as port:
        bench = Bench(tmp_path, ledger, clock, port)
        bench.deliver()
    assert (bench.state, len(associations)) == (State.DELIVERED, 1)
    assert all(delivery.delivered_at == clock() and delivery.attempts == 1 for delivery in bench.deliveries)


def test_what_arrives_is_what_was_stored(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    with Receiver(tmp_path / "pacs") as pacs:
        bench = Bench(tmp_path, ledger, clock, pacs.peer.port)
        bench.deliver()
        bench.deliver()  # the same message again
        assert [path.stem for path in pacs.files] == bench.uids
    assert bench.state is State.DELIVERED


def test_a_destination_that_is_down_is_tried_with_growing_delays_until_it_is_back(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    port = free_port()
    bench = Bench(tmp_path, ledger, clock, port, delivery={"first_delay_seconds": 10, "max_delay_seconds": 60})
    waits = []
    for _ in range(5):
        bench.deliver()
        bench.deliver()  # not due: nothing happens
        due = bench.deliveries[0].next_attempt_at
        assert due is not None
        waits.append((due - clock()).total_seconds())
        assert bench.state is State.DELIVERING
        clock.forward(waits[-1] + 0.01)
    assert "cannot be reached" in bench.deliveries[0].reason
    assert len({delivery.next_attempt_at for delivery in bench.deliveries}) == 1  # they go together
    for wait, expected in zip(waits, (10, 20, 40, 60, 60), strict=True):
        assert 0.8 * expected <= wait <= 1.2 * expected
    with Receiver(tmp_path / "pacs", port=port) as pacs:
        clock.forward(100)
        bench.deliver()
        assert len(pacs.files) == 2
    assert bench.state is State.DELIVERED


def test_it_is_given_up_after_the_hours_set_and_retry_starts_anew(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    bench = Bench(tmp_path, ledger, clock, free_port(), delivery={"max_hours": 48})
    bench.deliver()
    clock.forward(49 * 3600)
    bench.deliver()
    assert bench.state is State.FAILED
    assert "cannot be reached" in bench.reason
    bench.ledger.retry("1.2.3")
    bench.deliver()
    assert bench.state is State.DELIVERING


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0xA900, 0xC001])
def test_a_refusal_for_good_fails_after_few_attempts(tmp_path: Path, ledger: Ledger, clock: Clock, status: int) -> None:
    with answering(lambda _event: status) as port:
        bench = Bench(tmp_path, ledger, clock, port)
        for attempt in range(PERMANENT_ATTEMPTS):
            assert bench.state is State.DELIVERING, attempt
            bench.deliver()
            clock.forward(3600)
    assert bench.state is State.FAILED
    assert f"0x{status:04X}" in bench.reason
    assert {delivery.status for delivery in bench.deliveries} == {status}


def test_a_peer_that_comes_back_refusing_once_is_not_given_up(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    port = free_port()
    bench = Bench(tmp_path, ledger, clock, port)
    for _ in range(2 * PERMANENT_ATTEMPTS):  # away, as in a maintenance window
        bench.deliver()
        clock.forward(3600)
    entity = AE("PACS")
    entity.add_supported_context("1.2.840.10008.1.1")  # its storage is not up yet
    server = entity.start_server(("127.0.0.1", port), block=False)
    assert server is not None
    bench.deliver()
    server.shutdown()
    assert bench.state is State.DELIVERING
    clock.forward(3600)
    with Receiver(tmp_path / "pacs", port=port):
        bench.deliver()
    assert bench.state is State.DELIVERED


def test_a_host_name_that_does_not_resolve_is_tried_for_hours(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    bench = Bench(tmp_path, ledger, clock, free_port())
    elsewhere = [{"name": "pacs0", "aet": "PACS", "host": "pacs.invalid", "port": 104}]
    deliverer = Deliverer(node_settings(tmp_path, destinations=elsewhere), ledger, bench.spool, clock)
    for _ in range(2 * PERMANENT_ATTEMPTS):
        deliverer.deliver(bench.run_id, "pacs0")
        clock.forward(3600)
    assert bench.state is State.DELIVERING
    assert "host name" in bench.deliveries[0].reason


def test_a_worker_quicker_than_its_dispatcher_leaves_no_trace_of_a_message(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    bench = Bench(tmp_path, ledger, clock, free_port())

    class AtOnce:
        def send_task(self, _name: str, args: list[str], **_options: Any) -> None:
            bench.deliverer.deliver(*args)

    dispatcher = Dispatcher(bench.settings, ledger, AtOnce(), clock)  # type: ignore[arg-type]
    dispatcher.dispatch_deliveries()
    assert bench.deliveries[0].attempts == 1
    clock.forward(3600)
    assert ledger.deliveries.to_dispatch(clock()) == ([(bench.run_id, "pacs0")], [])
    (summary,) = ledger.studies()
    assert summary.reason.startswith("pacs0: PACS@127.0.0.1")
    assert "is it running" in summary.reason


def test_a_full_peer_is_tried_again(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    answers = iter([0xA700] * 10 + [0] * 2)
    with answering(lambda _event: next(answers)) as port:
        bench = Bench(tmp_path, ledger, clock, port)
        for _ in range(6):
            assert bench.state is State.DELIVERING
            bench.deliver()
            clock.forward(3600)
    assert bench.state is State.DELIVERED


def test_warnings_count_as_delivered_and_are_recorded(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    with answering(lambda _event: 0xB000) as port:
        bench = Bench(tmp_path, ledger, clock, port)
        bench.deliver()
    assert bench.state is State.DELIVERED
    assert bench.reason == "2 with a warning"
    assert bench.deliveries[0].status == 0xB000


def test_a_peer_that_takes_nothing_we_offer_fails(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    entity = AE("PACS")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.2")
    server = entity.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    bench = Bench(tmp_path, ledger, clock, server.server_address[1])
    for _ in range(PERMANENT_ATTEMPTS):
        bench.deliver()
        clock.forward(3600)
    server.shutdown()
    assert bench.state is State.FAILED


def test_a_peer_that_never_answers_is_left_in_time(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    release = threading.Event()

    def silent(_event: evt.Event) -> int:
        release.wait(20)
        return 0

    with answering(silent) as port:
        bench = Bench(tmp_path, ledger, clock, port, delivery={"dimse_timeout_seconds": 0.5})
        bench.deliver()
        release.set()
    assert bench.state is State.DELIVERING
    assert "did not answer" in bench.deliveries[0].reason


def test_a_peer_that_aborts_in_mid_transfer_gets_only_the_rest(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    arrived: list[str] = []

    def abort_second(event: evt.Event) -> int:
        if len(arrived) == 1:
            arrived.append("aborted")
            event.assoc.abort()
            return 0
        arrived.append(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
        return 0

    with answering(abort_second) as port:
        bench = Bench(tmp_path, ledger, clock, port)
        bench.deliver()
        assert [delivery.state for delivery in bench.deliveries] == [DeliveryState.DELIVERED, DeliveryState.PENDING]
        clock.forward(3600)
        bench.deliver()
    assert arrived == [bench.uids[0], "aborted", bench.uids[1]]
    assert bench.state is State.DELIVERED


def test_an_object_that_a_peer_chokes_on_shuts_out_no_other_study(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    poison: list[str] = []

    def choke(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID in poison:  # type: ignore[union-attr]
            event.assoc.abort()
        return 0

    def deliver() -> None:
        due, _ = ledger.deliveries.to_dispatch(clock())
        for shipment in due:
            bench.deliverer.deliver(*shipment)

    with answering(choke) as port:
        bench = Bench(tmp_path, ledger, clock, port)
        poison.append(bench.uids[1])
        for _ in range(7):
            deliver()
            clock.forward(1000)
        assert ledger.destinations.circuit("pacs0") is not Circuit.CLOSED
        bench.another("1.2.4", tmp_path)
        deliver()
    assert ledger.study("1.2.4").runs[0].state is State.DELIVERED


def test_one_destination_that_is_down_does_not_hold_up_the_other(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    with Receiver(tmp_path / "pacs") as pacs:
        bench = Bench(tmp_path, ledger, clock, free_port(), pacs.peer.port)
        bench.deliver(0)
        bench.deliver(1)
        assert len(pacs.files) == 2
    assert bench.state is State.DELIVERING


def test_a_stored_result_that_was_changed_is_not_sent(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    with Receiver(tmp_path / "pacs") as pacs:
        bench = Bench(tmp_path, ledger, clock, pacs.peer.port)
        path = next(bench.spool.root.glob("results/*/*/sr.dcm"))
        path.write_bytes(path.read_bytes() + b"\0")
        for _ in range(PERMANENT_ATTEMPTS):
            bench.deliver()
            clock.forward(3600)
        assert [file.stem for file in pacs.files] == bench.uids[1:]
    assert bench.state is State.FAILED
    assert "not as it was made" in bench.reason


def test_a_destination_that_is_no_longer_set_fails_with_that_reason(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    bench = Bench(tmp_path, ledger, clock, free_port())
    deliverer = Deliverer(node_settings(tmp_path), ledger, bench.spool, clock)
    for _ in range(PERMANENT_ATTEMPTS):
        deliverer.deliver(bench.run_id, "pacs0")
        clock.forward(3600)
    assert bench.state is State.FAILED
    assert "no destination is named 'pacs0'" in bench.reason


def test_a_secret_that_is_gone_is_told_and_what_has_arrived_stays(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    with Receiver(tmp_path / "pacs") as pacs:
        bench = Bench(tmp_path, ledger, clock, pacs.peer.port)
        table = {"name": "pacs0", "aet": "PACS", "port": pacs.peer.port, "user": "node"}
        settings = node_settings(tmp_path, destinations=[table | {"password_file": tmp_path / "gone"}])
        Deliverer(settings, ledger, bench.spool, clock).deliver(bench.run_id, "pacs0")
        assert bench.state is State.DELIVERING
        assert "the secret in" in bench.deliveries[0].reason
        clock.forward(3600)
        bench.deliver()
    assert bench.state is State.DELIVERED


def test_a_large_result_on_a_slow_line_is_sent_by_one_worker(
    tmp_path: Path, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.delivery.deliverer._SLOWEST", 1)  # so that a small one is large
    others: list[object] = []

    def take(_event: evt.Event) -> int:
        clock.forward(300)
        others.extend(ledger.deliveries.claim(bench.run_id, "pacs0", "elsewhere:1:1", 60))
        return 0

    with answering(take) as port:
        bench = Bench(tmp_path, ledger, clock, port)
        bench.deliver()
    assert bench.state is State.DELIVERED
    assert others == []


class Asked:
    """Counts what reaches a destination: C-ECHO and C-STORE."""

    def __init__(self) -> None:
        self.echoes = self.stores = 0

    def echo(self, _event: evt.Event) -> int:
        self.echoes += 1
        return 0

    def store(self, _event: evt.Event) -> int:
        self.stores += 1
        return 0


@contextmanager
def counting(port: int) -> Iterator[Asked]:
    asked = Asked()
    entity = AE("PACS")
    entity.add_supported_context(Verification)
    entity.add_supported_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    handlers = [(evt.EVT_C_ECHO, asked.echo), (evt.EVT_C_STORE, asked.store)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield asked
    finally:
        server.shutdown()


def circuit(bench: Bench, name: str = "pacs0") -> tuple[str, int, int]:
    (record,) = (one for one in bench.ledger.destinations.all([name]) if one.name == name)
    return record.circuit, record.failures, record.waiting


def test_a_destination_that_is_down_is_asked_by_one_and_once_it_answers_all_is_due(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    port = free_port()
    bench = Bench(tmp_path, ledger, clock, port, delivery={"breaker_failures": 2, "probe_seconds": 30})
    other = bench.another("1.2.4", tmp_path)
    due = [(bench.run_id, "pacs0"), (other, "pacs0")]
    assert ledger.deliveries.to_dispatch(clock()) == (due, [])
    for run_id, _ in due:
        bench.deliverer.deliver(run_id, "pacs0")
    assert circuit(bench) == ("open", 2, 4)
    clock.forward(29)
    assert ledger.deliveries.to_dispatch(clock()) == ([], [])
    bench.deliverer.deliver(bench.run_id, "pacs0")  # a message that came late
    assert circuit(bench) == ("open", 2, 4)
    clock.forward(2)
    assert ledger.deliveries.to_dispatch(clock()) == (due[:1], [])
    bench.deliverer.deliver(*due[0])
    assert circuit(bench) == ("open", 3, 4)
    assert [delivery.attempts for delivery in bench.deliveries] == [1, 1]  # a question is no attempt
    clock.forward(31)
    with counting(port) as asked:
        bench.deliverer.deliver(*due[0])
        assert (asked.echoes, asked.stores) == (1, 2)
        assert circuit(bench) == ("closed", 0, 2)
        assert ledger.deliveries.to_dispatch(clock()) == (due[1:], [])
        bench.deliverer.deliver(*due[1])
        assert (asked.echoes, asked.stores) == (1, 4)
    assert circuit(bench) == ("closed", 0, 0)


def test_what_waits_too_long_for_a_destination_that_is_down_fails_without_being_tried(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    bench = Bench(tmp_path, ledger, clock, free_port(), delivery={"breaker_failures": 1, "max_hours": 48})
    bench.another("1.2.4", tmp_path)
    bench.deliver()
    clock.forward(49 * 3600)
    bench.deliver()
    assert {summary.state for summary in ledger.studies()} == {State.FAILED}
    assert all("cannot be reached" in summary.reason for summary in ledger.studies())


def test_a_destination_that_answers_and_does_not_store_stays_shut(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    def drop(event: evt.Event) -> int:
        event.assoc.abort()
        return 0

    with answering(drop, supported_contexts=StoragePresentationContexts + VerificationPresentationContexts) as port:
        bench = Bench(tmp_path, ledger, clock, port, delivery={"breaker_failures": 2})
        for _ in range(4):
            bench.deliver()
            clock.forward(3600)
    assert circuit(bench) == ("half-open", 4, 2)


def test_a_refused_object_does_not_open_the_circuit(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    with answering(lambda _event: 0xA700) as port:
        bench = Bench(tmp_path, ledger, clock, port, delivery={"breaker_failures": 1})
        bench.deliver()
    assert circuit(bench) == ("closed", 0, 2)


def test_a_paused_destination_gets_nothing_until_it_is_resumed(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    with counting(free := free_port()) as asked:
        bench = Bench(tmp_path, ledger, clock, free, delivery={"max_hours": 48})
        assert ledger.destinations.pause("pacs0")
        assert not ledger.destinations.pause("pacs0")
        assert ledger.deliveries.to_dispatch(clock()) == ([], [])
        bench.deliver()
        assert asked.stores == 0
        clock.forward(100 * 3600)
        assert ledger.destinations.resume("pacs0") == 2
        with pytest.raises(NodeError, match="not paused"):
            ledger.destinations.resume("pacs0")
        bench.deliver()
        assert asked.stores == 2
    assert bench.state is State.DELIVERED


def test_a_destination_that_is_slow_gets_no_more_than_its_share_of_the_workers(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    bench = Bench(tmp_path, ledger, clock, free_port(), free_port())
    runs = [bench.run_id, *(bench.another(f"1.2.{number}", tmp_path) for number in (4, 5, 6))]
    due = [(run_id, name) for run_id in runs[:AT_ONCE] for name in ("pacs0", "pacs1")]
    assert sorted(ledger.deliveries.to_dispatch(clock())[0]) == sorted(due)
    ledger.deliveries.dispatched(due)
    assert ledger.deliveries.claim(runs[0], "pacs0", "elsewhere:1:1", 60)
    assert ledger.deliveries.to_dispatch(clock() - timedelta(1)) == ([], [])


def test_over_tls_results_arrive_and_a_wrong_certificate_is_told(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other")
    (tmp_path / "scp").mkdir()
    with Scp(tmp_path / "scp", tls=authority.issue("pacs").tls(authority.ca)) as scp:
        bench = Bench(tmp_path, ledger, clock, scp.port)
        certificate = authority.issue("node")
        for ca, expected in ((stranger.ca, State.DELIVERING), (authority.ca, State.DELIVERED)):
            tls = certificate.tls(ca).model_dump()
            table = {"name": "pacs0", "aet": "MEDREGA", "port": scp.port, "tls": tls}
            settings = node_settings(tmp_path, destinations=[table])
            Deliverer(settings, ledger, bench.spool, clock).deliver(bench.run_id, "pacs0")
            assert bench.state is expected
            assert expected is State.DELIVERED or "certificate is not accepted" in bench.deliveries[0].reason
            clock.forward(3600)
