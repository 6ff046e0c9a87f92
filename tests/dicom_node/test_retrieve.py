"""Retrieval and query against a peer that answers whatever the Standard allows: every status is told in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from node_bench import image, node_settings
from ports import free_port
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.sop_class import (
    ComputedRadiographyImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from scripted_scp import Request, ScriptedScp
from wire import command, data, element, item

from dicom_node.dimse import suboperations
from dicom_node.dimse.query import QueryError, Server, find, keys
from dicom_node.dimse.retrieve import get, move
from dicom_node.dimse.scu import Peer, PeerError, Timeouts
from dicom_node.dimse.suboperations import RETRIEVE_STATUS, Cancel, Progress, Retrieved
from dicom_node.intake.storage import Storage
from dicom_node.ledger import Ledger
from dicom_node.settings import Source
from dicom_node.sources.counts import expected_instances
from dicom_node.spool import Spool

STUDY = keys("STUDY", {"StudyInstanceUID": "1.2.3"})


@pytest.fixture
def start_scp() -> Iterator[Callable[..., Server]]:
    """Start a query/retrieve SCP with handlers of the test's own."""
    servers = []

    def start(*handlers: Any, classes: Sequence[str] | None = None) -> Server:
        entity = AE("ARCHIVE")
        entity.dimse_timeout = 10
        for uid in classes or (
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelGet,
            StudyRootQueryRetrieveInformationModelMove,
        ):
            entity.add_supported_context(uid)
        entity.add_supported_context(
            ComputedRadiographyImageStorage, ALL_TRANSFER_SYNTAXES, scu_role=True, scp_role=True
        )  # type: ignore[arg-type]
        port = free_port()
        servers.append(entity.start_server(("127.0.0.1", port), block=False, evt_handlers=list(handlers)))
        return Server(Peer("ARCHIVE", "127.0.0.1", port), "MEDREGA", Timeouts(5, 10))

    yield start
    for server in servers:
        assert server is not None
        server.shutdown()


@pytest.fixture
def storage(tmp_path: Path, ledger: Ledger) -> Storage:
    return Storage(Spool(tmp_path / "data"), ledger)


def getting(*images: Dataset, ends: int = 0x0000) -> Callable[[evt.Event], Iterator[Any]]:
    """A C-GET handler that gives these images, then ends."""

    def handle(_event: evt.Event) -> Iterator[Any]:
        yield len(images) or 1
        for one in images:
            yield 0xFF00, one
        if ends:
            yield ends, None

    return handle


def test_every_failure_is_told_in_words(start_scp: Callable[..., Server], storage: Storage) -> None:
    statuses = [*sorted(set(RETRIEVE_STATUS) - {0xA801, 0xB000, 0xFE00}), 0xC123]
    ends = iter(statuses)
    server = start_scp((evt.EVT_C_GET, lambda event: getting(ends=next(ends))(event)))
    for status in statuses:
        found = get(server, STUDY, storage, "MEDREGA", sop_classes=[ComputedRadiographyImageStorage])
        assert (found.ok, found.status) == (False, status)
        assert f"0x{status:04X}" in found.reason
        assert found.reason.split(": ", 1)[1]
        assert found.retry is (status in (0xA701, 0xA702))


def test_an_unknown_move_destination_is_told_with_what_to_do(start_scp: Callable[..., Server]) -> None:
    def unknown(_event: evt.Event) -> Iterator[Any]:
        yield None, None

    found = move(start_scp((evt.EVT_C_MOVE, unknown)), STUDY, "MEDREGA")
    assert (found.ok, found.status, found.retry) == (False, 0xA801, False)
    assert "enter this node's AE title" in found.explained


def test_objects_of_a_get_are_stored_and_counted(start_scp: Callable[..., Server], storage: Storage) -> None:
    images = [image("1.2.3", "1.2.3.1") for _ in range(3)]
    server = start_scp((evt.EVT_C_GET, getting(*images)))
    seen: list[Progress] = []
    found = get(server, STUDY, storage, "MEDREGA", on_progress=seen.append)
    assert (found.ok, found.completed) == (True, 3)
    assert [one.total for one in seen][:3] == [3, 3, 3]
    assert len(list(storage.spool.instances())) == 3


def test_an_object_that_is_refused_makes_a_get_fail(start_scp: Callable[..., Server], storage: Storage) -> None:
    bad = image("1.2.3", "1.2.3.1", StudyInstanceUID=None)
    server = start_scp((evt.EVT_C_GET, getting(image("1.2.3", "1.2.3.1"), bad)))
    found = get(server, STUDY, storage, "MEDREGA")
    assert (found.ok, found.completed, found.failed) == (False, 1, 1)
    assert "no Study Instance UID" in found.reason


def test_a_peer_without_c_get_is_told_apart(start_scp: Callable[..., Server], storage: Storage) -> None:
    server = start_scp(classes=[StudyRootQueryRetrieveInformationModelFind])
    with pytest.raises(PeerError, match="does not take C-GET") as caught:
        get(server, STUDY, storage, "MEDREGA")
    assert not caught.value.retry


def test_cancel_reaches_the_peer_in_the_middle(start_scp: Callable[..., Server], storage: Storage) -> None:
    cancel, under_way, asked = Cancel(), threading.Event(), threading.Event()

    def handle(event: evt.Event) -> Iterator[Any]:
        yield 50
        for number in range(50):
            if number == 2:
                under_way.set()
                asked.wait(10)
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, image("1.2.3", "1.2.3.1")

    server = start_scp((evt.EVT_C_GET, handle))

    def ask() -> None:
        under_way.wait(10)
        cancel.ask()
        asked.set()

    asking = threading.Thread(target=ask)
    asking.start()
    found = get(server, STUDY, storage, "MEDREGA", cancel=cancel)
    asking.join()
    assert (found.ok, found.cancelled) == (False, True)
    assert 2 <= found.completed < 50
    assert "cancelled" in found.reason


def test_a_peer_that_breaks_off_may_be_asked_again(start_scp: Callable[..., Server]) -> None:
    def handle(event: evt.Event) -> Iterator[Any]:
        event.assoc.abort()
        yield None, None

    found = move(start_scp((evt.EVT_C_MOVE, handle)), STUDY, "MEDREGA")
    assert (found.ok, found.retry, found.status) == (False, True, None)
    assert "broke off" in found.reason


@pytest.mark.parametrize(("status", "retry"), [(0xA700, True), (0xA900, False), (0xC001, False)])
def test_a_refused_query_is_told_in_words(start_scp: Callable[..., Server], status: int, retry: bool) -> None:
    server = start_scp((evt.EVT_C_FIND, lambda _event: iter([(status, None)])))
    with pytest.raises(QueryError, match=f"0x{status:04X}") as caught:
        find(server, STUDY)
    assert caught.value.retry is retry


def test_a_query_is_cancelled_at_its_limit(start_scp: Callable[..., Server]) -> None:
    def handle(event: evt.Event) -> Iterator[Any]:
        for _ in range(1000):
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, keys("STUDY", {"StudyInstanceUID": "1.2.3"})

    assert len(find(start_scp((evt.EVT_C_FIND, handle)), STUDY, limit=5)) == 5


def test_a_query_that_does_not_end_once_it_is_cancelled_is_broken_off(start_scp: Callable[..., Server]) -> None:
    def handle(_event: evt.Event) -> Iterator[Any]:
        while True:
            yield 0xFF00, keys("STUDY", {"StudyInstanceUID": "1.2.3"})

    server = replace(start_scp((evt.EVT_C_FIND, handle)), timeouts=Timeouts(5, 0.5))
    with pytest.raises(QueryError, match="does not end"):
        find(server, STUDY, limit=5)


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_peer_that_goes_on_for_ever_and_sends_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    def pending(request: Request) -> bytes:
        if 0x0110 not in request.command:  # a C-CANCEL
            return b""
        elements = element(2, request.command[2]), element(0x100, 0x8021), element(0x120, request.message_id)
        response = command(*elements, element(0x800, 0x0101), element(0x900, 0xFF00))
        return data(item(request.context_id, 3, response)) * 100_000

    cancel = Cancel()
    if cancelled:
        cancel.ask()
        monkeypatch.setattr(suboperations, "_PATIENCE", 1e9)
    with ScriptedScp(pending) as scp:
        found = move(Server(scp.peer, "MEDREGA", Timeouts(5, 0.1)), STUDY, "MEDREGA", cancel=cancel)
    assert (found.ok, found.retry, found.cancelled) == (False, True, cancelled)
    assert "nothing comes" in found.reason


@pytest.mark.parametrize("known", ["study", "series", "image", "nothing"])
def test_a_count_is_found_at_whichever_level_it_is_told(start_scp: Callable[..., Server], known: str) -> None:
    def handle(event: evt.Event) -> Iterator[Any]:
        asked = event.identifier
        if known == "nothing":
            return
        if asked.QueryRetrieveLevel == "STUDY":
            match = keys("STUDY", {"StudyInstanceUID": "1.2.3"})
            if known == "study":
                match.NumberOfStudyRelatedInstances = 6
            yield 0xFF00, match
        elif asked.QueryRetrieveLevel == "SERIES":
            for number in (1, 2):
                match = keys("SERIES", {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": f"1.2.3.{number}"})
                if known == "series":
                    match.NumberOfSeriesRelatedInstances = 3
                yield 0xFF00, match
        else:
            for number in range(3):
                yield 0xFF00, keys("IMAGE", {"SOPInstanceUID": f"{asked.SeriesInstanceUID}.{number}"})

    peer = start_scp((evt.EVT_C_FIND, handle)).peer
    source = Source(name="archive", aet=peer.aet, port=peer.port)
    assert expected_instances(source, "1.2.3") == (None if known == "nothing" else 6)


def test_an_outcome_is_whole_only_without_failures() -> None:
    assert Retrieved(3).ok
    assert not Retrieved(3, 1).ok


def test_ctrl_c_of_pull_is_a_c_cancel(start_scp: Callable[..., Server], tmp_path: Path) -> None:
    under_way, cancelled = threading.Event(), threading.Event()

    def handle(event: evt.Event) -> Iterator[Any]:
        yield 2
        yield 0xFF00, image("1.2.3", "1.2.3.1")
        under_way.set()
        pause = threading.Event()
        for _ in range(1000):
            if event.is_cancelled:
                cancelled.set()
                yield 0xFE00, None
                return
            pause.wait(0.01)

    def count(_event: evt.Event) -> Iterator[Any]:
        match = keys("STUDY", {"StudyInstanceUID": "1.2.3"})
        match.NumberOfStudyRelatedInstances = 2
        yield 0xFF00, match

    peer = start_scp((evt.EVT_C_GET, handle), (evt.EVT_C_FIND, count)).peer
    settings = node_settings(
        tmp_path, sources=[{"name": "archive", "aet": peer.aet, "port": peer.port, "retrieve": "get"}]
    )
    command = [sys.executable, "-m", "dicom_node.cli", "pull", "--study", "1.2.3", "--from", "archive"]
    environment = {**os.environ, **settings.to_environment()}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert under_way.wait(30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert cancelled.is_set()
    assert process.returncode == 1
    assert "1 image fetched from archive" in out, err
    assert "the retrieval was cancelled" in err
