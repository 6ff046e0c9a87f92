"""The ledger: the states of all studies, and the way back in for a person."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, Self

from sqlalchemy import ColumnElement, func, select, true

from dicom_node.ledger.accounts import Accounts
from dicom_node.ledger.arrivals import Arrivals
from dicom_node.ledger.audits import Audits
from dicom_node.ledger.clocks import Clocks
from dicom_node.ledger.commitments import Commitments
from dicom_node.ledger.database import Database, with_password
from dicom_node.ledger.deliveries import Deliveries
from dicom_node.ledger.destinations import Destinations
from dicom_node.ledger.expectations import Expectations
from dicom_node.ledger.headers import Headers
from dicom_node.ledger.holdings import Holdings
from dicom_node.ledger.intake import Intake
from dicom_node.ledger.keeping import Keeping
from dicom_node.ledger.leases import Leases
from dicom_node.ledger.models import (
    Delivery,
    DeliveryState,
    Event,
    Expectation,
    Instance,
    Result,
    Run,
    Study,
)
from dicom_node.ledger.overview import Overview
from dicom_node.ledger.part import Clock, Monotonic, Part, unknown_study
from dicom_node.ledger.records import (
    DeliveryRecord,
    EventRecord,
    ResultRecord,
    RunRecord,
    StudyRecord,
    StudySummary,
)
from dicom_node.ledger.rereadings import Rereadings
from dicom_node.ledger.retractions import Retractions
from dicom_node.ledger.reviews import Reviews
from dicom_node.ledger.runs import Runs
from dicom_node.ledger.sealing import LedgerKey
from dicom_node.ledger.sendings import Sendings
from dicom_node.ledger.standing import Standing
from dicom_node.ledger.states import ACTIVE, State
from dicom_node.ledger.switches import Switches, switched
from dicom_node.ledger.tallies import Tallies
from dicom_node.ledger.throughput import Throughput
from dicom_node.ledger.workitems import Workitems
from dicom_node.routing.decision import Action, Priority
from dicom_node.settings import Settings
from dicom_node.settings.section import secret_of
from engine.errors import NodeError

FILE = "ledger.sqlite3"
_SETTLED: Final = (DeliveryState.DELIVERED, DeliveryState.SUPERSEDED)


class Ledger(Part):
    """The ledger.

    Parameters
    ----------
    url : str
        SQLAlchemy URL of the database.
    clock : callable, optional
        Gives the time, aware; without one the database's, so that hosts whose clocks differ agree.
    monotonic : callable, optional
        Seconds by a clock that never jumps; without one this host's, or `clock` if that is given.
    key : LedgerKey, optional
        What leads to patients is encrypted with; in the clear without.

    Attributes
    ----------
    intake : Intake
    arrivals : Arrivals
    sendings : Sendings
    expectations : Expectations
    clocks : Clocks
    runs : Runs
    deliveries : Deliveries
    destinations : Destinations
    rereadings : Rereadings
    retractions : Retractions
    reviews : Reviews
    commitments : Commitments
    keeping : Keeping
    leases : Leases
    holdings : Holdings
    switches : Switches
    headers : Headers
    throughput : Throughput
    workitems : Workitems
    accounts : Accounts
    overview : Overview
    audits : Audits
    standing : Standing
    tallies : Tallies
    clock : callable
        Gives the time by which the ledger goes.
    """

    def __init__(
        self, url: str, clock: Clock | None = None, monotonic: Monotonic | None = None, *, key: LedgerKey | None = None
    ) -> None:
        database = Database(url, key)
        if clock is None:
            clock, monotonic = database.clock, monotonic or time.monotonic
        super().__init__(database, clock)
        self.clock = clock
        self.intake = Intake(self._database, clock)
        self.arrivals = Arrivals(self._database, clock)
        self.sendings = Sendings(self._database, clock)
        self.expectations = Expectations(self._database, clock)
        self.clocks = Clocks(self._database, clock, monotonic or (lambda: clock().timestamp()))
        self.runs = Runs(self._database, clock)
        self.deliveries = Deliveries(self._database, clock)
        self.destinations = Destinations(self._database, clock)
        self.rereadings = Rereadings(self._database, clock)
        self.retractions = Retractions(self._database, clock)
        self.reviews = Reviews(self._database, clock)
        self.commitments = Commitments(self._database, clock)
        self.keeping = Keeping(self._database, clock)
        self.leases = Leases(self._database, clock)
        self.holdings = Holdings(self._database, clock)
        self.switches = Switches(self._database, clock)
        self.headers = Headers(self._database, clock)
        self.throughput = Throughput(self._database, clock)
        self.workitems = Workitems(self._database, clock)
        self.accounts = Accounts(self._database, clock)
        self.overview = Overview(self._database, clock)
        self.audits = Audits(self._database, clock)
        self.standing = Standing(self._database, clock)
        self.tallies = Tallies(self._database, clock)

    @classmethod
    def open(cls, settings: Settings, clock: Clock | None = None) -> Self:
        """The ledger of a node, its tables up to date."""
        settings.data.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        ledger = cls(ledger_url(settings), clock, key=ledger_key(settings))
        ledger.migrate()
        return ledger

    def migrate(self) -> None:
        """Bring the tables up to this version; safe when several processes start at once."""
        self._database.migrate()

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def studies(self, state: State | None = None) -> list[StudySummary]:
        """Every study with the latest run that says how it stands, the newest first; only those in a state if given."""
        # Columns, no objects: of a hundred thousand studies those take twice as long.
        columns = (Run.study_instance_uid, Run.id, Run.number, Run.state, Run.reason, Run.changed_at)
        query = select(*columns, Study.created_at, Study.held_at).join(Study)
        query = query.where(Run.latest).order_by(Run.created_at.desc(), Run.id.desc())
        of_these: ColumnElement[bool] = true()
        if state is not None:
            query = query.where(Run.state == state)
            of_these = Instance.study_instance_uid.in_(
                select(Run.study_instance_uid).where(Run.latest, Run.state == state)
            )
        with self._database.read() as session:
            rows = session.execute(query).all()
            counts: dict[str, int] = {}
            callers: dict[str, set[str]] = {}
            for uid, aet, count in session.execute(
                select(Instance.study_instance_uid, Instance.calling_aet, func.count())
                .where(Instance.run_id.is_not(None), of_these)
                .group_by(Instance.study_instance_uid, Instance.calling_aet)
            ).all():
                counts[uid] = counts.get(uid, 0) + count
                callers.setdefault(uid, set()).add(aet)
            late = session.execute(
                select(Delivery.run_id, Delivery.destination, Delivery.reason)
                .where(Delivery.state == DeliveryState.PENDING, Delivery.reason != "")
                .order_by(Delivery.id.desc())
            ).all()
        held_up = {run_id: f"{destination}: {reason}" for run_id, destination, reason in late}
        now = self._clock()
        return [
            StudySummary(
                study_instance_uid=row.study_instance_uid,
                state=row.state,
                reason=held_up.get(row.id, row.reason),
                run_id=row.id,
                run_number=row.number,
                instances=counts.get(row.study_instance_uid, 0),
                calling_aets=tuple(sorted(callers.get(row.study_instance_uid, ()))),
                created_at=row.created_at,
                changed_at=row.changed_at,
                age_seconds=max(0.0, (now - row.changed_at).total_seconds()),
                held_at=row.held_at,
            )
            for row in rows
        ]

    def study(self, study_instance_uid: str) -> StudyRecord:
        """Everything known of a study.

        Raises
        ------
        NodeError
            If no image of it arrived.
        """
        with self._database.read() as session:
            study = session.get(Study, study_instance_uid)
            if study is None:
                raise unknown_study(study_instance_uid)
            runs = session.scalars(
                select(Run).where(Run.study_instance_uid == study_instance_uid).order_by(Run.number)
            ).all()
            ids = [run.id for run in runs]
            results = session.scalars(select(Result).where(Result.run_id.in_(ids)).order_by(Result.id)).all()
            deliveries = session.scalars(select(Delivery).where(Delivery.run_id.in_(ids)).order_by(Delivery.id)).all()
            events = session.scalars(
                select(Event).where(Event.study_instance_uid == study_instance_uid).order_by(Event.id)
            ).all()
            arrived = session.execute(
                select(Instance.run_id, func.count())
                .where(Instance.study_instance_uid == study_instance_uid)
                .group_by(Instance.run_id)
            ).all()
            expected = session.get(Expectation, study_instance_uid)
        count = {row[0]: row[1] for row in arrived}
        by_id = {result.id: result for result in results}
        return StudyRecord(
            study_instance_uid=study_instance_uid,
            created_at=study.created_at,
            conflicts=count.get(None, 0),
            held_at=study.held_at,
            expected=expected.instances if expected else None,
            expected_by=(expected.source or "its sender") if expected else "",
            runs=tuple(
                RunRecord(
                    run.id,
                    run.number,
                    run.state,
                    run.reason,
                    run.supersedes,
                    run.attempts,
                    run.created_at,
                    run.changed_at,
                    run.reading_digest,
                    sum(count.get(before.id, 0) for before in runs if before.number <= run.number),
                    run.route,
                    list(Priority)[run.priority],
                    run.plan,
                    run.findings,
                )
                for run in runs
            ),
            results=tuple(ResultRecord(r.run_id, r.kind, r.sop_instance_uid, r.sha256, r.path) for r in results),
            deliveries=tuple(
                DeliveryRecord(
                    d.run_id,
                    by_id[d.result_id].kind,
                    by_id[d.result_id].sop_instance_uid,
                    d.destination,
                    d.state,
                    d.attempts,
                    d.status,
                    d.reason,
                    d.next_attempt_at,
                    d.delivered_at,
                )
                for d in deliveries
            ),
            events=tuple(EventRecord(e.at, e.run_id, e.kind, e.from_state, e.to_state, e.reason) for e in events),
        )

    def retry(self, study_instance_uid: str) -> State:
        """Give a study that ended FAILED, CANCELLED or IGNORED another try, and say what state that puts it in.

        Results that exist are delivered again where they did not arrive; a reading that exists is not made again. A
        study that was IGNORED, or that no rule has looked at yet, goes by the rules as they are now.

        Raises
        ------
        NodeError
            If the study is unknown, its latest run has not ended that way, its route is switched by hand, or results
            that are to be sent were purged.
        """
        with self._database.write() as session:
            run = self._standing(session, study_instance_uid)
            if run.state not in (State.FAILED, State.CANCELLED, State.IGNORED):
                raise NodeError(
                    f"the study is {run.state}; only one that is FAILED, CANCELLED or IGNORED can be tried again"
                )
            now = self._clock()
            waiting = session.scalars(
                select(Delivery).where(Delivery.run_id == run.id, Delivery.state.not_in(_SETTLED))
            ).all()
            action, why = switched(session, run.route)
            if run.state is not State.IGNORED and (action is Action.OFF or (action is Action.SHADOW and waiting)):
                raise NodeError(why, advice=f"`medrega-pacs route on {run.route}` lets it go on")
            results = Result.id.in_([delivery.result_id for delivery in waiting])
            if session.scalar(select(Result.id).where(results, Result.purged_at.is_not(None)).limit(1)) is not None:
                raise NodeError("its results were purged", advice=f"medrega-pacs reread {study_instance_uid}")
            run.attempts, run.losses, run.next_attempt_at, run.dispatched_at = 0, 0, None, None
            if run.gathers:
                run.last_image_at = max(run.last_image_at, now)
                self._move(session, run, State.RECEIVING, "cancelled no more", "retry")
            elif waiting and run.state is not State.IGNORED:
                for delivery in waiting:
                    delivery.state, delivery.attempts, delivery.reason = DeliveryState.PENDING, 0, ""
                    delivery.created_at = delivery.next_attempt_at = now
                    delivery.dispatched_at = None
                self._move(session, run, State.DELIVERING, "tried again on request", "retry")
            else:
                again = State.COMPLETE if run.state is State.IGNORED or run.decision is None else State.QUEUED
                self._move(session, run, again, "tried again on request", "retry")
            return run.state

    def cancel(self, study_instance_uid: str) -> None:
        """Stop everything that is under way for a study, or give up one that FAILED, so that it may be purged.

        What is still sent of it is kept and opens no other run, until no image of it came for its quiet time. A worker
        in mid-reading notices at its next question. What has been delivered stays delivered.

        Raises
        ------
        NodeError
            If the study is unknown, or nothing is under way.
        """
        with self._database.write() as session:
            if session.get(Study, study_instance_uid) is None:
                raise unknown_study(study_instance_uid)
            these = select(Run).where(Run.study_instance_uid == study_instance_uid)
            runs = session.scalars(these.order_by(Run.number).with_for_update()).all()
            under_way = [run for run in runs if run.state in ACTIVE]
            if not under_way and runs and runs[-1].state is State.FAILED:
                self._stop(session, runs[-1], State.CANCELLED, "given up on request", "cancel")
                return
            if not under_way:
                raise NodeError(
                    "nothing is under way for this study",
                    advice="`medrega-pacs study` shows where it stands, `retract` withdraws what was delivered",
                )
            for run in under_way:
                self._stop(session, run, State.CANCELLED, "cancelled on request", "cancel")


def ledger_url(settings: Settings) -> str:
    """URL of the node's ledger: the site's own database, else SQLite in the data folder."""
    if settings.ledger.url is not None:
        url = settings.ledger.url.get_secret_value()
        file = settings.ledger.password_file
        return with_password(url, secret_of(file)) if file is not None else url
    path = (settings.data.path / FILE).resolve()
    return f"sqlite:///{Path(path)}"


def ledger_key(settings: Settings) -> LedgerKey | None:
    """The key that the settings name; None where they name none.

    Raises
    ------
    SettingsError
        If its file cannot be read or holds no key.
    """
    return LedgerKey.read(settings.ledger.key_file) if settings.ledger.key_file is not None else None
