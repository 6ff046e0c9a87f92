"""Waking the sweeper: a hint through the broker, from whichever process or host, that there is something to be done.

It may be lost, as everything in the broker may: the sweeper looks by itself at its interval.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import redis

from dicom_node.queue.broker import PREFIX, connect
from dicom_node.settings import Settings

_CHANNEL = f"{PREFIX}sweep"


class Bell:
    """Wakes sweepers; its connection is opened when it is first rung.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: redis.Redis | None = None
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Wake every sweeper on this broker, if it can be reached."""
        with self._lock, suppress(redis.RedisError, OSError):
            if self._connection is None:
                self._connection = connect(self._settings)
            self._connection.publish(_CHANNEL, b"")

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


class Ear:
    """Waits for a ring.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._listening: redis.client.PubSub | None = None
        self._connection: redis.Redis | None = None

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, but no longer than this; whether there was one."""
        end = time.monotonic() + seconds
        try:
            if self._listening is None:
                self._connection = connect(self._settings)
                self._listening = self._connection.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
                self._listening.subscribe(_CHANNEL)
            while (left := end - time.monotonic()) > 0 and not self._stopping.is_set():
                if self._listening.get_message(timeout=left) is not None:
                    while self._listening.get_message() is not None:
                        pass  # several rings are one
                    return True
        except (redis.RedisError, OSError, ValueError):  # ValueError: closed by `stop` meanwhile
            self.close()
            self._stopping.wait(max(0.0, end - time.monotonic()))
        return False

    def stop(self) -> None:
        """Wait no more; who waits in another thread notices by the next ring."""
        self._stopping.set()

    def close(self) -> None:
        """Give the connection back."""
        listening, connection = self._listening, self._connection
        self._listening = self._connection = None
        with suppress(redis.RedisError, OSError):
            if listening is not None:
                listening.close()
            if connection is not None:
                connection.close()
