"""A line between the node and a destination that can be cut, held, throttled and torn."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Final

_CHUNK: Final = 65536
_SLOW_SECONDS: Final = 0.05
_TORN_BYTES: Final = 700
"""After the association's acceptance and within the first object."""


class FaultyLine:
    """A TCP proxy with moods: ``pass``, ``refuse``, ``hang``, ``abort`` and ``slow``.

    Parameters
    ----------
    port : int
        Where it listens on loopback.
    target : int
        The port that it leads to.
    """

    def __init__(self, port: int, target: int) -> None:
        self.mood = "pass"
        self.hit: Counter[str] = Counter()
        """Connections that met each mood."""
        self._target = target
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", port), backlog=64)
        self._server.settimeout(0.2)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Cut everything and end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)
        self._server.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                near, _ = self._server.accept()
                thread = threading.Thread(target=self._serve, args=(near,), daemon=True)
                self._threads = [one for one in self._threads if one.is_alive()] + [thread]
                thread.start()

    def _serve(self, near: socket.socket) -> None:
        mood = self.mood
        self.hit[mood] += 1
        with near:
            if mood == "refuse":
                _reset(near)
            elif mood == "hang":
                while self.mood == "hang" and not self._stopping.wait(0.1):
                    pass
            else:
                with suppress(OSError), socket.create_connection(("127.0.0.1", self._target), 10) as far:
                    self._carry(near, far, mood)

    def _carry(self, near: socket.socket, far: socket.socket, mood: str) -> None:
        carried = 0
        with selectors.DefaultSelector() as ready:
            ready.register(near, selectors.EVENT_READ, far)
            ready.register(far, selectors.EVENT_READ, near)
            while not self._stopping.is_set():
                for key, _ in ready.select(0.2):
                    source, sink = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    content = source.recv(1024 if mood == "slow" else _CHUNK)
                    if not content:
                        return
                    if source is near:
                        carried += len(content)
                        if mood == "abort" and carried > _TORN_BYTES:
                            _reset(near)
                            _reset(far)
                            return
                    if mood == "slow":
                        time.sleep(_SLOW_SECONDS)
                    sink.sendall(content)


def _reset(connection: socket.socket) -> None:
    """Close with RST, as a firewall or a dying host does."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
