"""Storage commitment with peers that wait, go, come back late, lie, and use a transaction twice."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fronts import Front, radiograph, stored
from node_bench import wait_until
from ports import free_port
from pydicom import dcmwrite
from pydicom.uid import ComputedRadiographyImageStorage, CTImageStorage, generate_uid
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.presentation import build_context, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]
from sqlalchemy import select

from dicom_node.dimse import scu
from dicom_node.dimse.commitment import SOP_CLASS, SOP_INSTANCE, Report, Request
from dicom_node.ledger import DeliveryState, State
from dicom_node.ledger.models import Commitment, CommitmentState
from dicom_node.ledger.records import StoredResult
from dicom_node.spool import Spool

# pynetdicom drops a socket whose connection was refused without closing it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    with ExitStack() as stack:

        def start(**changes: Any) -> Front:
            front = Front(tmp_path, **changes)
            stack.callback(front.stop)
            return front

        yield start


class Modality:
    """A sender: keeps an association open, and hears reports on it or on a port of its own."""

    def __init__(self, port: int = 0) -> None:
        self.reports: list[Report] = []
        self.roles: list[str] = []
        self.status = 0
        self.refuses = 0
        """Which report it answers by a failure, counted from 1."""
        self._heard = threading.Condition()
        self._entity = AE("CT1")
        self._entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self._server = self._entity.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._report)]
        )
        assert self._server is not None
        self.port: int = self._server.server_address[1]

    def _report(self, event: evt.Event) -> tuple[int, None]:
        with self._heard:
            self.reports.append(Report.from_dataset(event.event_information))
            self.roles.append(event.assoc.mode)
            assert event.event_type == self.reports[-1].event_type
            self._heard.notify_all()
            return (0x0110 if len(self.reports) == self.refuses else self.status), None

    def wait_for(self, count: int) -> bool:
        with self._heard:
            return self._heard.wait_for(lambda: len(self.reports) >= count, 20)

    @contextmanager
    def association(self, peer: scu.Peer) -> Iterator[Any]:
        contexts = [build_context(StorageCommitmentPushModel), build_context(ComputedRadiographyImageStorage)]
        handlers = [(evt.EVT_N_EVENT_REPORT, self._report)]
        with scu.associate(peer, contexts, "CT1", scu.Timeouts(), handlers=handlers) as association:
            yield association

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()


@pytest.fixture
def modality() -> Iterator[Modality]:
    modality = Modality()
    yield modality
    modality.stop()


def ask(association: Any, *references: tuple[str, str], transaction: str = "", action: int = 1) -> int:
    request = Request(transaction or str(generate_uid()), references)
    answer, _ = association.send_n_action(request.to_dataset(), action, SOP_CLASS, SOP_INSTANCE)
    return int(answer.Status)


def image_of(association: Any) -> tuple[str, str]:
    dataset = radiograph("1.2.7")
    assert association.send_c_store(dataset).Status == 0
    return str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)


def test_a_sender_that_waits_hears_on_its_own_association_and_says_why(
    start: Callable[..., Front], modality: Modality
) -> None:
    front = start()
    front.start()
    with modality.association(front.peer) as association:
        kept, lost = image_of(association), image_of(association)
        next(front.spool.root.glob(f"studies/*/{lost[1]}.dcm")).write_bytes(b"")
        other = str(CTImageStorage), kept[1]
        never = kept[0], str(generate_uid())
        assert ask(association, kept, lost, other, never, kept) == 0
        assert modality.wait_for(1)
        assert association.is_established
    (report,) = modality.reports
    assert modality.roles == ["requestor"]
    assert report.kept == (kept,)
    assert report.not_kept == {lost: 0x0112, other: 0x0119, never: 0x0112}


def test_what_is_told_as_kept_is_on_the_disk_even_before_the_association_is_released(
    start: Callable[..., Front], modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = Spool.sync
    front = start(listener={"port": free_port(), "durability": "association"})

    def noted(spool: Spool, paths: Iterable[str]) -> None:
        here = list(paths)
        sync(spool, here)
        synced.extend(path.rpartition("/")[2] for path in here)

    monkeypatch.setattr(Spool, "sync", noted)
    front.start()
    with modality.association(front.peer) as association:
        kept = image_of(association)
        assert synced == []
        assert ask(association, kept) == 0
        assert modality.wait_for(1)
        assert synced == [f"{kept[1]}.dcm"]
    assert modality.reports[0].kept == (kept,)


def test_a_sender_that_goes_hears_on_a_new_association_however_often_it_is_tried(
    start: Callable[..., Front], modality: Modality
) -> None:
    front = start(commitment_peers=[{"aet": "CT1", "host": "127.0.0.1", "port": modality.port}])
    modality.status = 0x0110
    front.start()
    with modality.association(front.peer) as association:
        kept = image_of(association)
        assert ask(association, kept) == 0
    assert modality.wait_for(2)
    modality.status = 0
    assert modality.wait_for(3)
    assert {report.kept for report in modality.reports} == {(kept,)}
    assert set(modality.roles) == {"acceptor"}
    assert wait_until(lambda: any(event.kind == "commitment" for event in front.ledger.study("1.2.7").events))


def test_each_report_has_an_answer_of_its_own(start: Callable[..., Front], modality: Modality) -> None:
    front = start(commitment_peers=[{"aet": "CT1", "host": "127.0.0.1", "port": modality.port}])
    front.start()
    modality.refuses = 2
    transactions = [str(generate_uid()) for _ in range(2)]
    with modality.association(front.peer) as association:
        for transaction in transactions:
            assert ask(association, image_of(association), transaction=transaction) == 0
        assert modality.wait_for(3)  # the one that was refused again
    assert {report.transaction_uid for report in modality.reports} == set(transactions)


def test_a_report_is_owed_after_a_crash(start: Callable[..., Front], tmp_path: Path, modality: Modality) -> None:
    front = start(commitment_peers=[{"aet": "CT1", "host": "127.0.0.1", "port": modality.port}])
    with modality.association(front.peer) as association:  # nobody reports: the process ends here
        assert ask(association, image_of(association)) == 0
    assert front.ledger.commitments.reports_due() == []
    with front.ledger._database.write() as session:  # time passes
        session.connection().exec_driver_sql("UPDATE commitment_report SET next_attempt_at = '2026-01-01 00:00:00'")
    again = Front(tmp_path, commitment_peers=[table.model_dump() for table in front.settings.commitment_peers])
    again.start()
    assert modality.wait_for(1)
    again.stop()


def test_requests_that_cannot_be_are_refused(start: Callable[..., Front], modality: Modality) -> None:
    front = start()
    with modality.association(front.peer) as association:
        kept = image_of(association)
        assert ask(association, kept, transaction="1.2.3.4") == 0
        assert ask(association, kept, transaction="1.2.3.4") == 0x0115
        assert ask(association, kept, action=2) == 0x0123
        assert ask(association) == 0x0115
        assert ask(association, ("", kept[1])) == 0x0115
        named = Request("1.2.3.5", (kept,)).to_dataset()
        answer, _ = association.send_n_action(named, 1, SOP_CLASS, "1.2.3")
        assert answer.Status == 0x0112


def test_senders_are_not_answered_where_that_is_switched_off(start: Callable[..., Front], modality: Modality) -> None:
    front = start(commitment={"answers": False})
    with modality.association(front.peer) as association:
        assert [context.abstract_syntax for context in association.accepted_contexts] == [
            ComputedRadiographyImageStorage
        ]


class Archive:
    """A destination that stores, and reports as told: on the same association, on a new one, or not at all."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.asked = threading.Event()
        self.heard: queue.Queue[int | None] = queue.Queue()
        self.report: Callable[[Request], Report | None] = lambda request: Report(
            request.transaction_uid, request.references, {}
        )
        entity = AE("PACS")
        entity.add_supported_context(StorageCommitmentPushModel)
        entity.add_supported_context(ComputedRadiographyImageStorage, ALL_TRANSFER_SYNTAXES)  # type: ignore[arg-type]
        self._server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_N_ACTION, self._asked), (evt.EVT_C_STORE, lambda _event: 0)],
        )
        assert self._server is not None
        self.port: int = self._server.server_address[1]

    def _asked(self, event: evt.Event) -> tuple[int, None]:
        request = Request.from_dataset(event.action_information)
        self.requests.append(request)
        self.asked.set()
        report = self.report(request)
        if report is not None:
            threading.Timer(0.1, self._tell, (event.assoc, report)).start()
        return 0, None

    def _tell(self, association: Any, report: Report) -> None:
        answer, _ = association.send_n_event_report(report.to_dataset(), report.event_type, SOP_CLASS, SOP_INSTANCE)
        self.heard.put(answer.get("Status"))

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()


@pytest.fixture
def archive() -> Iterator[Archive]:
    archive = Archive()
    yield archive
    archive.stop()


def destination(archive: Archive, name: str = "pacs", **changes: Any) -> dict[str, Any]:
    return {"name": name, "aet": "PACS", "host": "127.0.0.1", "port": archive.port, "commitment": True, **changes}


def tell(front: Front, report: Report) -> int:
    """Report to the node on a new association, with the role that an SCP asks for."""
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    contexts = [build_context(StorageCommitmentPushModel)]
    with scu.associate(front.peer, contexts, "OTHER", scu.Timeouts(), roles=[role]) as association:
        assert association.accepted_contexts[0].as_scp
        answer, _ = association.send_n_event_report(report.to_dataset(), report.event_type, SOP_CLASS, SOP_INSTANCE)
    return int(answer.Status)


def test_results_are_committed_on_the_same_association(start: Callable[..., Front], archive: Archive) -> None:
    front = start(destinations=[destination(archive)], commitment={"wait_seconds": 20})
    run_id, uids = stored(front.ledger, front.spool, ["pacs"])
    front.deliver(run_id, "pacs")
    front.start()
    assert wait_until(lambda: front.state(run_id) is State.COMMITTED)
    (request,) = archive.requests
    assert [uid for _, uid in request.references] == uids
    assert front.ledger.study("1.2.3").runs[0].reason == "kept by pacs"


def test_a_report_is_answered_before_the_association_is_released(
    start: Callable[..., Front], archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = DIMSEServiceProvider.send_msg

    def slowly(provider: DIMSEServiceProvider, primitive: Any, context_id: int) -> None:
        if isinstance(primitive, N_EVENT_REPORT) and primitive.MessageIDBeingRespondedTo is not None:
            time.sleep(0.3)  # long enough for a release that does not wait
        send(provider, primitive, context_id)

    monkeypatch.setattr(DIMSEServiceProvider, "send_msg", slowly)
    front = start(destinations=[destination(archive)])
    run_id, _ = stored(front.ledger, front.spool, ["pacs"])
    front.start()
    front.deliver(run_id, "pacs")
    assert archive.heard.get(timeout=20) == 0


def test_a_run_is_committed_once_every_destination_that_is_asked_has_committed(
    start: Callable[..., Front], archive: Archive
) -> None:
    archive.report = lambda _request: None
    front = start(
        destinations=[destination(archive), destination(archive, "b"), destination(archive, "c", commitment=False)]
    )
    run_id, _ = stored(front.ledger, front.spool, ["pacs", "b", "c"])
    for name in ("pacs", "b", "c"):
        front.deliver(run_id, name)
    front.start()
    assert wait_until(lambda: len(archive.requests) == 2)
    first, second = archive.requests
    assert tell(front, Report(first.transaction_uid, first.references, {})) == 0
    assert front.state(run_id) is State.DELIVERED
    assert tell(front, Report(first.transaction_uid, first.references, {})) == 0  # once more does no harm
    assert tell(front, Report("1.2.3.4", second.references, {})) == 0x0115
    assert front.state(run_id) is State.DELIVERED
    assert tell(front, Report(second.transaction_uid, second.references, {})) == 0
    assert front.state(run_id) is State.COMMITTED


def test_a_run_is_committed_when_another_destination_has_its_results_after_the_report(
    start: Callable[..., Front], archive: Archive
) -> None:
    front = start(destinations=[destination(archive), destination(archive, "slow", commitment=False)])
    run_id, _ = stored(front.ledger, front.spool, ["pacs", "slow"])
    front.deliver(run_id, "pacs")
    front.start()

    def reported() -> bool:
        with front.ledger._database.read() as session:
            return session.scalar(select(Commitment.state)) is CommitmentState.REPORTED

    assert wait_until(reported)
    assert front.state(run_id) is State.DELIVERING
    front.deliver(run_id, "slow")
    assert wait_until(lambda: front.state(run_id) is State.COMMITTED)
    assert front.ledger.study("1.2.3").runs[0].reason == "kept by pacs"


def test_a_rejection_note_is_asked_for_at_once_though_the_results_were_reported(
    start: Callable[..., Front], archive: Archive
) -> None:
    front = start(destinations=[destination(archive)], commitment={"wait_seconds": 20})
    run_id, uids = stored(front.ledger, front.spool, ["pacs"])
    front.deliver(run_id, "pacs")
    front.start()
    assert wait_until(lambda: front.state(run_id) is State.COMMITTED)
    note, content = radiograph("1.2.3"), BytesIO()
    dcmwrite(content, note, enforce_file_format=True)
    path, digest = front.spool.store_result(run_id, "note", "retraction", content.getvalue())
    uid = note.SOPInstanceUID
    result = StoredResult(uid, note.SOPClassUID, note.SeriesInstanceUID, "retraction", digest, path)
    front.ledger.retractions.enter(run_id, {"pacs": result}, "quality")
    front.deliver(run_id, "pacs")
    assert wait_until(lambda: front.state(run_id) is State.COMMITTED)
    assert [[uid for _, uid in request.references] for request in archive.requests] == [uids, [uid]]


def test_a_destination_that_does_not_report_is_asked_anew_and_its_late_answer_counts(
    start: Callable[..., Front], archive: Archive
) -> None:
    archive.report = lambda _request: None
    front = start(destinations=[destination(archive)], commitment={"timeout_seconds": 0.3})
    run_id, _ = stored(front.ledger, front.spool, ["pacs"])
    front.deliver(run_id, "pacs")
    front.start()
    assert wait_until(lambda: len(archive.requests) >= 2)
    first = archive.requests[0]
    assert len({request.transaction_uid for request in archive.requests}) == len(archive.requests)
    assert tell(front, Report(first.transaction_uid, first.references, {})) == 0
    assert front.state(run_id) is State.COMMITTED


def test_what_is_not_kept_is_sent_again_and_given_up_in_the_end(start: Callable[..., Front], archive: Archive) -> None:
    archive.report = lambda request: Report(
        request.transaction_uid, request.references[1:], {request.references[0]: 0x0112}
    )
    front = start(destinations=[destination(archive)])
    run_id, uids = stored(front.ledger, front.spool, ["pacs"])
    front.start()
    for _ in range(3):
        front.deliver(run_id, "pacs")
        assert wait_until(lambda: front.state(run_id) in (State.DELIVERING, State.FAILED))
    assert front.state(run_id) is State.FAILED
    record = front.ledger.study("1.2.3")
    assert "pacs has not kept 1 result: no such object instance" in record.runs[0].reason
    states = {delivery.sop_instance_uid: delivery.state for delivery in record.deliveries}
    assert states == {uids[0]: DeliveryState.FAILED, uids[1]: DeliveryState.DELIVERED}

    archive.report = lambda request: Report(request.transaction_uid, request.references, {})
    assert front.ledger.retry("1.2.3") is State.DELIVERING
    front.deliver(run_id, "pacs")
    assert wait_until(lambda: front.state(run_id) is State.COMMITTED)
    assert [uid for _, uid in archive.requests[-1].references] == uids[:1]


def test_a_destination_that_is_away_is_asked_until_it_is_given_up(
    start: Callable[..., Front], archive: Archive
) -> None:
    away = destination(archive)
    front = start(destinations=[away, destination(archive, "gone", port=free_port())], commitment={"max_hours": 1e-4})
    run_id, _ = stored(front.ledger, front.spool, ["gone"])
    with front.ledger._database.write() as session:  # it was there when the results were sent
        session.connection().exec_driver_sql(
            "UPDATE delivery SET state = 'DELIVERED', delivered_at = '2026-01-01 00:00:00'"
        )
        session.connection().exec_driver_sql("UPDATE run SET state = 'DELIVERED'")
    front.start()

    def told() -> list[str]:
        return [event.reason for event in front.ledger.study("1.2.3").events if event.kind == "commitment"]

    assert wait_until(lambda: bool(told()) and told()[-1].endswith("(given up)"))
    assert front.state(run_id) is State.DELIVERED
    assert front.ledger.commitments.to_request(["gone"]) == []
