"""Fuzz every target for so many seconds: ``python tests/fuzz/fuzz.py --seconds 60``; exit 1 if anything was found."""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import destinations
import edge
import handshakes
import web
from parser_targets import TARGETS

HERE = Path(__file__).parent
PROCESSES = ("edge", "edge-stock", "handshakes", "dicomweb", "console", "destinations")
_LIMITS = ("-timeout=20", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1")


def guided(name: str, seconds: int, output: Path) -> dict[str, Any]:
    """A parser under libFuzzer."""
    corpus = output / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    begun = {path.name for path in output.glob(f"{name}-*")}
    command = [sys.executable, str(HERE / "guided.py"), name, str(corpus), f"-max_total_time={seconds}", *_LIMITS]
    done = subprocess.run(
        [*command, f"-artifact_prefix={output}/{name}-"], capture_output=True, text=True, errors="replace"
    )
    said = done.stderr
    runs = re.search(r"number_of_executed_units:\s*(\d+)", said)
    covered = re.findall(r"cov: (\d+)", said)
    found = [path.name for path in sorted(output.glob(f"{name}-*")) if path.name not in begun]
    if done.returncode and not found:
        found.append(said[-2000:])
    return {
        "executions": int(runs[1]) if runs else 0,
        "covered": int(covered[-1]) if covered else 0,
        "findings": [f"{one}: {said[-2000:]}" for one in found],
    }


def started(name: str, folder: Path) -> AbstractContextManager[Any]:
    """The target of that name, ready."""
    if name.startswith("edge"):
        return edge.attacked(folder, fast=name == "edge")
    if name == "handshakes":
        return handshakes.attacked(folder)
    return destinations.attacking(folder) if name == "destinations" else web.attacked(folder, name)


def attacked(name: str, seconds: int, seed: int) -> dict[str, Any]:
    """A process, batch by batch until the time is over or something is found."""
    chance, executions, wrong = random.Random(f"{name} {seed}"), 0, []  # noqa: S311 - to be repeated
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, started(name, Path(folder)) as batch:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not wrong:
            count, wrong = batch(chance, 60)
            executions += count
    return {"executions": executions, "findings": wrong}


def main() -> int:
    """Run the targets one after another, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--only", action="append", choices=(*TARGETS, *PROCESSES), help="may be given several times")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("fuzz-output"))
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen.output.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {}
    names = chosen.only or [*TARGETS, *PROCESSES]
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name} ...", end=" ", flush=True)
        begin = time.monotonic()
        result = (
            guided(name, chosen.seconds, chosen.output)
            if name in TARGETS
            else attacked(name, chosen.seconds, chosen.seed)
        )
        report[name] = {"seconds": round(time.monotonic() - begin), **result}
        print(f"{result['executions']} executions, {len(result['findings'])} findings", flush=True)
        (chosen.output / "report.json").write_text(json.dumps({"seed": chosen.seed, "targets": report}, indent=2))
    return int(any(result["findings"] for result in report.values()))


if __name__ == "__main__":
    sys.exit(main())
