"""Success is said before the ledger knows: nothing that was promised is lost on the way there, nothing comes twice."""

import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import wire
from listener_bench import Scp
from node_bench import Pacs, RunningNode, received, wait_until
from test_listening_processes import listeners, listening

from dicom_node.intake.promised import Promised
from dicom_node.ledger import Ledger
from dicom_node.ledger.database import DatabaseError
from dicom_node.settings.settings import ENVIRONMENT_PREFIX
from engine.errors import NodeError

STUDY = "1.2.3"


@contextmanager
def locked(ledger: Path) -> Iterator[None]:
    """Nobody writes to the ledger; it can be read."""
    connection = sqlite3.connect(ledger, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def stored(connection: wire.Wire, sop: str) -> str:
    connection.send(*wire.store(sop, wire.ct_image(STUDY, sop, 2000)))
    assert wire.status_of(connection.receive()) == 0
    return sop


def left(node: RunningNode) -> list[Path]:
    return list((node.settings.data.path / "incoming").iterdir())


def entered(node: RunningNode) -> int:
    try:
        return node.ledger.study(STUDY).runs[0].instances
    except NodeError:  # none of its images yet
        return 0


def test_listeners_killed_between_success_and_entry_lose_and_double_nothing(
    tmp_path: Path, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"{ENVIRONMENT_PREFIX}LISTENER__FAST", raising=False)  # the stock path promises nothing
    node = RunningNode(
        tmp_path,
        pacs,
        completion={"quiet_seconds": 60},
        listener={"processes": 2, "fast": True},
        reading={"concurrency": 0},
    )
    ledger = node.settings.data.path / "ledger.sqlite3"
    try:
        node.start()
        port = node.peer.port
        assert wait_until(lambda: any(listening(pid, port) for pid in listeners(node)), 30)
        (child,) = listeners(node)
        promised: list[str] = []
        with ExitStack() as stack:
            # Enough for both processes to have some; the kernel chooses by the sender's port.
            senders = [stack.enter_context(wire.Wire(port)) for _ in range(12)]
            for number, sender in enumerate(senders):
                assert sender.associate()[:1] == b"\2"
                promised.append(stored(sender, f"2.999.1.{number}"))
            with locked(ledger):
                for number, sender in enumerate(senders):
                    promised.append(stored(sender, f"2.999.2.{number}"))
                assert left(node)
                os.kill(child, signal.SIGKILL)
        assert wait_until(lambda: entered(node) == len(promised), 30), "not adopted"
        assert wait_until(lambda: not left(node))
        assert wait_until(lambda: any(listening(pid, port) for pid in listeners(node)), 30)
        with ExitStack() as stack:
            senders = [stack.enter_context(wire.Wire(port)) for _ in range(4)]
            for sender in senders:
                assert sender.associate()[:1] == b"\2"
            with locked(ledger):
                for number, sender in enumerate(senders):
                    promised.append(stored(sender, f"2.999.3.{number}"))
                node.kill_all()
        assert left(node)
        node.start()
        record = node.ledger.study(STUDY)
        assert [run.instances for run in record.runs] == [len(promised)]
        assert record.conflicts == 0
        assert left(node) == []
        assert len(list((node.settings.data.path / "studies" / STUDY).iterdir())) == len(promised)
        with wire.Wire(port) as sender:  # one that did not hear the answer sends it again
            sender.associate()
            stored(sender, promised[-1])
            sender.release()
        assert [run.instances for run in node.ledger.study(STUDY).runs] == [len(promised)]
    finally:
        node.stop()


def test_a_release_is_answered_when_its_images_are_in_the_ledger(tmp_path: Path) -> None:
    with Scp(tmp_path) as scp, wire.Wire(scp.port) as connection:
        connection.associate()
        for number in range(50):
            stored(connection, f"2.999.{number}")
        assert connection.release()[:1] == b"\6"
        assert scp.ledger.study(STUDY).runs[0].instances == 50
        assert list((scp.spool.root / "incoming").iterdir()) == []


def test_an_image_that_comes_twice_before_its_entry_is_one(tmp_path: Path) -> None:
    with Scp(tmp_path, fast=True) as scp, wire.Wire(scp.port) as connection:
        connection.associate()
        with locked(tmp_path / "ledger.sqlite3"):
            stored(connection, "2.999.1")
            connection.send(*wire.store("2.999.1", wire.ct_image(STUDY, "2.999.1", 2000)))
            connection.socket.settimeout(0.3)
            with pytest.raises(socket.timeout):
                connection.socket.recv(1)
            connection.socket.settimeout(20)
        assert wire.status_of(connection.receive()) == 0
        connection.release()
        assert (scp.ledger.study(STUDY).runs[0].instances, scp.ledger.study(STUDY).conflicts) == (1, 0)


def test_an_entry_that_cannot_be_made_holds_up_no_other(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    ledger.migrate()
    enter, record = ledger.arrivals._insert, ledger.intake.record

    def fail(*_arguments: object, **_options: object) -> None:
        raise DatabaseError("DataError", of_the_rows=True)

    def picky(instance: object, **_options: object) -> str:
        if instance is wrong:
            fail()
        return record(instance)  # type: ignore[arg-type]

    ledger.arrivals._insert = fail  # type: ignore[method-assign]
    ledger.intake.record = picky  # type: ignore[method-assign,assignment]
    promised, wrong = Promised(ledger), received(sop="1.2.2")
    names = [tmp_path / f"{number}.part" for number in range(3)]
    for name, instance in zip(names, (received(sop="1.2.1"), wrong, received(sop="1.2.3")), strict=True):
        name.write_bytes(b"")
        promised.add(instance, str(name))
    promised.stop()
    assert ledger.studies()[0].instances == 2
    assert [name.exists() for name in names] == [False, True, False], "the next start would not try it again"
    ledger.arrivals._insert, ledger.intake.record = enter, record  # type: ignore[method-assign]
    ledger.close()
