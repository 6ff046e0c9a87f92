"""The pull performer against a worklist that holds it to the Standard's state machine."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from node_bench import Clock, image
from ports import free_port
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from queued import queue_complete
from ups_bench import SUCCESS, Archive, Steps, dimse_worklist, tell_cancel, web_worklist

from dicom_node.dimse.listener import Listener
from dicom_node.dimse.ups import UpsEvents
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.models import WorkitemState
from dicom_node.ledger.records import StoredResult
from dicom_node.ledger.workitems import WorkitemRecord
from dicom_node.routing.decision import Decision, Priority
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from dicom_node.worklist.performer import Performer
from dicom_node.worklist.workitem import WorkitemError, input_of
from engine.errors import NodeError, SettingsError

RESULT = StoredResult("2.25.1", "1.2.840.10008.5.1.4.1.1.88.33", "2.25.91", "sr", "0" * 64, "r/v/sr.dcm")


class Site:
    """A worklist with its archive, and a node's ledger and spool; performers are started and forgotten at will."""

    def __init__(self, folder: Path, ledger: Ledger, clock: Clock, stack: ExitStack, protocol: str) -> None:
        self.steps, self.archive, self.ledger, self.clock = Steps(), Archive(), ledger, clock
        self.spool = Spool(folder / "data")
        self._folder = folder
        port = free_port()
        stack.enter_context(dimse_worklist(self.steps, self.archive, port))
        self.reached: dict[str, Any] = {"aet": "ARCHIVE", "port": port}
        if protocol == "dicomweb":
            self.reached = {"protocol": "dicomweb", "url": stack.enter_context(web_worklist(self.steps))}
        self._source = {"name": "archive", "aet": "ARCHIVE", "port": port, "retrieve": "get"}

    def settings(self, **changes: Any) -> Settings:
        worklist = {"name": "ai", **self.reached, "poll_seconds": 1e-6, "source": "archive", **changes}
        return Settings(data={"path": self._folder / "data"}, sources=(self._source,), worklists=(worklist,))

    def performer(self, **changes: Any) -> Performer:
        """A performer as a new process would have it."""
        settings = self.settings(**changes)
        return Performer(settings, settings.worklists[0], self.spool, self.ledger)

    def study(self) -> str:
        """A study in the archive."""
        uid, series = str(generate_uid()), str(generate_uid())
        self.archive.images[uid] = [image(uid, series) for _ in range(2)]
        return uid

    def item(self, uid: str) -> WorkitemRecord:
        return next(one for one in self.ledger.workitems.all() if one.sop_instance_uid == uid)

    def run(self, study: str) -> State:
        return self.ledger.study(study).runs[-1].state

    def read(self, study: str) -> None:
        """What a reading worker does."""
        run = self.ledger.study(study).runs[-1].id
        queue_complete(self.ledger)
        claim = self.ledger.runs.claim(run, "elsewhere:1:1", 60)
        assert claim is not None
        self.ledger.runs.reading_stored(claim, "0" * 64, claim.decision.plan, 1)
        self.ledger.runs.results_stored(claim, {"": [RESULT]})


@pytest.fixture
def open_site(tmp_path: Path, ledger: Ledger, clock: Clock) -> Iterator[Callable[..., Site]]:
    with ExitStack() as stack:
        yield lambda protocol="dimse": Site(tmp_path, ledger, clock, stack, protocol)


@pytest.mark.parametrize("protocol", ["dimse", "dicomweb"])
def test_a_workitem_is_claimed_fetched_read_and_completed(
    open_site: Callable[..., Site], protocol: str, tmp_path: Path
) -> None:
    site = open_site(protocol)
    study = site.study()
    uid = site.steps.add(study, priority="HIGH")
    performer = site.performer(plans={"READ^99T": "chest-xray"})
    performer.step()
    assert site.steps.state(uid) == "IN PROGRESS"
    assert site.item(uid).state is WorkitemState.CLAIMED
    performer.step()
    assert (site.item(uid).state, site.run(study)) == (WorkitemState.READING, State.COMPLETE)

    # The run is routed as the workitem asks: its plan, and HIGH is the most urgent.
    (run,) = site.ledger.runs.to_route()
    site.ledger.runs.route(run.id, Decision(plan="general", priority=Priority.LOW))
    claim = site.ledger.runs.claim(run.id, "elsewhere:1:1", 60)
    assert claim is not None
    assert (claim.decision.plan, claim.decision.priority) == ("chest-xray", Priority.STAT)
    performer.step()
    assert site.steps.progress[uid][-1] == 30
    site.ledger.runs.reading_stored(claim, "0" * 64, "chest-xray", 1)
    site.ledger.runs.results_stored(claim, {"": [RESULT]})
    performer.step()

    assert site.steps.state(uid) == "COMPLETED"
    assert site.item(uid).state is WorkitemState.COMPLETED
    assert [(one.before, one.wanted, one.status) for one in site.steps.changes] == [
        ("SCHEDULED", "IN PROGRESS", SUCCESS),
        ("IN PROGRESS", "COMPLETED", SUCCESS),
    ]
    (output,) = site.steps.outputs(uid)
    assert (output.StudyInstanceUID, output.SeriesInstanceUID) == (study, RESULT.series_instance_uid)
    assert output.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == RESULT.sop_instance_uid
    assert site.steps.progress[uid] == sorted(site.steps.progress[uid])
    assert "workitem" in [event.kind for event in site.ledger.study(study).events]
    dump = "\n".join(sqlite3.connect(tmp_path / "ledger.sqlite3").iterdump())
    assert "SECRET-1" not in dump
    assert "NOBODY" not in dump


def test_a_claim_whose_answer_was_lost_is_still_ours(open_site: Callable[..., Site]) -> None:
    site = open_site()
    uid = site.steps.add(site.study())
    site.steps.lose_next_answer = True
    with pytest.raises(Exception, match="broke off"):
        site.performer().step()
    assert (site.steps.state(uid), site.item(uid).state) == ("IN PROGRESS", WorkitemState.CLAIMING)

    again = site.performer()  # a new process, after kill -9
    site.ledger.leases.drop("worklist:ai", _owner(site))
    again.step()
    assert site.item(uid).state is WorkitemState.CLAIMED
    again.step()
    assert site.item(uid).state is WorkitemState.READING
    assert set(site.steps.keys.values()) == {site.item(uid).transaction_uid}


def test_a_node_that_was_killed_goes_on_at_every_step(open_site: Callable[..., Site]) -> None:
    site = open_site()
    study = site.study()
    uid = site.steps.add(study)
    for wanted in (WorkitemState.CLAIMED, WorkitemState.READING):
        site.performer().step()
        site.ledger.leases.drop("worklist:ai", _owner(site))
        assert site.item(uid).state is wanted
    site.read(study)
    site.performer().step()
    assert site.steps.state(uid) == "COMPLETED"
    assert [one.status for one in site.steps.changes] == [SUCCESS, SUCCESS]
    assert site.archive.given == 2


def test_whichever_answer_is_lost_a_workitem_is_claimed_and_completed_once(open_site: Callable[..., Site]) -> None:
    site = open_site("dicomweb")
    for lost in count(1):
        site.steps.answers, site.steps.lost_answer, site.steps.changes = 0, lost, []
        study = site.study()
        uid = site.steps.add(study)
        for _ in range(12):
            performer = site.performer()  # each step is another process's
            performer._leased = time.monotonic()
            with suppress(NodeError):
                performer.step()
            if site.item(uid).state is WorkitemState.READING and site.run(study) is State.COMPLETE:
                site.read(study)
        assert site.steps.state(uid) == "COMPLETED", lost
        assert site.item(uid).state is WorkitemState.COMPLETED, lost
        done = [one.wanted for one in site.steps.changes if one.status == SUCCESS]
        assert done == ["IN PROGRESS", "COMPLETED"], lost
        assert {one.status for one in site.steps.changes} <= {SUCCESS, 0xC302, 0xB306}, lost
        if lost > site.steps.answers:  # this round lost none: every answer had its turn
            break
    assert lost > 3


def test_of_two_nodes_one_works_and_the_other_stands_by(open_site: Callable[..., Site]) -> None:
    site = open_site()
    site.steps.add(site.study())
    first, second = site.performer(), site.performer()
    first.step()
    second.step()
    assert len(site.steps.changes) == 1


def test_what_another_performer_has_is_let_go(open_site: Callable[..., Site]) -> None:
    site = open_site()
    uid = site.steps.add(site.study())
    real = site.steps.find

    def slow(keys: Dataset) -> list[Dataset]:
        found = deepcopy(real(keys))
        site.steps.change(uid, "IN PROGRESS", "2.25.7")  # the other one, between our look and our claim
        for one in found:
            one.ProcedureStepState = "SCHEDULED"
        return found

    site.steps.find = slow  # type: ignore[method-assign]
    performer = site.performer()
    performer.step()
    performer.step()
    assert site.item(uid).state is WorkitemState.LOST
    assert site.archive.given == 0
    assert site.steps.keys[uid] == "2.25.7"


def test_a_request_to_cancel_stops_the_reading(open_site: Callable[..., Site]) -> None:
    site = open_site()
    study = site.study()
    uid = site.steps.add(study)
    performer = site.performer()
    performer.step()
    performer.step()
    assert site.steps.subscribers == {uid: "MEDREGA"}
    events = UpsEvents(site.ledger.workitems.ask_cancel)
    port = free_port()
    listener = Listener(Settings(listener={"port": port}).listener, site.spool, site.ledger, services=[events])
    listener.start()
    try:
        assert tell_cancel(site.steps, uid, port) == SUCCESS
        assert tell_cancel(site.steps, "1.2.3.4", port) == SUCCESS  # another one's: heard, and nothing is done
    finally:
        listener.stop()
    performer.step()
    assert site.run(study) is State.CANCELLED
    assert (site.steps.state(uid), site.item(uid).state) == ("CANCELED", WorkitemState.CANCELED)
    assert site.steps.reason(uid) == "cancelled on request"


@pytest.mark.parametrize("protocol", ["dimse", "dicomweb"])
def test_a_workitem_that_others_ended_is_read_no_further(open_site: Callable[..., Site], protocol: str) -> None:
    site = open_site(protocol)
    study = site.study()
    uid = site.steps.add(study)
    performer = site.performer()
    performer.step()
    performer.step()
    site.steps.end(uid)
    performer.step()
    assert (site.run(study), site.item(uid).state) == (State.CANCELLED, WorkitemState.LOST)
    assert "CANCELED" in site.item(uid).reason


def test_a_study_that_cannot_be_fetched_is_canceled_with_the_reason(
    open_site: Callable[..., Site], clock: Clock
) -> None:
    site = open_site()
    missing = site.steps.add(str(generate_uid()))
    refused = site.study()
    site.archive.images[refused].append(image(str(generate_uid())))  # of another study
    odd = site.steps.add(refused)
    performer = site.performer()
    for _ in range(4):
        performer.step()
        clock.forward(100)
    assert (site.steps.state(missing), site.steps.state(odd)) == ("CANCELED", "CANCELED")
    assert "archive has no study" in site.steps.reason(missing)
    assert "another study" in site.steps.reason(odd)


def test_a_series_that_the_archive_does_not_have_is_not_waited_for(open_site: Callable[..., Site]) -> None:
    site = open_site()
    uid = site.steps.add(site.study())
    site.steps.items[uid].InputInformationSequence[0].SeriesInstanceUID = "1.2.3"
    performer = site.performer()
    for _ in range(4):
        performer.step()
    assert site.steps.state(uid) == "CANCELED"
    assert "no image" in site.steps.reason(uid)


def test_workitems_of_other_codes_and_those_that_are_not_ready_are_left_to_others(
    open_site: Callable[..., Site],
) -> None:
    site = open_site()
    other = site.steps.add(site.study(), code="OTHER")
    unready = site.steps.add(site.study(), InputReadinessState="INCOMPLETE")
    labelled = site.steps.add(site.study(), WorklistLabel="HUMANS")
    mine = site.steps.add(site.study())
    site.performer(plans={"READ": ""}, label="AI").step()
    assert [site.steps.state(uid) for uid in (other, unready, labelled, mine)] == ["SCHEDULED"] * 3 + ["IN PROGRESS"]


def test_no_more_are_claimed_than_told_and_the_urgent_ones_first(open_site: Callable[..., Site]) -> None:
    site = open_site()
    uids = {priority: site.steps.add(site.study(), priority=priority) for priority in ("LOW", "MEDIUM", "HIGH")}
    site.performer(claims=2).step()
    assert [site.steps.state(uids[one]) for one in ("HIGH", "MEDIUM", "LOW")] == [*["IN PROGRESS"] * 2, "SCHEDULED"]


def test_a_reading_that_fails_cancels_its_workitem(open_site: Callable[..., Site]) -> None:
    site = open_site()
    study = site.study()
    uid = site.steps.add(study)
    performer = site.performer()
    performer.step()
    performer.step()
    run = site.ledger.study(study).runs[-1].id
    queue_complete(site.ledger)
    claim = site.ledger.runs.claim(run, "elsewhere:1:1", 60)
    assert claim is not None
    site.ledger.runs.end(claim, State.FAILED, "the model is gone")
    performer.step()
    assert (site.steps.state(uid), site.steps.reason(uid)) == ("CANCELED", "the study is FAILED: the model is gone")


def test_a_study_that_was_read_before_is_completed_with_the_results_it_has(open_site: Callable[..., Site]) -> None:
    site = open_site()
    study = site.study()
    first, second = site.steps.add(study), ""
    performer = site.performer()
    performer.step()
    performer.step()
    site.read(study)
    second = site.steps.add(study)
    for _ in range(3):
        performer.step()
    assert (site.steps.state(first), site.steps.state(second)) == ("COMPLETED", "COMPLETED")
    assert len(site.ledger.study(study).runs) == 1
    assert len(site.steps.outputs(second)) == 1


def test_a_plan_that_does_not_exist_is_refused_at_start(open_site: Callable[..., Site]) -> None:
    site = open_site()
    with pytest.raises(SettingsError, match="worklist ai: there is no plan chest-xrya"):
        site.performer(plans={"READ": "chest-xrya"})


def test_the_study_to_read_is_the_one_that_was_requested() -> None:
    steps = Steps()
    item = steps.items[steps.add("1.2.3")]
    prior = Dataset()
    prior.StudyInstanceUID, prior.SeriesInstanceUID = "1.2.2", "1.2.2.1"
    item.InputInformationSequence.append(prior)
    with pytest.raises(WorkitemError, match="2 studies and does not say which"):
        input_of(item)
    request = Dataset()
    request.StudyInstanceUID = "1.2.3"
    item.ReferencedRequestSequence = [request]
    found = input_of(item)
    assert (found.study_instance_uid, found.series_instance_uids, found.retrieve_aets) == ("1.2.3", (), ("ARCHIVE",))
    item.InputInformationSequence = []
    with pytest.raises(WorkitemError, match="names no study"):
        input_of(item)


@pytest.mark.parametrize("uid", ["*", "1.2.*", "../1.2"])
def test_what_is_no_uid_names_no_study_and_no_workitem(
    uid: str, open_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.settings, "_writing_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
    site = open_site()
    odd = site.steps.items.pop(site.steps.add("1.2.3"))
    odd.SOPInstanceUID = uid
    site.steps.items[uid] = odd
    site.performer().step()
    assert site.steps.state(uid) == "SCHEDULED"
    assert site.ledger.workitems.open("ai") == []
    odd.InputInformationSequence[0].StudyInstanceUID = uid
    with pytest.raises(WorkitemError, match="no UID"):
        input_of(odd)


def _owner(site: Site) -> str:
    """Who holds the worklist's lease: a process that a test takes for killed."""
    path = site.ledger._database._file
    assert path is not None
    with sqlite3.connect(path) as connection:
        ((owner,),) = connection.execute("SELECT owner FROM lease WHERE key = 'worklist:ai'").fetchall()
    return str(owner)
