"""A listener in several processes, killed and not; and how much memory receiving takes."""

import os
import signal
import threading
from pathlib import Path

import pytest
import wire
from listener_bench import Scp
from node_bench import Pacs, RunningNode, wait_until
from pynetdicom import AE, evt

from dicom_node.dimse.commitment import REQUEST, SOP_CLASS, SOP_INSTANCE, Request
from dicom_node.ledger import Ledger
from dicom_node.settings.settings import ENVIRONMENT_PREFIX

MIB = 1 << 20


def resident(pid: int) -> int:
    """Most memory that a process ever held, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def listeners(node: RunningNode) -> list[int]:
    """Process ids of those that listen besides the front."""
    return [pid for pid, command in node.commands().items() if "dicom_node.dimse.process" in command]


def listening(pid: int, port: int) -> bool:
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(link))
        except OSError:
            continue
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[1].endswith(f":{port:04X}") and f"socket:[{fields[9]}]" in inodes:
            return True
    return False


def send(port: int, study: str, numbers: range, acknowledged: list[str], size: int = 2000) -> None:
    """Send images, each again over a new association until it is acknowledged."""
    left = [f"{study}.9.{number}" for number in numbers]
    while left:
        with wire.Wire(port) as connection:
            if connection.associate()[:1] != b"\2":
                continue
            while left:
                try:
                    connection.send(*wire.store(left[0], wire.ct_image(study, left[0], size)))
                except OSError:
                    break
                answer = connection.receive()
                if not answer:
                    break
                assert wire.status_of(answer) == 0
                acknowledged.append(left.pop(0))
            else:
                connection.release()


def test_two_processes_lose_and_double_nothing_though_one_is_killed(tmp_path: Path, pacs: Pacs) -> None:
    node = RunningNode(
        tmp_path, pacs, completion={"quiet_seconds": 60}, listener={"processes": 2}, reading={"concurrency": 0}
    )
    try:
        node.start()
        port = node.peer.port
        assert wait_until(lambda: any(listening(pid, port) for pid in listeners(node)), 30)
        (first,) = listeners(node)
        acknowledged: list[str] = []
        senders = [
            threading.Thread(target=send, args=(port, "1.2.3", range(begin, begin + 15), acknowledged))
            for begin in range(0, 90, 15)
        ]
        for sender in senders:
            sender.start()
        assert wait_until(lambda: len(acknowledged) > 10)
        os.kill(first, signal.SIGKILL)
        for sender in senders:
            sender.join(60)
        assert len(acknowledged) == len(set(acknowledged)) == 90
        # What the killed one had promised and not entered is adopted by the front.
        assert wait_until(lambda: node.ledger.study("1.2.3").runs[-1].instances >= 90)
        record = node.ledger.study("1.2.3")
        assert [run.instances for run in record.runs] == [90]
        assert record.conflicts == 0
        assert len(list((node.settings.data.path / "studies" / "1.2.3").iterdir())) == 90
        assert wait_until(lambda: any(pid != first and listening(pid, port) for pid in listeners(node)), 30)
    finally:
        node.stop()


def test_what_an_association_brought_is_synced_before_its_release_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scp = Scp(tmp_path, durability="association")
    synced: list[str] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    try:
        with wire.Wire(scp.port) as connection:
            connection.associate()
            monkeypatch.setattr(os, "fsync", watched)
            for number in range(3):
                sop = f"2.999.{number}"
                connection.send(*wire.store(sop, wire.ct_image("1.2.3", sop, 5000)))
                assert wire.status_of(connection.receive()) == 0
            assert not any(name.startswith("2.999") for name in synced)
            assert connection.release()[:1] == b"\6"
            assert {*synced} >= {"2.999.0.dcm", "2.999.1.dcm", "2.999.2.dcm", "1.2.3"}
    finally:
        scp.close()


def test_a_large_study_over_four_associations_takes_no_memory_to_speak_of(
    tmp_path: Path, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 objects of 4 MB; ``STUDY_GB=5`` makes a study of 5 GB of them."""
    monkeypatch.delenv(f"{ENVIRONMENT_PREFIX}LISTENER__FAST", raising=False)  # the library holds each object in memory
    objects = int(float(os.environ.get("STUDY_GB", "0.2")) * 1000 / 4 / 4)
    node = RunningNode(
        tmp_path, pacs, completion={"quiet_seconds": 60}, listener={"processes": 2}, reading={"concurrency": 0}
    )
    try:
        node.start()
        port = node.peer.port
        assert node.process is not None
        assert wait_until(lambda: any(listening(pid, port) for pid in listeners(node)), 30)
        before = resident(node.process.pid)
        acknowledged: list[str] = []
        senders = [
            threading.Thread(
                target=send, args=(port, "1.2.3", range(n * objects, (n + 1) * objects), acknowledged, 4 * MIB)
            )
            for n in range(4)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(280)
        assert len(acknowledged) == 4 * objects
        front, *others = (resident(pid) for pid in (node.process.pid, *listeners(node)))
        print(f"front {front / MIB:.0f} MiB, {before / MIB:.0f} before; listener {[one // MIB for one in others]} MiB")
        assert front - before < 20 * MIB  # it is more than a listener: sweeper, rules, reports
        assert max(others) < 150_000_000
    finally:
        node.stop()


def test_entries_of_many_threads_are_all_made_and_share_transactions(tmp_path: Path) -> None:
    from node_bench import received

    from dicom_node.intake.gathered import Gathered

    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    ledger.migrate()
    gathered, enter = Gathered(ledger), ledger.arrivals.enter
    transactions = []

    def counted(instances: object) -> None:
        transactions.append(1)
        enter(instances)  # type: ignore[arg-type]

    ledger.arrivals.enter = counted  # type: ignore[method-assign]
    threads = [
        threading.Thread(target=lambda n=n: [gathered.enter(received(sop=f"1.2.{n}.{number}")) for number in range(20)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.studies()[0].instances == 160
    assert len(transactions) < 160
    gathered.enter(received(sop="1.2.0.0"))  # entered already, and no error
    assert ledger.studies()[0].instances == 160
    ledger.close()


def test_who_shared_a_transaction_that_failed_oddly_hears_no_success(tmp_path: Path) -> None:
    from node_bench import received

    from dicom_node.intake.gathered import Gathered, _Entry

    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    gathered, neighbour = Gathered(ledger), _Entry(received(sop="1.2.3.5"))
    gathered._waiting.append(neighbour)  # of a thread that waits for this one
    ledger.arrivals.enter = lambda _instances: 1 / 0  # type: ignore[assignment, method-assign]
    with pytest.raises(ZeroDivisionError):
        gathered.enter(received())
    assert neighbour.done
    assert neighbour.error is not None


def test_a_sender_hears_on_its_own_association_whichever_process_took_it(tmp_path: Path, pacs: Pacs) -> None:
    node = RunningNode(tmp_path, pacs, listener={"processes": 2}, reading={"concurrency": 0})
    reports: list[object] = []
    entity = AE("CT1")  # of an address that the node does not know
    entity.add_requested_context(SOP_CLASS)
    try:
        node.start()
        port = node.peer.port
        assert wait_until(lambda: any(listening(pid, port) for pid in listeners(node)), 30)
        associations = []
        for number in range(10):
            handler = (evt.EVT_N_EVENT_REPORT, lambda event: (reports.append(event.event_type), (0, None))[1])
            associations.append(entity.associate("127.0.0.1", port, evt_handlers=[handler], ae_title=node.peer.aet))
            statement = Request(f"2.25.{number + 1}", (("1.2.840.10008.5.1.4.1.1.2", f"2.999.{number}"),)).to_dataset()
            assert associations[-1].send_n_action(statement, REQUEST, SOP_CLASS, SOP_INSTANCE)[0].Status == 0
        assert wait_until(lambda: len(reports) == len(associations))
        for association in associations:
            association.release()
    finally:
        node.stop()
