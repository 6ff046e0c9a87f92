"""Chaos: studies flow through a node of real processes while a seeded schedule of faults strikes it.

Run by ``make chaos SEED=N``; the same seed gives the same studies and the same schedule. The figures are printed and
written to ``chaos-output/``. It ends with 1 if anything was lost, doubled, stuck, left, or put into the wrong study,
or if a fault did not come about.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS), str(_TESTS / "dicom_node"), str(_TESTS / "integration")]

from chaos_faults import FAULTS  # noqa: E402
from chaos_judge import Verdict, judge, judge_end, wait_until_settled  # noqa: E402
from chaos_senders import Senders, make_studies  # noqa: E402
from chaos_world import World  # noqa: E402


def schedule(names: Iterable[str], rounds: int, rng: random.Random) -> list[str]:
    """Every fault once a round, in an order of the seed's own."""
    names = list(names)
    order: list[str] = []
    for _ in range(rounds):
        rng.shuffle(names)
        order += names
    return order


def run(
    folder: Path,
    seed: int,
    studies: int,
    rounds: int,
    faults: Iterable[str],
    *,
    settle: float = 180,
    tmpfs_mib: int = 0,
    without: str = "",
) -> tuple[Verdict, dict[str, list[str]]]:
    """Strike a world while studies flow; what was found, and the evidence of each fault.

    After the last fault everything has to come into a final state, one after the other in `settle` seconds at most.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    patients = make_studies(folder / "sent", studies, rng)
    evidence: dict[str, list[str]] = defaultdict(list)
    order = schedule(faults, rounds, rng)
    with World(folder, tmpfs_mib, without) as world:
        senders = Senders(world, patients, seed, seconds=3.0 * len(order))
        senders.start()
        begun = time.monotonic()
        for number, name in enumerate(order, 1):
            said = FAULTS[name](world, rng)
            if said:
                evidence[name].append(said)
            took = time.monotonic() - begun
            print(f"{took:6.1f} s  {number:3}/{len(order)}  {name}: {said or 'DID NOT COME ABOUT'}", flush=True)
            threading.Event().wait(rng.uniform(0.2, 2.0))
        in_time = senders.join(settle)
        recovery = wait_until_settled(world, patients, settle)
        verdict = judge(world, patients)
        verdict.recovery_seconds = round(recovery, 1)
        if not in_time:
            verdict.stuck.append("senders were still sending")
        world._end_parts()
        judge_end(world, verdict)
        print(f"{senders.broken} associations brought less than was to be sent, and were repeated")
        if verdict.wrong and tmpfs_mib:
            shutil.copytree(world.data, folder / "data-after", ignore=shutil.ignore_patterns("*.dcm"))
    return verdict, dict(evidence)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2, help="how often each fault strikes")
    parser.add_argument("--only", action="append", choices=sorted(FAULTS), help="these faults alone")
    parser.add_argument("--without", choices=("sync", "lease", "uid", "guard"), default="", help="take away a guard")
    parser.add_argument(
        "--settle",
        type=float,
        default=180,
        metavar="SECONDS",
        help="longest time without a study that becomes final, after the faults; default 180",
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder, whatever comes out")
    parser.add_argument("--tmpfs", type=int, metavar="MIB", help="size of the disk; 0: no disk of its own")
    options = parser.parse_args()
    if options.tmpfs is None:
        # About thrice what studies and results take, so that only the fault fills it.
        options.tmpfs = 256 + 8 * options.studies
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell's background has the first ignored
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    names = options.only or list(FAULTS)
    if not options.tmpfs and "disk full" in names and not options.only:
        names.remove("disk full")
    print(
        f"seed {options.seed}, {options.studies} studies, {options.rounds} x {len(names)} faults, in {folder}",
        flush=True,
    )
    verdict, evidence = run(
        folder,
        options.seed,
        options.studies,
        options.rounds,
        names,
        settle=options.settle,
        tmpfs_mib=options.tmpfs,
        without=options.without,
    )
    unseen = [name for name in names if name not in evidence]
    figures = {name: value for name, value in asdict(verdict).items() if not isinstance(value, list)} | {
        name: len(value) for name, value in asdict(verdict).items() if isinstance(value, list)
    }
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):>18}: {value}")
    for name, found in verdict.wrong.items():
        for line in found[:20]:
            print(f"  {name}: {line}")
    for name in unseen:
        print(f"  the fault never came about: {name}")
    out = Path("chaos-output")
    out.mkdir(exist_ok=True)
    report = {"seed": options.seed, "without": options.without, "figures": figures, "wrong": verdict.wrong}
    (out / f"seed-{options.seed}{options.without and '-without-' + options.without}.json").write_text(
        json.dumps(report | {"faults": evidence, "never": unseen}, indent=1), encoding="utf-8"
    )
    bad = bool(verdict.wrong or unseen)
    if bad or options.keep:
        print(f"logs and ledger are kept in {folder}")
    else:
        shutil.rmtree(folder)
    return int(bad)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("broken off; everything that was started was ended")
