"""A reading with a prior: it is recorded and given to the engine, and its images are nobody's findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from node_bench import Clock, image, written
from ports import free_port
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (
    ComputedRadiographyImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)
from test_reading import Bench
from ups_bench import Archive, Steps, dimse_worklist

from dicom_node.dimse.listener import Listener
from dicom_node.dimse.scu import Peer, StoredFile, send
from dicom_node.ledger import Ledger, State
from engine.findings import PriorStudy, StudyReading
from engine.plan import load_plans
from engine.plan.files import SHIPPED

# The library leaves the socket of a connection that was refused to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)

PATIENT = {"PatientID": "SECRET-7", "PatientBirthDate": "19650403", "PatientSex": "F", "BodyPartExamined": "CHEST"}
NEVER_COMPARED = "the model is shown one image at a time, and compares nothing"


def radiograph(date: str, **elements: Any) -> Dataset:
    return image(str(generate_uid()), str(generate_uid()), **{**PATIENT, "StudyDate": date, **elements})


@pytest.fixture
def open_bench(tmp_path: Path, ledger: Ledger, clock: Clock) -> Iterator[Callable[..., Bench]]:
    """A reader whose plan asks for a prior."""
    plans = tmp_path / "plans"
    plans.mkdir()
    (plans / "mine.toml").write_text(
        "priors = 1\n" + (SHIPPED / "phantom.toml").read_text(encoding="utf-8").replace('"phantom"', '"mine"', 1),
        encoding="utf-8",
    )
    assert load_plans(plans)["mine"].priors == 1
    with ExitStack() as stack:

        def start(**source: Any) -> Bench:
            bench = Bench(
                tmp_path,
                ledger,
                clock,
                engine={"plans": plans},
                sources=[{"name": "archive", "aet": "ARCHIVE", "priors": True, **source}],
            )
            stack.callback(bench.reader.close)
            return bench

        yield start


def read(bench: Bench, current: Dataset) -> StudyReading:
    run = bench.queue(current)
    bench.reader.read(run)
    assert bench.run(current.StudyInstanceUID).state is State.DELIVERED, bench.run(current.StudyInstanceUID).reason
    return StudyReading.from_json(bench.spool.reading(run))


def test_a_reading_tells_of_its_prior_and_nothing_of_it_is_a_result(open_bench: Callable[..., Bench]) -> None:
    archive, port = Archive(), free_port()
    earlier, current = radiograph("20240101"), radiograph("20260301")
    archive.images[earlier.StudyInstanceUID] = [earlier]
    with dimse_worklist(Steps(), archive, port):
        bench = open_bench(port=port, retrieve="get")
        reading = read(bench, current)
    assert archive.given == 1
    assert reading.prior == PriorStudy(str(earlier.StudyInstanceUID), False, NEVER_COMPARED)
    assert {one.sop_instance_uid for one in reading.images} == {current.SOPInstanceUID}
    assert {one.sop_instance_uid for one in reading.regions} == {current.SOPInstanceUID}
    assert [one.study_instance_uid for one in bench.ledger.studies()] == [current.StudyInstanceUID]
    assert bench.spool.priors(str(earlier.StudyInstanceUID)) == []
    for result in bench.ledger.study(current.StudyInstanceUID).results:
        assert str(earlier.SOPInstanceUID) not in str(dcmread(bench.spool.path(result.path)))


def test_a_reading_goes_on_without_a_source_that_is_down(open_bench: Callable[..., Bench]) -> None:
    reading = read(open_bench(port=free_port(), retrieve="get"), radiograph("20260301"))
    assert reading.prior is not None
    assert reading.prior.study_instance_uid is None
    assert "cannot be reached" in reading.prior.reason
    assert "SECRET-7" not in reading.to_json()


def test_a_source_that_does_not_say_for_whom_it_sends_opens_no_reading(
    open_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    archive, port, listening = Archive(), free_port(), free_port()
    earlier, current = radiograph("20240101"), radiograph("20260301")
    archive.images[earlier.StudyInstanceUID] = [earlier]
    file = StoredFile.open(written(tmp_path / "archive", earlier))

    def move(_event: evt.Event) -> Iterator[Any]:
        assert send([file], Peer("MEDREGA", "127.0.0.1", listening), "ARCHIVE")[0].ok  # as nobody's move
        yield "127.0.0.1", listening, {"contexts": [build_context(ComputedRadiographyImageStorage)]}
        yield 0

    entity = AE("ARCHIVE")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
    handlers: list[evt.EventHandlerType] = [(evt.EVT_C_FIND, archive.find), (evt.EVT_C_MOVE, move)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    assert server is not None
    bench = open_bench(port=port)
    settings = bench.settings.listener.model_copy(update={"port": listening})
    listener = Listener(settings, bench.spool, bench.ledger)
    listener.start()
    try:
        reading = read(bench, current)
    finally:
        listener.stop(2)
        server.shutdown()
    assert reading.prior == PriorStudy(
        None, False, 'the source does not say for whom it sends: set retrieve = "get" for it'
    )
    assert bench.run(earlier.StudyInstanceUID).state is State.CANCELLED


def test_a_study_that_is_sent_to_be_read_while_it_cannot_be_fetched_as_a_prior_is_read(
    open_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    archive, port, listening = Archive(), free_port(), free_port()
    earlier, current = radiograph("20240101"), radiograph("20260301")
    archive.images[earlier.StudyInstanceUID] = [earlier]
    file = StoredFile.open(written(tmp_path / "archive", earlier))

    def move(_event: evt.Event) -> Iterator[Any]:
        assert send([file], Peer("MEDREGA", "127.0.0.1", listening), "CT1")[0].ok  # a modality, at this moment
        yield None, None

    entity = AE("ARCHIVE")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
    handlers: list[evt.EventHandlerType] = [(evt.EVT_C_FIND, archive.find), (evt.EVT_C_MOVE, move)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    assert server is not None
    bench = open_bench(port=port)
    listener = Listener(bench.settings.listener.model_copy(update={"port": listening}), bench.spool, bench.ledger)
    listener.start()
    try:
        reading = read(bench, current)
    finally:
        listener.stop(2)
        server.shutdown()
    assert reading.prior is not None
    assert reading.prior.study_instance_uid is None
    assert bench.run(earlier.StudyInstanceUID).state is State.RECEIVING
