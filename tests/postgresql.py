"""A PostgreSQL cluster of the tests' own, in a temporary folder, on a Unix socket and one port of an address."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ports import free_port

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/bin"))
PASSWORD = "secret"  # noqa: S105 - of a cluster that lives for a test
SETTINGS = {"fsync": "off", "max_connections": "60", "shared_buffers": "16MB"}


@dataclass(frozen=True)
class Cluster:
    """A running cluster; its user ``medrega`` has the password ``secret``."""

    host: str
    port: int
    folder: Path

    def url(self, *, password: str = PASSWORD) -> str:
        secret = f":{password}" if password else ""
        return f"postgresql+psycopg://medrega{secret}@{self.host}:{self.port}/postgres"

    @property
    def local_url(self) -> str:
        """By its socket in the file system, which is reached from every network namespace."""
        return f"postgresql+psycopg://medrega:{PASSWORD}@/postgres?host={self.folder}&port={self.port}"


def as_server_user(command: Sequence[str | Path]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    words = [str(word) for word in command]
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words] if os.getuid() == 0 else words


def _give_to_server_user(path: Path) -> None:
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(path, user.pw_uid, user.pw_gid)


@contextmanager
def cluster(
    host: str = "127.0.0.1", prefix: Sequence[str] = (), tls: tuple[Path, Path] | None = None
) -> Iterator[Cluster]:
    """Run a cluster.

    Parameters
    ----------
    host : str
        Address to listen at.
    prefix : sequence of str
        Words before the server's command, as ``ip netns exec NAME``.
    tls : tuple of Path, optional
        Certificate and key; they are copied, since the server wants to own its key.
    """
    folder = Path(tempfile.mkdtemp(prefix="medrega-postgresql-"))
    try:
        _give_to_server_user(folder)
        password = folder / "password"
        password.write_text(PASSWORD, encoding="ascii")
        password.chmod(0o644)
        data = folder / "data"
        options = ["--username=medrega", f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
        subprocess.run(
            as_server_user([BINARIES / "initdb", "-D", data, *options]), check=True, capture_output=True, cwd=folder
        )
        with (data / "pg_hba.conf").open("a", encoding="ascii") as rules:
            rules.write("host all all 0.0.0.0/0 scram-sha-256\n")
        running = Cluster(host, free_port(), folder)
        lines = {
            **SETTINGS,
            "listen_addresses": host,
            "port": str(running.port),
            "unix_socket_directories": str(folder),
        }
        if tls is not None:
            for kind, path in zip(("cert", "key"), tls, strict=True):
                copy = folder / f"server.{kind}"
                copy.write_bytes(path.read_bytes())
                copy.chmod(0o600)
                _give_to_server_user(copy)
                lines[f"ssl_{kind}_file"] = str(copy)
            lines["ssl"] = "on"
        words = [word for name, value in lines.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*prefix, *as_server_user([BINARIES / "postgres", "-D", data, *words])], stderr=log, cwd=folder
            )
        try:
            ready = [*prefix, str(BINARIES / "pg_isready"), "-q", "-h", host, "-p", str(running.port)]
            while subprocess.run(ready, check=False).returncode != 0:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            yield running
        finally:
            server.terminate()  # SIGTERM: ends once its clients have gone; SIGINT ends them
            server.send_signal(2)
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
