"""What the node does all the time costs the same however many studies the ledger has: by the database's own steps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent.parent / "dicom_node"))

from load_ledger import LATE, PLAIN, fill
from node_bench import image, node_settings, received
from sqlalchemy import event, update
from study_bench import StudyBench, reading_of

from dicom_node.intake.completion import Completion
from dicom_node.ledger import DeliveryState, Ledger, State
from dicom_node.ledger.keeping import Terms
from dicom_node.ledger.models import Delivery
from dicom_node.ledger.overview import Filter
from dicom_node.ledger.records import Outcome
from dicom_node.metrics.exposition import exposition
from dicom_node.queue.dispatch import Dispatcher, make_app
from dicom_node.queue.sweeper import Sweeper
from dicom_node.settings import Settings
from dicom_node.spool import Spool

FEW, MANY = 100, 600
TERMS = Terms(frozenset({"pacs"}), keep_committed=True)


class Steps:
    """The steps of SQLite's machine that a ledger takes."""

    def __init__(self, ledger: Ledger) -> None:
        self.count = 0
        ledger._database.engine.dispose()
        event.listen(ledger._database.engine, "connect", lambda connection, _: connection.set_progress_handler(self, 1))

    def __call__(self) -> None:
        self.count += 1

    def of(self, call: Callable[[], object]) -> int:
        """Those of a call."""
        before = self.count
        call()
        return self.count - before


def _delivered(ledger: Ledger, spool: Spool) -> None:
    """Both studies, read and delivered; the second one twice, as an image came late."""
    bench = StudyBench(ledger, spool)
    for study, number in ((PLAIN, 1), (LATE, 1), (LATE, 2)):
        one = image(study, f"{study}.1", SOPInstanceUID=f"{study}.1.{number}")
        bench.receive(one)
        claim = bench.read(reading_of([one]), ["pacs"])
        due = ledger.deliveries.claim(claim.run_id, "pacs", "elsewhere:1:2", 60)
        arrived = [Outcome(item.id, DeliveryState.DELIVERED, 0, "") for item in due]
        assert ledger.deliveries.finish(claim.run_id, "pacs", "elsewhere:1:2", arrived) is State.DELIVERED
    while ids := ledger.audits.untold()[0]:
        ledger.audits.told(ids)
    with ledger._database.write() as session:
        session.execute(update(Delivery).values(committed_at=ledger.clock()))


def _calls(settings: Settings, ledger: Ledger) -> dict[str, tuple[Callable[[], object], float]]:
    """What is done, and the steps that each study in the ledger may add to it.

    What is asked about a few studies may take longer the more of them failed, and nothing for the others; what counts
    all of them takes a few steps each in an index; only what lists them may take more.
    """
    overview, study = ledger.overview, ledger.overview.uids(Filter(state=State.DELIVERED), 1)[0]
    sweeper = Sweeper(settings, ledger, Dispatcher(settings, ledger, make_app(settings)))
    completion = Completion(settings, ledger)
    new = iter(range(100))

    def arrive() -> None:
        number = next(new)
        ledger.arrivals.enter([received(f"1.2.{number}", f"1.2.{number}.1")])

    def nothing(_: object) -> None:
        pass

    sweeper.sweep()
    arrive()
    of_few: dict[str, Callable[[], object]] = {
        "a sweep": sweeper.sweep,
        "what is complete": lambda: completion.close(ledger.clock()),
        "counts to ask for": lambda: ledger.expectations.to_ask(["CT1"], 5),
        "commitments to ask for": lambda: ledger.commitments.to_request({"pacs"}),
        "an image": arrive,
        "an image that comes back": lambda: ledger.intake.is_own_result("1.2.3"),
        "the worklist's first page": lambda: overview.rows(Filter(), limit=20),
        "a page of what failed": lambda: overview.rows(Filter(state=State.FAILED), limit=1),
        "the routes": overview.routes,
        "a study's page": lambda: ledger.study(study),
        "what the engines do": lambda: (ledger.throughput.hours(), ledger.throughput.waiting()),
        "what is not audited": ledger.audits.untold,
        "images removed": lambda: ledger.keeping.purge_images(study, TERMS, "", nothing),
        "results removed": lambda: ledger.keeping.purge_results(study, TERMS, "", nothing, nothing),
        "results withdrawn": lambda: ledger.retractions.delivered(study),
    }
    counted: dict[str, Callable[[], object]] = {
        "metrics": lambda: exposition(settings, ledger),
        "the states": overview.standings,
        "how many": lambda: overview.count(Filter(at_least=timedelta(days=1))),
    }
    listed: dict[str, Callable[[], object]] = {
        "all that is kept": lambda: ledger.keeping.kept(TERMS),
        "all studies": ledger.studies,
    }
    allowed = ((of_few, 1.5), (counted, 15), (listed, 120))
    return {name: (call, steps) for calls, steps in allowed for name, call in calls.items()}


def test_costs_do_not_grow_with_the_ledger(tmp_path: Path) -> None:
    destination = {"name": "pacs", "aet": "PACS", "port": 104, "commitment": True}
    settings = node_settings(tmp_path, destinations=[destination], completion={"quiet_seconds": 3600})
    taken: list[dict[str, int]] = []
    for count in (FEW, MANY):
        ledger = Ledger(f"sqlite:///{tmp_path / str(count)}.sqlite3")
        ledger.migrate()
        _delivered(ledger, Spool(tmp_path / str(count)))
        fill(ledger, count)
        counter, calls = Steps(ledger), _calls(settings, ledger)
        taken.append({name: counter.of(call) for name, (call, _) in calls.items()})
        ledger.close()
    grew = {name: (taken[1][name] - taken[0][name]) / (MANY - FEW) for name in calls}
    assert {name: steps for name, steps in grew.items() if steps > calls[name][1]} == {}
