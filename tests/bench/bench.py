"""Everything that is measured, side by side with the peers that are installed: one table, one file, one picture.

``make bench``, or ``.venv/bin/python tests/bench/bench.py [PART ...]``. Each part is a module ``bench_<part>.py`` here
whose ``rows()`` gives its rows, each a ratio of two times taken in turns, so that what else the machine does falls on
both. A row without a peer is a figure for itself; one with a ``curve`` is a point of it, ``at`` that number, in a
picture of its own. None of it is a test, as no machine's time is another's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

FOLDER: Final = Path(__file__).parent
OUT: Final = Path("bench-output")
LONGEST_SECONDS: Final = 600
KEYS: Final = ("row", "unit", "ours", "peer", "ratio", "goal", "runs")
Row = dict[str, Any]


def parts() -> list[str]:
    """Names of the parts."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def machine() -> dict[str, Any]:
    """What this ran on."""
    told = [line.partition(":")[2].strip() for line in _read("/proc/cpuinfo").splitlines() if "model name" in line]
    versions = {
        name: _first_line([name, "--version"])
        for name in ("/usr/bin/storescp", "Orthanc", "redis-server")
        if shutil.which(name)
    }
    return {
        "cpu": told[0] if told else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "peers": versions,
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _first_line(command: Sequence[str]) -> str:
    out = subprocess.run(command, check=False, capture_output=True, text=True)
    return (out.stdout or out.stderr).partition("\n")[0].strip()


def met(row: Row) -> bool | None:
    """Whether a row reaches its goal; None where it has none."""
    goal = row.get("goal")
    if not goal:
        return None
    sign, number = str(goal).split()[:2]
    value = row["ratio"] if row.get("ratio") is not None else row["ours"]
    return bool(value >= float(number) if sign == ">=" else value <= float(number))


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """Show the rows to a person."""
    table = Table("row", "unit", "ours", "peer", "ratio", "goal", "runs", title="medians")
    for number in (2, 3, 4, 6):
        table.columns[number].justify = "right"
    for row in rows:
        colour = {True: "green", False: "red", None: "default"}[met(row)]
        cells = [_number(row.get(name)) for name in ("ours", "peer", "ratio")]
        cells[2] = f"[{colour}]{cells[2]}[/]"
        table.add_row(row["row"], row["unit"], *cells, str(row.get("goal") or ""), str(row["runs"]))
    console.print(table)


def print_curves(console: Console, rows: Sequence[Row]) -> None:
    """Show each curve in a line: what it is at every number."""
    table = Table("curve", "unit", "what it is at each number", title="scaling")
    for curve in dict.fromkeys(row["curve"] for row in rows):
        points = [row for row in rows if row["curve"] == curve]
        told = "   ".join(f"[dim]{row['at']}:[/] {_number(row['ours'])}" for row in points)
        table.add_row(curve, points[0]["unit"], told)
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw every ratio as a bar beside its goal."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [row for row in rows if row.get("ratio") is not None][::-1]
    figure, axes = plt.subplots(figsize=(11, 1.2 + 0.42 * len(shown)), layout="constrained")
    colours = {True: "#2a7f3f", False: "#b3261e", None: "#5f6b7a"}
    axes.barh(
        [row["row"] for row in shown], [row["ratio"] for row in shown], color=[colours[met(row)] for row in shown]
    )
    for place, row in enumerate(shown):
        axes.annotate(f" {row['ratio']:.2f}x", (row["ratio"], place), va="center", fontsize=9)
        if row.get("goal"):
            goal = float(str(row["goal"]).split()[1])
            axes.plot([goal, goal], [place - 0.45, place + 0.45], color="black", linewidth=2)
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("ratio in one run, a line at each goal; green: reached, red: not, grey: no goal")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Draw every curve beside what would be as much at each number, and what would grow as the number does."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    curves = dict.fromkeys(row["curve"] for row in rows)
    figure, places = plt.subplots(
        (len(curves) + 2) // 3, 3, figsize=(15, 4 * ((len(curves) + 2) // 3)), layout="constrained"
    )
    for axes in places.flat[len(curves) :]:
        axes.set_axis_off()
    for axes, curve in zip(places.flat, curves, strict=False):
        points = [row for row in rows if row["curve"] == curve]
        at, values = [row["at"] for row in points], [row["ours"] for row in points]
        axes.plot(at, [values[-1]] * len(at), color="grey", linewidth=0.8, linestyle=":", label="constant")
        axes.plot(
            at,
            [values[-1] * one / at[-1] for one in at],
            color="grey",
            linewidth=0.8,
            linestyle="--",
            label="in proportion",
        )
        axes.plot(at, values, marker="o", color="#2b5c9e")
        for one, value in zip(at, values, strict=True):
            axes.annotate(
                _number(value), (one, value), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=9
            )
        axes.set(
            xscale="log", yscale="log", title=curve, ylabel=points[0]["unit"], ylim=(min(values) / 3, max(values) * 3)
        )
        axes.set_xticks(at, [f"{one:,}".replace(",", " ") for one in at], minor=False)
        axes.minorticks_off()
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Run the parts asked for, show and keep what they gave."""
    sys.path.insert(0, str(FOLDER))
    sys.path.insert(1, str(FOLDER.parent))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which: {', '.join(parts())}; all without")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of bench.json and the pictures")
    options = parser.parse_args()
    unknown = set(options.parts) - set(parts())
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(parts())}")
    console = Console()
    host = machine()
    console.print_json(data=host)
    rows: list[Row] = []
    begin = time.monotonic()
    for part in options.parts or parts():
        if time.monotonic() - begin > LONGEST_SECONDS:
            console.print(f"[red]{part} was left out: {LONGEST_SECONDS} s were over[/]")
            continue
        console.print(f"[dim]{part} ...[/]")
        give: Callable[[], list[Row]] = importlib.import_module(f"bench_{part}").rows
        rows += give()
    curves = [row for row in rows if "curve" in row]
    print_table(console, [row for row in rows if "curve" not in row])
    if curves:
        print_curves(console, curves)
    options.out.mkdir(parents=True, exist_ok=True)
    kept = [{key: row[key] for key in KEYS} for row in rows]
    (options.out / "bench.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    (options.out / "machine.json").write_text(json.dumps(host, indent=1) + "\n", encoding="utf-8")
    pictures = [options.out / "bench.png"]
    draw(rows, pictures[0])
    if curves:
        pictures.append(options.out / "scaling.png")
        draw_curves(curves, pictures[1])
    names = ", ".join(map(str, [options.out / "bench.json", *pictures]))
    console.print(f"{time.monotonic() - begin:.0f} s; {names}")
    missed = [row["row"] for row in rows if met(row) is False]
    if missed:
        console.print(f"[red]below their goals:[/] {'; '.join(missed)}")


if __name__ == "__main__":
    main()
