"""Sending to DCMTK's storescp, beside DCMTK's storescu: both with TCP_NODELAY, in turns, medians of the times.

``.venv/bin/python tests/bench/bench_send.py [--profile]``; a part of ``make bench``. Ours opens each file and sends all
in one association, within this process; storescu's time has the start of its process in it, some 10 ms.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from pydicom.data import get_testdata_file
from pydicom.filereader import dcmread
from pydicom.uid import ExplicitVRLittleEndian

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent.parent))

from bench_writer import case
from ports import free_port

from dicom_node.dimse.scu import Peer, PeerError, StoredFile, echo, send
from sr_writer import dump, load_profile, write_results

RUNS: Final = 7
ENVIRONMENT: Final = {**os.environ, "TCP_NODELAY": "1"}
Row = dict[str, Any]


def write_ct(folder: Path, count: int = 300) -> list[Path]:
    """Write a CT series of 512 x 512 pixels of noise, 0.53 MB an image."""
    folder.mkdir()
    image = dcmread(str(get_testdata_file("CT_small.dcm")))
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.Rows = image.Columns = 512
    image.PixelData = np.random.default_rng(1).integers(0, 4096, (512, 512), np.uint16).tobytes()
    paths = []
    for number in range(1, count + 1):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.7.{number}"
        image.InstanceNumber = number
        paths.append(folder / f"{number:04}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_sr_and_seg(folder: Path) -> list[Path]:
    """Write the SR and the SEG of five findings on 119 slices each, as the node does."""
    folder.mkdir()
    results = write_results(*case(5, 119), load_profile("ihe-air"))
    paths = []
    for number, result in enumerate(results):
        if result.Modality in ("SR", "SEG"):
            paths.append(folder / f"{number}-{result.Modality}.dcm")
            paths[-1].write_bytes(dump(result))
    return paths


@contextmanager
def storescp(folder: Path) -> Iterator[Peer]:
    """DCMTK's receiver that keeps the bytes."""
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(["/usr/bin/storescp", "+B", "-od", str(folder), str(port)], env=ENVIRONMENT)
    peer = Peer("ANY", "127.0.0.1", port)
    try:
        until = time.monotonic() + 20
        while True:
            try:
                echo(peer)
                break
            except PeerError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield peer
    finally:
        process.terminate()
        process.wait(20)


def ours(paths: list[Path], peer: Peer, *, fast: bool = True) -> None:
    """Send by this project."""
    results = send([StoredFile.open(path) for path in paths], peer, fast=fast)
    assert all(result.status == 0 for result in results)


def theirs(paths: list[Path], peer: Peer, environment: Mapping[str, str] = ENVIRONMENT) -> None:
    """Send by DCMTK."""
    contexts = _contexts(paths)
    command = ["/usr/bin/storescu", "-xf", str(contexts), "ALL", "-aec", peer.aet, "+sd"]
    subprocess.run([*command, peer.host, str(peer.port), str(paths[0].parent)], env=environment, check=True)


def _contexts(paths: list[Path]) -> Path:
    """What to propose, in a file of storescu's: without one it does not know SEG, or reads every file twice."""
    path = paths[0].parent.with_suffix(".cfg")
    if not path.exists():
        classes = sorted({StoredFile.open(path).sop_class_uid for path in paths})
        lines = ["[[TransferSyntaxes]]", "[EXPLICIT]", f"TransferSyntax1 = {ExplicitVRLittleEndian}"]
        lines += ["[[PresentationContexts]]", "[ALL]"]
        lines += [f"PresentationContext{number} = {uid}\\EXPLICIT" for number, uid in enumerate(classes, 1)]
        path.write_text("\n".join([*lines, "[[Profiles]]", "[ALL]", "PresentationContexts = ALL", ""]))
    return path


def row(name: str, paths: list[Path], goal: str, runs: int, work: Path) -> Row:
    """Both in turns, what went before removed in between."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    with storescp(work / f"received {len(paths)}") as peer:
        for turn in range(runs + 1):
            for who, call in (("ours", ours), ("peer", theirs)):
                begin = time.perf_counter()
                call(paths, peer)
                spent = time.perf_counter() - begin
                kept = list((work / f"received {len(paths)}").iterdir())
                assert len(kept) == len(paths)
                for path in kept:
                    path.unlink()
                if turn:  # the first is for the caches
                    times[who].append(spent)
    mine, other = (statistics.median(times[who]) for who in ("ours", "peer"))
    ratio = statistics.median(b / a for a, b in zip(times["ours"], times["peer"], strict=True))
    return {"row": name, "unit": "s", "ours": mine, "peer": other, "ratio": ratio, "goal": goal, "runs": runs}


def rows(runs: int = RUNS) -> list[Row]:
    """Rows for the table of all benches; the ratio is storescu's time by ours."""
    if shutil.which("/usr/bin/storescu") is None:
        return []
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - memory, so that no disk is measured
    with TemporaryDirectory(dir=place) as name:
        work = Path(name)
        return [
            row("send 300 CT to storescp +B, against storescu", write_ct(work / "ct"), ">= 0.6", runs, work),
            row("send SR + SEG to storescp +B, against storescu", write_sr_and_seg(work / "sr"), ">= 1.5", runs, work),
        ]


def profile() -> None:
    """Show where the time of one sending of 300 CT goes, in the thread that sends."""
    with TemporaryDirectory(dir="/dev/shm") as name, storescp(Path(name) / "received") as peer:
        paths = write_ct(Path(name) / "ct")
        profiler = cProfile.Profile()
        profiler.runcall(ours, paths, peer)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    if parser.parse_args().profile:
        profile()
    else:
        for one in rows():
            print(one)
