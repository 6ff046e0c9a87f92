"""Completion: by quiet time or by evidence, whatever the clock does, and by hand; with a simulated clock."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_bench import Clock, node_settings, received
from queued import queue_complete

from dicom_node.intake.completion import Completion, quiet_time
from dicom_node.intake.transfers import Transfer, Transfers
from dicom_node.ledger import Ledger, State
from dicom_node.ledger.expectations import HEADERS
from dicom_node.ledger.records import StoredResult
from dicom_node.process import new_owner
from dicom_node.settings import Settings
from engine.errors import NodeError

STUDY = "1.2.3"


def node(**changes: object) -> Settings:
    tables: dict[str, object] = {"completion": {"quiet_seconds": 60, "per_calling_aet": {"CT1": 120}}}
    return Settings(**tables | changes)  # type: ignore[arg-type]


QUIET = node()


class Site:
    """A ledger under a clock set by hand, with what closes studies, and transfers as the listener tells of them."""

    def __init__(self, ledger: Ledger, clock: Clock, settings: Settings = QUIET) -> None:
        self.ledger, self.clock, self.settings = ledger, clock, settings
        self.completion = Completion(settings, ledger)
        self.rung = 0
        self.transfers = Transfers(ledger, self._ring)
        self.images = 0

    def _ring(self) -> None:
        self.rung += 1

    def image(self, transfer: Transfer | None = None, study: str = STUDY, aet: str = "MR1", sop: str = "") -> str:
        self.images += 1
        run_id = self.ledger.intake.record(received(study, sop or f"{study}.{self.images}", aet))
        if transfer is not None:
            transfer.image(study)
        return run_id

    def end(self, transfer: Transfer, *, released: bool = True) -> None:
        transfer.released = released
        transfer.end()

    def sweep(self) -> dict[str, str]:
        return self.completion.close(self.ledger.clocks.steady())

    def expect(self, instances: int | None, study: str = STUDY, source: str = "archive") -> None:
        """The source says twice, the settling time apart, how many images there are."""
        self.ledger.expectations.answered(study, source, instances)
        self.clock.forward(self.settings.completion.settle_seconds)
        self.ledger.expectations.answered(study, source, instances)

    def state(self, study: str = STUDY) -> State:
        return self.ledger.study(study).runs[-1].state


@pytest.fixture
def site(ledger: Ledger, clock: Clock) -> Site:
    return Site(ledger, clock)


# Quiet time


def test_the_quiet_time_is_the_longest_of_the_senders_and_reset_by_each_image(site: Site) -> None:
    site.image()
    site.clock.forward(59)
    assert not site.sweep()
    site.image(aet="CT1")
    site.clock.forward(119)
    assert not site.sweep()
    site.clock.forward(1)
    assert list(site.sweep().values()) == ["no image for 120 s"]
    assert site.state() is State.COMPLETE


def test_a_sender_s_quiet_time_counts_before_its_entry_point_s() -> None:
    entries = [{"aet": "STAT", "quiet_seconds": 10}, {"aet": "OTHER"}]
    both = node(entries=entries)
    assert quiet_time(both, [("MR1", "STAT")]) == 10
    assert quiet_time(both, [("CT1", "STAT")]) == 120
    assert quiet_time(both, [("MR1", "STAT"), ("MR1", "OTHER")]) == quiet_time(both, []) == 60


def test_an_image_on_its_way_resets_the_quiet_time(site: Site) -> None:
    transfer = site.transfers.open()
    site.image(transfer)
    for _ in range(4):
        site.clock.forward(50)
        transfer.heard()
        site.transfers.tell()
        assert not site.sweep()
    site.clock.forward(59)
    site.end(transfer, released=False)  # the quiet time begins with the end of the transfer
    site.clock.forward(59)
    assert not site.sweep()
    site.clock.forward(1)
    assert site.sweep()


# Evidence


def test_a_study_whose_count_is_met_is_complete_with_the_release_of_its_last_transfer(site: Site) -> None:
    first, second = site.transfers.open(), site.transfers.open()
    site.image(first)
    site.image(second)
    site.expect(3)
    site.end(first)
    assert site.rung == 1
    assert not site.sweep()
    site.image(second)
    site.transfers.tell()
    assert not site.sweep(), "the second one is not released"
    site.end(second)
    assert site.rung == 2
    assert list(site.sweep().values()) == ["3 of 3 images arrived, as archive counts"]
    assert not site.sweep()


def test_no_evidence_no_early_end(site: Site) -> None:
    transfer = site.transfers.open()
    site.image(transfer)
    site.end(transfer)
    assert site.rung == 0
    assert not site.sweep()
    site.expect(None)
    assert not site.sweep()
    site.clock.forward(55)
    assert list(site.sweep().values()) == ["no image for 60 s"]


def test_an_aborted_transfer_proves_nothing(site: Site) -> None:
    transfer = site.transfers.open()
    site.image(transfer)
    site.image(transfer)
    site.expect(2)
    site.end(transfer, released=False)
    assert site.rung == 0
    assert not site.sweep()
    again = site.transfers.open()
    site.clock.forward(20)
    site.image(again, sop=f"{STUDY}.2")  # the sender does not know that it arrived, and sends it again
    site.end(again)
    assert list(site.sweep().values()) == ["2 of 2 images arrived, as archive counts"]


def test_more_images_than_expected_go_by_the_quiet_time(site: Site) -> None:
    transfer = site.transfers.open()
    for _ in range(3):
        site.image(transfer)
    site.expect(2)
    site.end(transfer)
    assert not site.sweep()
    site.clock.forward(60)
    assert list(site.sweep().values()) == ["no image for 60 s"]


def test_a_source_that_is_itself_receiving_closes_nothing(site: Site) -> None:
    """An archive that hands on each image as it comes has at every moment as many as it has handed on."""
    for number in range(1, 5):
        transfer = site.transfers.open()
        site.image(transfer)
        site.end(transfer)
        site.ledger.expectations.answered(STUDY, "archive", number)
        assert not site.sweep()
        site.clock.forward(2)
    site.clock.forward(3)
    assert not site.sweep(), "it has said so only once"
    site.ledger.expectations.answered(STUDY, "archive", 4)
    assert site.sweep()


def test_the_sender_s_own_headers_need_no_second_word(site: Site) -> None:
    with site.transfers.open() as transfer:
        site.image(transfer)
        site.ledger.expectations.answered(STUDY, HEADERS, 1)
    assert list(site.sweep().values()) == ["1 of 1 images arrived, as the sender's headers say"]


def test_a_transfer_that_ended_with_its_process_neither_blocks_nor_proves(site: Site) -> None:
    site.image()
    host = new_owner().split(":")[0]
    site.ledger.sendings.heard(f"{host}:4194304:1:x", [("lost", STUDY)], [])
    transfer = site.transfers.open()
    site.image(transfer)
    site.expect(2)
    site.end(transfer)
    assert site.sweep(), "the process is gone, and all images are there"


def test_a_transfer_to_another_host_that_is_cut_off_leaves_the_quiet_time(site: Site) -> None:
    site.image()
    site.ledger.sendings.heard("elsewhere.1:1:1:x", [("cut off", STUDY)], [])
    transfer = site.transfers.open()
    site.image(transfer)
    site.expect(2)
    site.end(transfer)
    assert not site.sweep()
    site.clock.forward(60)
    assert site.sweep()


def test_sources_are_asked_until_they_say_the_same_and_again_when_images_go_on_arriving(site: Site) -> None:
    expectations = site.ledger.expectations
    run_id = site.image(aet="MR1")
    assert expectations.to_ask({"CT1"}, 5) == []
    assert expectations.to_ask({"MR1"}, 5) == [run_id]
    expectations.answered(STUDY, "archive", 2)
    assert expectations.to_ask({"MR1"}, 5) == []
    site.clock.forward(5)
    assert expectations.to_ask({"MR1"}, 5) == [run_id], "for the second time"
    expectations.answered(STUDY, "archive", 2)
    site.clock.forward(50)
    assert expectations.to_ask({"MR1"}, 5) == []
    site.image()
    assert expectations.to_ask({"MR1"}, 5) == [run_id], "an image has come"
    expectations.answered(STUDY, HEADERS, 2)
    site.clock.forward(50)
    site.image()
    assert expectations.to_ask({"MR1"}, 5) == []


# The clock


@dataclass
class Jumpy:
    """A wall clock that someone sets, and the monotonic one that nobody can."""

    clock: Clock
    ahead: float = 0

    def monotonic(self) -> float:
        return self.clock.now.timestamp() - self.ahead

    def jump(self, seconds: float) -> None:
        self.ahead += seconds
        self.clock.forward(seconds)


@pytest.fixture
def jumpy(tmp_path: Path, clock: Clock) -> Iterator[tuple[Site, Jumpy]]:
    jumpy = Jumpy(clock)
    ledger = Ledger(f"sqlite:///{tmp_path / 'jumpy.sqlite3'}", clock, jumpy.monotonic)
    ledger.migrate()
    yield Site(ledger, clock), jumpy
    ledger.close()


@pytest.mark.parametrize("seconds", [3600 * 24 * 400, 3600, 2, -2, -3600, -3600 * 24 * 400])
def test_a_clock_that_jumps_closes_nothing_early_and_holds_nothing_up(
    jumpy: tuple[Site, Jumpy], seconds: float
) -> None:
    site, clock = jumpy
    site.sweep()
    site.image()
    site.clock.forward(30)
    clock.jump(seconds)
    site.image()  # entered before the sweep has seen the jump
    assert not site.sweep()
    site.clock.forward(59)
    assert not site.sweep()
    site.clock.forward(1)
    assert len(site.sweep()) == 1


def test_leases_and_attempts_follow_a_jump(jumpy: tuple[Site, Jumpy]) -> None:
    site, clock = jumpy
    ledger = site.ledger
    site.sweep()
    held, waits = (site.image(study=study) for study in ("1.2.3", "1.2.4"))
    site.clock.forward(60)
    site.sweep()
    queue_complete(ledger)
    claim = ledger.runs.claim(waits, "elsewhere:1:1", 300)
    assert claim is not None
    ledger.runs.give_back(claim, "a fault", site.clock() + timedelta(seconds=100), attempt=True)
    assert ledger.runs.claim(held, "elsewhere:1:1", 300) is not None
    clock.jump(1000)
    site.sweep()
    assert ledger.runs.reclaim_lost(3) == []
    assert ledger.runs.to_dispatch(site.clock()) == ([], [])
    site.clock.forward(100)
    assert [run.id for run in ledger.runs.to_dispatch(site.clock())[0]] == [waits]
    site.clock.forward(200)
    assert ledger.runs.reclaim_lost(3) == [held]


def test_a_node_that_starts_gives_senders_their_quiet_time(site: Site) -> None:
    site.image()
    site.clock.forward(3600)  # nobody listened
    site.ledger.intake.begin()
    assert not site.sweep()
    site.clock.forward(60)
    assert site.sweep()


# By hand


def test_a_held_study_takes_images_in_and_is_closed_by_nothing(site: Site) -> None:
    transfer = site.transfers.open()
    site.image(transfer)
    site.ledger.intake.hold(STUDY, "being corrected")
    site.image(transfer)
    site.expect(2)
    site.end(transfer)
    site.clock.forward(1000)
    assert not site.sweep()
    assert site.ledger.studies()[0].held_at is not None
    with pytest.raises(NodeError, match="held"):
        site.ledger.intake.push(STUDY)
    assert site.ledger.intake.close(STUDY, "fetched") is None
    site.ledger.intake.release(STUDY)
    site.image()
    site.clock.forward(60)
    assert site.sweep()
    assert [run.instances for run in site.ledger.study(STUDY).runs] == [3]


def test_a_held_study_in_the_queue_is_neither_sent_for_nor_claimed(site: Site) -> None:
    run_id = site.image()
    site.ledger.intake.push(STUDY)
    queue_complete(site.ledger)
    site.ledger.intake.hold(STUDY)
    assert site.ledger.runs.to_dispatch(site.clock()) == ([], [])
    assert site.ledger.runs.claim(run_id, "elsewhere:1:1", 300) is None
    site.ledger.intake.release(STUDY)
    assert [run.id for run in site.ledger.runs.to_dispatch(site.clock())[0]] == [run_id]
    assert site.ledger.runs.claim(run_id, "elsewhere:1:1", 300) is not None
    with pytest.raises(NodeError, match="READING"):
        site.ledger.intake.push(STUDY)


def test_a_pushed_study_is_the_next_one(site: Site) -> None:
    for number in range(4):
        site.image(study=f"1.3.{number}")
        site.clock.forward(60)
        site.sweep()
    queue_complete(site.ledger)
    pushed = site.image()
    site.ledger.intake.push(STUDY)
    queue_complete(site.ledger)

    def order() -> list[str]:
        return [run.id for run in site.ledger.runs.to_dispatch(site.clock())[0]]

    assert len(order()) == 5
    assert order()[0] == pushed
    site.ledger.intake.push("1.3.0")
    first = site.ledger.study("1.3.0").runs[0].id
    assert order()[:2] == [first, pushed], "the oldest first of those that were pushed"


def test_a_study_cancelled_while_it_is_sent_stays_cancelled_until_a_quiet_time_later(site: Site) -> None:
    transfer = site.transfers.open()
    site.image(transfer)
    site.ledger.cancel(STUDY)
    for _ in range(3):
        site.clock.forward(50)
        site.image(transfer)
        assert not site.sweep()
    site.end(transfer)
    assert [(run.state, run.instances) for run in site.ledger.study(STUDY).runs] == [(State.CANCELLED, 4)]
    site.clock.forward(60)
    assert not site.sweep(), "it is not complete, only no longer gathering"
    site.image()
    first, second = site.ledger.study(STUDY).runs
    assert (first.state, second.state, second.instances) == (State.CANCELLED, State.RECEIVING, 5)


def test_a_cancelled_study_that_is_still_sent_goes_on_receiving_when_it_is_retried(site: Site) -> None:
    site.image()
    site.ledger.cancel(STUDY)
    site.image()
    assert site.ledger.retry(STUDY) is State.RECEIVING
    site.image()
    site.clock.forward(60)
    assert site.sweep()
    assert [(run.state, run.instances) for run in site.ledger.study(STUDY).runs] == [(State.COMPLETE, 3)]


# Fifty studies over eight associations


@dataclass
class Sent:
    """What the test knows of a study: its images in the order in which they are sent, and what closed its runs."""

    uid: str
    images: list[str]
    source_counts: bool
    arrived: list[tuple[float, str]] = field(default_factory=list)
    """When, and which."""
    ended: float = 0.0


class Interleaving:
    """Senders, two sweepers and a reader on one ledger, under a simulated clock; every step is drawn from a seed."""

    ASSOCIATIONS = 8
    QUIET = 30.0

    def __init__(self, folder: Path, seed: int, studies: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a simulation
        self.clock = Clock()
        self.jumpy = Jumpy(self.clock)
        self.now = 0.0
        url = f"sqlite:///{folder / 'ledger.sqlite3'}"
        settings = node_settings(folder, completion={"quiet_seconds": self.QUIET, "settle_seconds": 5})
        self.ledgers = [
            Ledger(url, self.clock, self.jumpy.monotonic) for _ in range(3)
        ]  # two hosts' sweepers, and the listeners
        self.ledgers[0].migrate()
        self.ledger = self.ledgers[2]
        self.sweepers = [Completion(settings, ledger) for ledger in self.ledgers[:2]]
        self.transfers = Transfers(self.ledger)
        self.studies = [
            Sent(f"1.2.{n}", [f"1.2.{n}.{i}" for i in range(self.random.randint(1, 8))], self.random.random() < 0.6)
            for n in range(studies)
        ]
        for study in self.studies:
            self.random.shuffle(study.images)
        self.read: dict[str, list[frozenset[str]]] = {study.uid: [] for study in self.studies}
        self.sets: dict[str, list[frozenset[str]]] = {study.uid: [] for study in self.studies}

    def pass_time(self, seconds: float) -> None:
        self.clock.forward(seconds)
        self.now += seconds

    def play(self) -> None:
        """Send everything, a study over one or two associations, some of them aborted, some images late."""
        jobs: list[tuple[Sent, list[str]]] = []
        late: list[tuple[Sent, list[str]]] = []
        for study in self.studies:
            cut = self.random.randint(0, len(study.images))
            jobs += [(study, part) for part in (study.images[:cut], study.images[cut:]) if part]
            if self.random.random() < 0.2:
                late.append((study, [f"{study.uid}.9{i}" for i in range(self.random.randint(1, 3))]))
        self.random.shuffle(jobs)
        self._send(jobs)
        self._wait_until_closed()
        for study, images in late:
            study.images += images
        self._send(late)
        self._wait_until_closed()

    def _send(self, jobs: list[tuple[Sent, list[str]]]) -> None:
        open_now: list[tuple[Transfer, Sent, list[str], list[str]]] = []
        while jobs or open_now:
            while jobs and len(open_now) < self.ASSOCIATIONS:
                study, images = jobs.pop()
                open_now.append((self.transfers.open(), study, list(images), []))
            if self.random.random() < 0.03:  # someone sets the clock
                self.jumpy.jump(self.random.choice((-7200.0, -20.0, 40.0, 86400.0)))
            index = self.random.randrange(len(open_now))
            transfer, study, images, sent = open_now[index]
            self.pass_time(self.random.choice((0.05, 0.2, 1.0, 3.0)))
            image = images.pop()
            self._image(transfer, study, image)
            sent.append(image)
            if self.random.random() < 0.05:  # aborted: what was sent last is sent again, on another association
                transfer.end()
                study.ended = self.now
                del open_now[index]
                jobs.append((study, [*images, *sent[-2:]]))
            elif not images:
                transfer.released = True
                transfer.end()
                study.ended = self.now
                del open_now[index]
            if self.random.random() < 0.3:
                self.transfers.tell()
            if self.random.random() < 0.5:
                self.sweep()

    def _image(self, transfer: Transfer, study: Sent, image: str) -> None:
        if image in {known for _, known in study.arrived}:
            self.ledger.intake.touch([study.uid])
        else:
            self.ledger.intake.record(received(study.uid, image, "MR1"))
        study.arrived.append((self.now, image))
        transfer.image(study.uid)

    def sweep(self) -> None:
        """Sources answer, one of the sweepers closes, and a reader takes what is queued."""
        if self.random.random() < 0.7:
            for study in self.studies:
                if study.source_counts and study.arrived:
                    self.ledger.expectations.answered(study.uid, "archive", len(study.images))
        sweeper = self.random.choice(self.sweepers)
        now = self.ledger.clocks.steady()
        before = {run.id: run for run in self.ledger.intake.receiving()}
        for run_id, reason in sweeper.close(now).items():
            self._closed(before[run_id].study_instance_uid, reason)
        for other in self.sweepers:
            assert not other.close(now), "two sweepers closed the same"
        self._read()

    def _closed(self, uid: str, reason: str) -> None:
        study = next(study for study in self.studies if study.uid == uid)
        images = frozenset(image for _, image in study.arrived)
        if reason.startswith("no image"):
            assert self.now - max(study.arrived[-1][0], study.ended) >= self.QUIET - 1e-3, "closed early"
        else:
            assert images == set(study.images), "closed early by evidence"
        self.sets[uid].append(images)

    def _read(self) -> None:
        ledger = self.ledgers[0]
        queue_complete(ledger)
        runs, _ = ledger.runs.to_dispatch(self.clock())
        for run in [*runs, *runs]:  # each message comes twice
            claim = ledger.runs.claim(run.id, f"elsewhere:{run.id}:1", 300)
            if claim is None:
                continue
            self.read[claim.study_instance_uid].append(
                frozenset(instance.sop_instance_uid for instance in claim.instances)
            )
            ledger.runs.reading_stored(claim, "d" * 64)
            result = StoredResult(f"2.25.{int(run.id, 16)}", "1.2", "1.3", "sr", "0" * 64, f"results/{run.id}")
            ledger.runs.results_stored(claim, {"": [result]})

    def _wait_until_closed(self) -> None:
        while self.ledger.intake.receiving():
            self.pass_time(1.0)
            self.sweep()
        self._read()

    def check(self) -> None:
        for study in self.studies:
            record = self.ledger.study(study.uid)
            assert self.read[study.uid] == self.sets[study.uid], "each completed set is read once, in its order"
            assert self.read[study.uid][-1] == set(study.images), "the last reading has everything"
            assert [run.supersedes for run in record.runs] == [None, *(run.id for run in record.runs[:-1])]
            assert {run.state for run in record.runs} == {State.DELIVERED}
            assert len(record.runs) == len(self.read[study.uid])

    def close(self) -> None:
        for ledger in self.ledgers:
            ledger.close()


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_interleaved_studies_are_read_once_for_each_completed_set(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    world = Interleaving(tmp_path_factory.mktemp("interleaved"), seed, studies=10)
    world.play()
    world.check()
    world.close()


def test_fifty_studies_over_eight_associations(tmp_path: Path) -> None:
    world = Interleaving(tmp_path, seed=5, studies=50)
    world.play()
    world.check()
    runs = [len(read) for read in world.read.values()]
    assert sum(count > 1 for count in runs) > 5, "no study superseded"
    world.close()
