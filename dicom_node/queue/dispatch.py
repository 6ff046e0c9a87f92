"""Dispatch: messages that say what is to be done. They carry ids only, may be lost, and may come twice."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import kombu.exceptions
import redis
import structlog
from celery import Celery

from dicom_node.ledger import Ledger
from dicom_node.ledger.part import Clock
from dicom_node.queue.broker import PRIORITY_STEPS, BrokerError, celery_app, waiting_tasks
from dicom_node.reading.watch import HANGING_SECONDS
from dicom_node.settings import Settings

READING: Final = "reading"
DELIVERY: Final = "delivery"
HOUSEKEEPING: Final = "housekeeping"
WINDOW: Final = 100
"""Messages on their way at the same time, of each reading queue and priority."""
READ_TASK: Final = "medrega.read"
DELIVER_TASK: Final = "medrega.deliver"
COUNT_TASK: Final = "medrega.count"
_GRACE: Final = timedelta(seconds=5)
"""After so long a message that two looks running find neither in its queue nor worked on is taken for lost."""

_T = TypeVar("_T", bound=Hashable)

log = structlog.get_logger(__name__)


def make_app(settings: Settings) -> Celery:
    """The node's Celery application; `dicom_node.queue.tasks` gives it its tasks in workers."""
    # Above the longest reading, with the time that an engine gets to notice that it was broken off.
    longest = settings.reading.deadline_seconds + HANGING_SECONDS + settings.reading.lease_seconds
    return celery_app(settings, visibility_seconds=longest)


def reading_queue(engine: str | None) -> str:
    """The Celery queue of an engine, by its name in the settings; that of any engine without one."""
    return f"{READING}.{engine}" if engine else READING


class Dispatcher:
    """Sends messages for whatever the ledger says is due.

    The ledger hears first: a worker may be done with a message before its sender has written that it sent one, and what
    a crash or a broker that is away leaves unsent is taken for lost and sent again.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    app : Celery
    clock : callable, optional
        The ledger's without one.
    """

    def __init__(self, settings: Settings, ledger: Ledger, app: Celery, clock: Clock | None = None) -> None:
        self._settings = settings
        self._ledger = ledger
        self._app = app
        self._clock = clock or ledger.clock
        self._missing: dict[str, frozenset[Any]] = {}

    def dispatch_readings(self) -> None:
        """Send for every queued run that is due and has no message on its way.

        Raises
        ------
        BrokerError
            If the broker cannot be reached; the ledger still has what is due, for the next time.
        """
        new, old = self._ledger.runs.to_dispatch(self._sent_before(), WINDOW)
        waiting = {queue: waiting_tasks(self._settings, reading_queue(queue)) for queue in {run.queue for run in old}}
        missing = [run for run in old if _reading_id(run.id) not in waiting[run.queue]]
        for run in [*new, *self._lost(READING, missing)]:
            self._ledger.runs.dispatched([run.id])
            step = PRIORITY_STEPS[run.priority]
            self._send(READ_TASK, reading_queue(run.queue), (run.id,), _reading_id(run.id), step)
        self._ledger.runs.dispatched([run.id for run in old if run not in missing])

    def dispatch_deliveries(self) -> None:
        """Send for every shipment that is due and has no message on its way.

        Raises
        ------
        BrokerError
            As `dispatch_readings`.
        """
        new, old = self._ledger.deliveries.to_dispatch(self._sent_before())
        waiting = waiting_tasks(self._settings, DELIVERY) if old else set()
        missing = [shipment for shipment in old if _delivery_id(*shipment) not in waiting]
        for shipment in [*new, *self._lost(DELIVERY, missing)]:
            self._ledger.deliveries.dispatched([shipment])
            self._send(DELIVER_TASK, DELIVERY, shipment, _delivery_id(*shipment))
        self._ledger.deliveries.dispatched([shipment for shipment in old if shipment not in missing])

    def ask_for_counts(self, run_ids: Iterable[str]) -> None:
        """Have the sources of these runs' studies asked how many images they have.

        Raises
        ------
        BrokerError
            As `dispatch_readings`.
        """
        for run_id in run_ids:
            self._send(COUNT_TASK, HOUSEKEEPING, (run_id,), f"count-{run_id}")

    def _lost(self, queue: str, missing: Sequence[_T]) -> list[_T]:
        """Those that the look before missed too: a worker takes a message a moment before the ledger hears of it."""
        lost = [work for work in missing if work in self._missing.get(queue, ())]
        self._missing[queue] = frozenset(missing)
        if lost:
            log.warning("messages were lost and are sent again", queue=queue, messages=len(lost))
        return lost

    def _sent_before(self) -> datetime:
        return self._clock() - _GRACE

    def _send(self, task: str, queue: str, arguments: Iterable[str], task_id: str, step: int = 0) -> None:
        try:
            self._app.send_task(task, args=list(arguments), task_id=task_id, queue=queue, priority=step)
        except (kombu.exceptions.OperationalError, redis.RedisError, OSError) as error:
            raise BrokerError(f"the broker cannot be reached ({type(error).__name__})") from None


def _reading_id(run_id: str) -> str:
    return f"read-{run_id}"


def _delivery_id(run_id: str, destination: str) -> str:
    return f"deliver-{run_id}-{destination}"
