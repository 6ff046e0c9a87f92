"""How fast images come in, side by side with DCMTK's storescp, Orthanc and pynetdicom alone.

``.venv/bin/python tests/bench/bench_receive.py [--runs 5]``. The sender replays PDUs that were encoded beforehand, each
object after the response to the one before. Runs alternate between the servers; a ratio is the median of the pairs'.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent.parent))

import wire
from ports import free_port
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian

CT, TINY, MULTI_FRAME = (300, 530_000), (300, 3_000), (1, 210_000_000)
WARMING = 6
"""Objects, each over an association of its own, before a server is measured; so many that each process gets some."""
NODELAY = {**os.environ, "TCP_NODELAY": "1"}
WITH_NAGLE = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
Server = Callable[[Path, int], list[list[str]]]


def encode(folder: Path, associations: int, count: int, size: int) -> list[Path]:
    """Write each association's objects, one after the other behind its length, as PDUs."""
    files = []
    for association in range(associations):
        file = folder / f"{count}x{size}-{association}.pdus"
        files.append(file)
        if file.exists():
            continue
        with file.open("wb") as out:
            for number in range(count):
                sop = f"2.999.{association + 1}.{number + 1}"
                pdus = b"".join(wire.store(sop, wire.ct_image("2.999.1", sop, size), number % 60_000 + 1))
                out.write(len(pdus).to_bytes(8, "big") + pdus)
    return files


def replay(port: int, file: Path) -> None:
    """Send a file's objects over one association; prints when it began and ended."""
    stream, objects, at = memoryview(file.read_bytes()), [], 0
    while at < len(stream):
        length = int.from_bytes(stream[at : at + 8], "big")
        objects.append(stream[at + 8 : at + 8 + length])
        at += 8 + length
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.time()
    with wire.Wire(port, 120) as connection:
        accepted = connection.associate(contexts=((1, CTImageStorage, ImplicitVRLittleEndian),))
        assert accepted[:1] == b"\2", accepted
        for one in objects:
            command = 6 + int.from_bytes(one[2:6], "big")
            connection.send(one[:command], one[command:])  # as two writes, like most senders
            assert wire.status_of(connection.receive()) == 0
        connection.release()
    print(begin, time.time(), flush=True)


def ours(**listener: Any) -> Server:
    """Give the node's listener, in as many processes as it says."""
    text = json.dumps(listener)
    command = [sys.executable, __file__, "--serve", text]
    return lambda folder, port: [[*command, str(folder), str(port)]] * int(listener.get("processes", 1))


def storescp(*options: str) -> Server:
    """Give DCMTK's."""
    return lambda folder, port: [["/usr/bin/storescp", "-pdu", "131072", *options, "-od", str(folder), str(port)]]


def orthanc(folder: Path, port: int) -> list[list[str]]:
    """Give Orthanc, without plugins."""
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "DicomPort": port,
        "HttpPort": free_port(),
        "MaximumPduLength": 131_072,
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return [["/usr/sbin/Orthanc", str(folder / "orthanc.json")]]


@contextmanager
def running(server: Server, folder: Path, port: int, environment: Mapping[str, str] = NODELAY) -> Iterator[None]:
    """Run a server's processes until they listen, and end them."""
    commands = server(folder, port)
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder)
        for command in commands
    ]
    try:
        for process, command in zip(processes, commands, strict=True):
            if "--serve" in command:
                assert process.stdout is not None
                process.stdout.readline()
        end = time.monotonic() + 30
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if time.monotonic() > end:
                raise TimeoutError(str(commands))
            time.sleep(0.02)
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def serve(listener: str, folder: str, port: int) -> None:
    """Be the node's listener."""
    import structlog

    from dicom_node.dimse.listener import Listener
    from dicom_node.ledger import Ledger
    from dicom_node.process import StopSignal
    from dicom_node.settings import ListenerSettings
    from dicom_node.spool import Spool

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    stop = StopSignal()
    ledger = Ledger(f"sqlite:///{folder}/ledger.sqlite3")
    ledger.migrate()
    server = Listener(ListenerSettings(port=port, **json.loads(listener)), Spool(Path(folder)), ledger)
    server.start()
    gc.freeze()  # as the node does
    print("listening", flush=True)
    stop.wait()
    server.stop()


def seconds(server: Server, files: list[Path], folder: Path) -> float:
    """From the first sender's beginning to the last one's end, into a server of its own."""
    folder.mkdir()
    port = free_port()
    with running(server, folder, port):
        for number in range(WARMING):
            warm(port, number)
        return sent(files, port)


def warm(port: int, number: int) -> None:
    """Send an object: a node runs for weeks, and what a process does once in its life is not its speed."""
    sop = f"2.999.9.{number}"
    with wire.Wire(port, 120) as connection:
        connection.associate(contexts=((1, CTImageStorage, ImplicitVRLittleEndian),))
        connection.send(*wire.store(sop, wire.ct_image("2.999.9", sop, 3000)))
        assert wire.status_of(connection.receive()) == 0
        connection.release()


def sent(files: list[Path], port: int) -> float:
    """Replay each file over its own association, all at once; from the first one's beginning to the last's end."""
    senders = [
        subprocess.Popen(
            [sys.executable, __file__, "--replay", str(port), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for file in files
    ]
    for sender in senders:  # until they have read their files
        assert sender.stdout is not None
        sender.stdout.readline()
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write("\n")
        sender.stdin.flush()
    times = [[float(one) for one in sender.communicate(timeout=240)[0].split()] for sender in senders]
    return max(end for _, end in times) - min(begin for begin, _ in times)


def row(
    name: str,
    goal: str,
    ours_: Server,
    peer: Server,
    files: list[Path],
    place: str | None,
    runs: int,
) -> dict[str, Any]:
    """Measure one row: the same senders into ours and the peer, in turns."""
    size, count = sum(file.stat().st_size for file in files), sum(1 for file in files) * 300
    tiny = size / max(count, 1) < 20_000
    amount, unit = (count, "objects/s") if tiny else (size / 1e6, "MB/s")
    mine: list[float] = []
    theirs: list[float] = []
    with TemporaryDirectory(dir=place) as parent:
        for number in range(runs):
            for server, rates in ((ours_, mine), (peer, theirs)):
                folder = Path(parent) / f"{number}-{'ours' if rates is mine else 'peer'}"
                rates.append(amount / seconds(server, files, folder))
                if place is not None:  # a disk keeps them: ext4 is slow to make files where many were just removed
                    shutil.rmtree(folder)
    return {
        "row": name,
        "unit": unit,
        "ours": round(statistics.median(mine), 1),
        "peer": round(statistics.median(theirs), 1),
        "ratio": round(statistics.median(one / other for one, other in zip(mine, theirs, strict=True)), 2),
        "goal": goal,
        "runs": runs,
    }


def without_nodelay(name: str, goal: str, folder: Path, place: str | None) -> dict[str, Any]:
    """Measure a storescu as it is without settings: it waits for acknowledgements, which receivers delay."""
    from bench_send import Peer, theirs, write_ct  # here, as senders and servers of this file start without it

    paths = write_ct(folder / "files", 300)
    size = sum(path.stat().st_size for path in paths) / 1e6
    rates = []
    for server in (ours(durability="association"), storescp()):
        with TemporaryDirectory(dir=place) as spool:
            port = free_port()
            with running(server, Path(spool), port, WITH_NAGLE):
                begin = time.perf_counter()
                theirs(paths, Peer("MEDREGA", "127.0.0.1", port), WITH_NAGLE)
                rates.append(size / (time.perf_counter() - begin))
    return {
        "row": name,
        "unit": "MB/s",
        "ours": round(rates[0], 1),
        "peer": round(rates[1], 1),
        "ratio": round(rates[0] / rates[1], 2),
        "goal": goal,
        "runs": 1,
    }


def rows(runs: int = 3) -> list[dict[str, Any]]:
    """Rows for the table of all benches; the ratio is our rate by the peer's."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - memory, so that no disk is measured
    unsynced, default, stock = ours(durability="association"), ours(), ours(fast=False)
    two, forking = ours(durability="association", processes=2), storescp("--fork")
    with TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        ct, tiny, large = (encode(folder, 1, *shape) for shape in (CT, TINY, MULTI_FRAME))
        four = encode(folder, 4, *CT)
        return [
            row("receive 300 CT, unsynced, against storescp", ">= 1.0", unsynced, storescp(), ct, memory, runs),
            row("receive 300 CT, each synced, against storescp +B", ">= 0.6", default, storescp("+B"), ct, None, runs),
            row("receive 300 CT, against Orthanc", "", unsynced, orthanc, ct, memory, runs),
            row("receive 300 CT, against pynetdicom alone", "", unsynced, stock, ct, memory, runs),
            row("receive 300 CT, by association against by instance", "", unsynced, default, ct, None, runs),
            row("receive 4 x 300 CT, 2 processes, against --fork", ">= 0.8", two, forking, four, memory, runs),
            row("receive 4 x 300 CT, 2 processes, against Orthanc", ">= 2", two, orthanc, four, memory, runs),
            row("receive 300 tiny, against storescp", ">= 1.2", unsynced, storescp(), tiny, memory, runs),
            row("receive 210 MB multi-frame, against storescp", ">= 1.2", unsynced, storescp(), large, memory, runs),
            without_nodelay("receive 300 CT of a storescu without NODELAY, against storescp", ">= 10", folder, memory),
        ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--replay", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay:
        port, file = options.replay
        replay(int(port), Path(file))
    elif options.serve:
        listener, folder, port = options.serve
        serve(listener, folder, int(port))
    else:
        for one in rows(options.runs):
            print(
                f"{one['row']:<52} {one['ours']:>9} {one['peer']:>9} {one['unit']:<10} x{one['ratio']:<6} {one['goal']}"
            )


if __name__ == "__main__":
    main()
