"""Load: studies that flow through a whole node, and a ledger that has those of a year.

Run by ``make load STUDIES=N``; figures and a picture are written to ``load-output/``. It ends with 1 if a study was
not delivered, or something grows with the studies that should not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS / folder) for folder in ("", "dicom_node", "integration", "chaos", "bench", "load")]

from bench import machine  # noqa: E402
from load_chart import draw  # noqa: E402
from load_flow import Flow, flow, percentiles, trends  # noqa: E402
from load_year import costs  # noqa: E402

_FEW: Final = 1000
"""Studies in the ledger that the other one is compared with."""
_DISK_MB: Final = 4
"""What a study and its results take, measured, and a fifth more; of many images some more still."""


def main() -> int:
    """Parse the command line, run, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200, help="that flow; 0 for none")
    parser.add_argument("--large", type=int, default=1, help="studies of many images among them")
    parser.add_argument("--images", type=int, default=2000, help="of each of these")
    parser.add_argument("--minutes", type=float, default=600, help="after which no more are sent")
    parser.add_argument("--at-once", type=int, default=1, help="studies that are read at the same time")
    parser.add_argument("--ledger", type=int, default=0, help=f"studies of a year in the ledger, beside {_FEW}")
    parser.add_argument("--out", type=Path, default=Path("load-output"))
    options = parser.parse_args()
    needed, free = options.studies * _DISK_MB / 1000, shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if free < needed:
        parser.error(f"{options.studies} studies take some {needed:.0f} GB, and {tempfile.gettempdir()} has {free:.0f}")
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, object] = {"machine": machine()}
    bad = False
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        if options.studies:
            came = flow(
                Path(name) / "flow",
                options.studies,
                large=options.large,
                images=options.images,
                seconds=60 * options.minutes,
                reading={"concurrency": options.at_once},
            )
            report["flow"] = asdict(came)
            bad = _tell(came)
            draw(came, options.out / "load.png")
        if options.ledger:
            few, many = (costs(Path(name) / str(count), count) for count in (_FEW, options.ledger))
            report["ledger"] = {str(_FEW): few, str(options.ledger): many}
            print(f"{'seconds with studies in the ledger':40} {_FEW:>10} {options.ledger:>10}")
            for what in many:
                print(f"{what:40} {few[what]:10.3f} {many[what]:10.3f}")
    (options.out / "load.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {options.out}")
    return int(bad)


def _tell(came: Flow) -> bool:
    """Print what came of a run; whether something is wrong with it."""
    print(
        f"{came.studies} studies, {came.images} images in {came.seconds:.0f} s: {came.studies / came.seconds:.2f} "
        f"studies a second; {came.ended}; {came.ledger_bytes / came.studies / 1000:.1f} kB of ledger a study"
    )
    print(f"{'seconds':12}{'median':>8}{'90 %':>8}{'99 %':>8}{'most':>8}")
    for stage, values in came.stages.items():
        print(f"{stage:12}" + "".join(f"{value:8.2f}" for value in percentiles(values)))
    found = trends(came.samples)
    print(f"{'second half':22}{'mean':>10}{'per 1000':>10}{'allowed':>10}")
    for trend in found:
        words = "" if trend.flat or came.studies < came.ENOUGH else "  GROWS"
        print(f"{trend.figure:22}{trend.mean:10.1f}{trend.slope:+10.2f}{trend.allowed:10.2f}{words}")
    wrong = [trend.figure for trend in found if not trend.flat] if came.studies >= came.ENOUGH else []
    if set(came.ended) - {"DELIVERED"}:
        wrong.append("not all studies were delivered")
    for line in came.complaints[:20]:
        print(f"  {line[:200]}")
    # A destination that is too busy to answer in time is sent the same object again.
    print(f"{came.twice} results were sent again; {len(came.complaints)} warnings and errors in the node's log")
    print(f"wrong: {', '.join(wrong) or 'nothing'}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
