"""The Celery tasks of the worker processes. A message is a hint: the ledger says whether something is to be done."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final, Literal, cast

import celery.worker.state
import structlog
from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_ready
from kombu.transport.virtual.base import W_NO_CONSUMERS

from dicom_node.children import DRAIN_SECONDS
from dicom_node.ledger import Ledger
from dicom_node.logs import set_up_logging
from dicom_node.metrics import process as metrics
from dicom_node.process import give_memory_back
from dicom_node.queue.broker import BrokerError
from dicom_node.queue.dispatch import (
    COUNT_TASK,
    DELIVER_TASK,
    DELIVERY,
    HOUSEKEEPING,
    READ_TASK,
    Dispatcher,
    make_app,
    reading_queue,
)
from dicom_node.settings import Settings
from dicom_node.spool import Spool
from engine.errors import NodeError

Role = Literal["reading", "delivery"]
DELIVERIES_AT_ONCE: Final = 4

log = structlog.get_logger(__name__)


def _task(app: Celery, name: str, work: Any) -> None:
    def task(*ids: str) -> None:
        try:
            with structlog.contextvars.bound_contextvars(task=name):
                work(*ids)
        except NodeError as error:
            # The ledger or the disk failed. What was to be done is still due, and the sweeper sends for it again.
            log.error("task not done", reason=str(error))

    app.task(name=name)(task)


def run_worker_role(settings: Settings, role: Role) -> None:
    """Be a worker process until SIGTERM or SIGINT; the process is its main thread's only work."""
    set_up_logging(settings.log)
    metrics.begin(settings)
    setup_logging.connect(_keep_logging, weak=False)
    # Celery warns of root because of pickle; these workers take JSON alone.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    logging.getLogger("kombu.transport.virtual.base").addFilter(_reword)
    ledger = Ledger.open(settings)
    spool = Spool(settings.data.path)
    app = make_app(settings)
    stop = _equip(app, role, settings, ledger, spool)

    def end(_signal: int, _frame: FrameType | None) -> None:
        # Celery's warm shutdown: no more messages, and the end once the threads are free. Its own handler does the
        # same and prints on standard error, in the middle of the log.
        celery.worker.state.should_stop = 0
        timer = threading.Timer(DRAIN_SECONDS, stop)
        timer.daemon = True
        timer.start()

    def ready(**_arguments: Any) -> None:
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        log.info("worker ready", role=role)

    worker_ready.connect(ready, weak=False)
    give_memory_back()
    if role == "reading":
        concurrency, queues = settings.reading.concurrency, [reading_queue(settings.engine.queue)]
    else:
        # A source that does not answer takes one thread, and so leaves the deliveries theirs.
        concurrency, queues = DELIVERIES_AT_ONCE + len(settings.sources), [DELIVERY, HOUSEKEEPING]
    worker = app.Worker(
        pool="threads",
        concurrency=concurrency,
        queues=queues,
        hostname=f"{role}.{os.getpid()}@medrega",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel=logging.WARNING,
        quiet=True,
    )
    try:
        worker.start()
    finally:
        ledger.close()


def _equip(app: Celery, role: Role, settings: Settings, ledger: Ledger, spool: Spool) -> Callable[[], None]:
    """Give an application the task of a role; returns what breaks off work under way. Imports only what it needs."""
    if role == "delivery":
        from dicom_node.delivery.deliverer import Deliverer
        from dicom_node.intake.counting import Counting
        from dicom_node.queue.wake import Bell

        deliverer, dispatcher = Deliverer(settings, ledger, spool), Dispatcher(settings, ledger, app)

        def deliver(run_id: str, destination: str) -> None:
            deliverer.deliver(run_id, destination)
            with suppress(BrokerError):  # the sweeper does it later
                dispatcher.dispatch_deliveries()  # what waited until this destination was free

        _task(app, DELIVER_TASK, deliver)
        _task(app, COUNT_TASK, Counting(settings, ledger, Bell(settings).ring).count)
        return lambda: None  # the peers' timeouts end it
    from dicom_node.reading.home import Home
    from dicom_node.reading.reader import Reader

    home: Home = spool
    if settings.reading.pixels == "wado":
        from dicom_node.dicomweb.front import Front

        home = Front(settings.front, settings.data.path / "cache")
    reader = Reader(settings, ledger, home, Dispatcher(settings, ledger, app))
    _task(app, READ_TASK, reader.read)
    return reader.stop


def _reword(record: logging.LogRecord) -> bool:
    """A message that comes while the worker ends is no fault, and kombu's warning sounds like one."""
    if record.msg == W_NO_CONSUMERS:
        record.msg, record.args = "a message came while the worker stops; it is put back into its queue", None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def _keep_logging(**_arguments: Any) -> None:
    """Celery leaves logging alone when this signal has a receiver."""


def main(arguments: list[str]) -> None:
    """``python -m dicom_node.queue.tasks ROLE``: a worker whose settings are in its environment."""
    run_worker_role(Settings(), cast(Role, arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
