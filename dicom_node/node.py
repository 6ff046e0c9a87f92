"""The node: its parts in one process and its children, for one machine or for one role among several machines."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import structlog

from dicom_node.audit import Action, AuditEvent, Trail, this_person
from dicom_node.children import DRAIN_SECONDS, Child, Children, tethered
from dicom_node.commitments import Commitments
from dicom_node.dimse.listener import Listener
from dicom_node.dimse.services import Service
from dicom_node.intake.adoption import Adopter, adopt, adopt_left
from dicom_node.ledger import Ledger
from dicom_node.metrics import process as metrics
from dicom_node.process import StopSignal, give_memory_back
from dicom_node.queue.broker import describe, is_embedded, server_command, wait_until_up
from dicom_node.queue.dispatch import Dispatcher, make_app
from dicom_node.queue.sweeper import Sweeper
from dicom_node.reading.profiles import output_profiles
from dicom_node.retention import Retention
from dicom_node.routing.router import routes_of
from dicom_node.scratch import Scratch
from dicom_node.settings import ENVIRONMENT_PREFIX, Settings
from dicom_node.spool import Spool
from engine.errors import NodeError
from engine.runtime import model_path

if TYPE_CHECKING:
    from dicom_node.worklist.performer import Performer

LISTENER_DRAIN_SECONDS: Final = 5

log = structlog.get_logger(__name__)


class Node:
    """The whole node, or its front (listener, sweeper, embedded broker), or its workers.

    Parameters
    ----------
    settings : Settings
    front : bool
        Listen, sweep, and run the embedded broker where the settings name no other.
    workers : bool
        Run the reading and the delivery worker.
    """

    def __init__(self, settings: Settings, *, front: bool = True, workers: bool = True) -> None:
        self._settings = settings
        self._front = front
        self._workers = workers
        self._stack = ExitStack()
        self._children = Children()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start every part; returns once the node listens.

        Raises
        ------
        MedregaError
            If a part cannot start; those that had are stopped.
        """
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """Take nothing more in, let what is under way end for a while, and stop every part."""
        self._stack.close()
        self._stopped.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the node was stopped; whether it was."""
        return self._stopped.wait(seconds)

    def child_pid(self, name: str) -> int | None:
        """Process id of a running child: ``broker``, ``console``, ``dicomweb``, ``reading`` or ``delivery``."""
        return self._children.pid(name)

    def _start(self, stack: ExitStack) -> None:
        settings = self._settings
        if self._workers:
            output_profiles(settings.destinations)
        if self._front:
            routes_of(settings)  # rules that are wrong are told before anything has started
        settings.data.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._front:
            stack.enter_context(OnlyOne(settings))
        stack.enter_context(at_work(settings))
        stack.enter_context(Scratch(settings.data.path))
        metrics.begin(settings, first=self._front)
        if not self._front and settings.metrics.worker_port is not None:
            from dicom_node.metrics.worker import serve  # a server that only hosts without a console need

            stack.callback(serve(settings))
        ledger = Ledger.open(settings)
        stack.callback(ledger.close)
        spool = Spool.of(settings)
        if self._front:
            spool.clean()
            adopt_left(spool, ledger)
            adopt(spool, ledger)
        server = None
        if self._front and settings.dicomweb.enabled:
            from dicom_node.dicomweb.child import server_child  # TLS, and what else a node without it does not need

            server, port = server_child(settings, _environment(settings))
            stack.callback(port.close)
        console = None
        if self._front and settings.console.enabled:
            from dicom_node.console.child import console_child

            console, port = console_child(settings, _environment(settings))
            stack.callback(port.close)
        stack.callback(self._children.stop, DRAIN_SECONDS + 5)
        if self._front and is_embedded(settings):
            self._children.add(Child("broker", tethered(server_command(settings)), ends_last=True))
        wait_until_up(settings)
        log.info("broker answers", broker=describe(settings))
        if self._workers:
            if not model_path(settings.engine.model).exists():
                log.error("there is no such model; studies fail until there is one", model=settings.engine.model)
            environment = _environment(settings)
            roles = ["reading"] if settings.reading.concurrency else []
            if settings.reading.pixels == "folder":  # delivery runs where the spool is
                roles.append("delivery")
            for role in roles:
                command = [sys.executable, "-m", "dicom_node.queue.tasks", role]
                self._children.add(Child(role, tethered(command), environment))
        if self._front:
            dispatcher = Dispatcher(settings, ledger, make_app(settings))
            sweeper = Sweeper(settings, ledger, dispatcher)
            sweeper.start()
            stack.callback(sweeper.stop)
            retention = Retention(settings, spool, ledger)
            retention.start()
            stack.callback(retention.stop)
            for child in filter(None, (server, console)):
                self._children.add(child)
            commitments = Commitments(settings, spool, ledger)
            services: list[Service] = [commitments]
            performers: list[Performer] = []
            if settings.worklists:
                from dicom_node.dimse.ups import UpsEvents
                from dicom_node.worklist.performer import Performer

                services.append(UpsEvents(ledger.workitems.ask_cancel))
                performers = [Performer(settings, one, spool, ledger) for one in settings.worklists]
            listener = Listener.of(settings, spool, ledger, services, sweeper.wake)
            listener.start()
            give_memory_back()
            gc.freeze()  # the library collects at every 60th connection, which stood all threads still for 0.1 s
            if settings.listener.processes > 1:
                from dicom_node.dimse.process import listener_children

                for child in listener_children(settings, _environment(settings)):
                    self._children.add(child)
            adopter = Adopter(spool, ledger)
            adopter.start()
            stack.callback(adopter.stop)
            commitments.start()
            stack.callback(commitments.stop)
            stack.callback(listener.stop, LISTENER_DRAIN_SECONDS)
            for performer in performers:
                performer.start()
                stack.callback(performer.stop)
        self._audit(stack)

    def _audit(self, stack: ExitStack) -> None:
        """Enter that the node started, with which settings, and later that it stopped."""
        settings = self._settings
        trail = Trail.of(settings)
        if self._front and settings.audit.host is not None:
            from dicom_node.audit.syslog import Forwarder

            forwarder = Forwarder(settings)
            forwarder.start()
            stack.callback(forwarder.stop)
        parts = " and ".join(name for name, here in (("front", self._front), ("workers", self._workers)) if here)
        person = this_person()
        digest = sha256(settings.model_dump_json().encode()).hexdigest()  # secrets are asterisks in it
        trail.write(AuditEvent(Action.NODE_STARTED, person, detail=parts))
        trail.write(AuditEvent(Action.SETTINGS_LOADED, person, detail=f"SHA-256 {digest}"))
        stack.callback(trail.write, AuditEvent(Action.NODE_STOPPED, person, detail=parts))


class OnlyOne:
    """What runs on a node's data folder alone: a lock that the kernel gives back when this process ends, however."""

    def __init__(self, settings: Settings) -> None:
        # With a ledger and a broker of the site's own, listeners of several hosts may share the folder.
        shared = settings.ledger.url is not None and not is_embedded(settings)
        self._path = settings.data.path / (f"node-{os.uname().nodename}.lock" if shared else "node.lock")

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise NodeError(
                "another node runs on this data folder", advice="stop it first, or set another data.path"
            ) from None

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


@contextmanager
def at_work(settings: Settings, *, alone: bool = False) -> Iterator[None]:
    """A part of a node works on the data folder; or nobody else may, for a command that changes what they stand on.

    Raises
    ------
    NodeError
        If such a command is at work, or a part of the node is while one is to begin.
    """
    descriptor = os.open(settings.data.path / "work.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        if alone:
            raise NodeError("a part of the node runs on this data folder", advice="stop its workers first") from None
        raise NodeError("a command changes the ledger", advice="start again once it has ended") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _environment(settings: Settings) -> dict[str, str]:
    """A worker's environment: this one's, with exactly these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return inherited | settings.to_environment()


def run_listener(settings: Settings) -> None:
    """Be the front of a node until SIGTERM or SIGINT."""
    _run(Node(settings, workers=False))


def run_worker(settings: Settings) -> None:
    """Be the workers of a node until SIGTERM or SIGINT."""
    _run(Node(settings, front=False))


def _run(node: Node) -> None:
    stop = StopSignal()
    node.start()
    try:
        stop.wait()
    finally:
        node.stop()
