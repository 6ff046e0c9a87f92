"""A Redis of the tests' own that speaks TLS alone and asks for a password."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from certificates import Certificate
from ports import free_port


@contextmanager
def redis_server(folder: Path, certificate: Certificate, password: str, *options: str) -> Iterator[int]:
    """Run it on loopback, and give its port."""
    port = free_port()
    configuration = folder / f"redis-{port}.conf"
    configuration.write_text(
        f"""
        bind 127.0.0.1
        port 0
        tls-port {port}
        tls-cert-file {certificate.certificate}
        tls-key-file {certificate.key}
        tls-ca-cert-file {certificate.certificate}
        tls-auth-clients no
        requirepass {password}
        save ""
        dir {folder}
        logfile {folder / f"redis-{port}.log"}
        """
    )
    with subprocess.Popen(["/usr/bin/redis-server", str(configuration), *options]) as server:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert server.poll() is None, configuration.with_suffix(".log").read_text()
                    time.sleep(0.02)
            yield port
        finally:
            server.terminate()
