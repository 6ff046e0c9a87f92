"""The router: decides on every complete run by the rules as they are, and follows their file while the node runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import structlog

from dicom_node.ledger import Ledger, State
from dicom_node.ledger.records import CompleteRun
from dicom_node.routing.decision import Decision, Priority
from dicom_node.routing.facts import OF_THE_HEADERS, OF_THE_PATIENT, Facts, facts_of
from dicom_node.routing.header import Header, Person, read_person
from dicom_node.routing.index import Index
from dicom_node.routing.rules import DEFAULT, Names, Route, decide, load_rules, nearest
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.errors import MedregaError, NodeError, SettingsError

_AT_ONCE: Final = 100
"""Runs decided on in one sweep, so that after an outage the first ones are read while the others are decided on."""

log = structlog.get_logger(__name__)


class Router:
    """Decides on runs.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    spool : Spool

    Raises
    ------
    SettingsError
        If the rules are wrong, or an entry point names a route that there is not.
    """

    def __init__(self, settings: Settings, ledger: Ledger, spool: Spool) -> None:
        self._settings = settings
        self._ledger = ledger
        self._spool = spool
        self._index = Index(ledger, spool)
        self._signature = _signature(settings.routing.rules)
        self._routes = routes_of(settings)

    @property
    def routes(self) -> tuple[Route, ...]:
        """The rules that count."""
        return self._routes

    def start(self) -> None:
        """Read headers in the background as they arrive, if there are rules that may ask for them."""
        if self._settings.routing.rules is not None:
            self._index.start()

    def stop(self) -> None:
        """End what `start` began."""
        self._index.stop()

    def route_complete(self) -> dict[str, State]:
        """Decide on the runs that are complete, the oldest first, and enter the decisions.

        Returns
        -------
        dict of str to State
            QUEUED or IGNORED by the run's id.

        Raises
        ------
        NodeError
            If the ledger cannot be reached.
        """
        self._follow()
        if stopped := self._ledger.switches.enforce():
            log.warning("runs on switched routes stopped", runs=stopped)
        decided = {}
        for run in self._ledger.runs.to_route(_AT_ONCE):
            try:
                decision = self.decide(run)
            except NodeError:
                raise
            except Exception as error:  # the edge of one study: an odd one must not hold up those behind it
                log.error("unexpected error in a decision", run=run.id, study=run.study_instance_uid, exc_info=error)
                self._ledger.runs.undecided(run.id, f"the rules could not be worked out ({type(error).__name__})")
                continue
            state = self._ledger.runs.route(run.id, decision)
            if state is None:
                continue
            decided[run.id] = state
            log.info(
                "routed",
                run=run.id,
                study=run.study_instance_uid,
                route=decision.route,
                priority=decision.priority,
                action=decision.action,
                state=state,
            )
        return decided

    def decide(self, run: CompleteRun) -> Decision:
        """The decision on a run; the same again for as long as the rules are the same."""
        asked = asked_priority(self._settings, run.called_aets)
        named = named_route(self._settings, run.called_aets)
        facts = self._facts(run, asked) if named is None else Facts({})
        return decide(self._routes, facts, run.study_instance_uid, asked=asked, named=named)

    def _facts(self, run: CompleteRun, asked: Priority | None) -> Facts:
        names = {name for route in self._routes if route.condition for name in route.condition.names}
        headers: list[tuple[str, Header]] = []
        person = Person()
        if names & OF_THE_HEADERS:
            while self._index.read(run.id):
                pass
            items = self._ledger.headers.of_run(run.id)
            headers = [(item.series_instance_uid, Header.from_json(item.header)) for item in items]
            if names & {*OF_THE_PATIENT, "known"}:
                first = {item.series_instance_uid: item for item in reversed(items)}
                files = [(self._spool.path(item.path), item.transfer_syntax_uid) for item in first.values()]
                person = read_person(reversed(files))
        return facts_of(
            headers,
            person,
            called_aets=run.called_aets,
            calling_aets=run.calling_aets,
            asked=asked,
            at=time_of_day(self._settings, run.completed_at),
        )

    def _follow(self) -> None:
        """Load the rules anew once their file has changed; wrong ones are told once, and the old ones stay."""
        signature = _signature(self._settings.routing.rules)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._routes = routes_of(self._settings)
        except MedregaError as error:
            log.error("the rules of routing are wrong; the old ones stay", reason=error.explained)
        else:
            log.info("rules of routing loaded", routes=[route.name for route in self._routes])


def routes_of(settings: Settings) -> tuple[Route, ...]:
    """The rules that settings name, or the one built-in route.

    Raises
    ------
    SettingsError
        If they are wrong, or an entry point names a route that there is not.
    """
    path = settings.routing.rules
    routes = DEFAULT if path is None else load_rules(path, Names.of(settings))
    names = [route.name for route in routes]
    for entry in settings.entries:
        if entry.route is not None and entry.route not in names:
            raise SettingsError(
                f"the entry point {entry.aet} names the route {entry.route}, which there is not",
                advice=nearest(entry.route, names),
            )
    return routes


def asked_priority(settings: Settings, called_aets: Sequence[str]) -> Priority | None:
    """The most urgent that the entry points of a study ask for."""
    asked = [Priority(word) for aet in called_aets if (word := settings.entry(aet).priority)]
    return min(asked, key=lambda priority: priority.rank, default=None)


def named_route(settings: Settings, called_aets: Sequence[str]) -> str | None:
    """The route that the entry points of a study name; none where they name several."""
    named = {route for aet in called_aets if (route := settings.entry(aet).route)}
    return named.pop() if len(named) == 1 else None


def time_of_day(settings: Settings, at: datetime | None = None) -> datetime:
    """A point in time, or now, in the zone whose time of day rules see; one without a zone is in that already."""
    zone = ZoneInfo(settings.routing.time_zone) if settings.routing.time_zone else None
    if at is not None and at.tzinfo is None:
        return at.replace(tzinfo=zone) if zone else at.astimezone()
    return (at or datetime.now(UTC)).astimezone(zone)


def _signature(path: Path | None) -> tuple[int, int, int] | None:
    """What tells one state of a file from another."""
    try:
        state = path.stat() if path is not None else None
    except OSError:
        return None
    return (state.st_mtime_ns, state.st_size, state.st_ino) if state is not None else None
