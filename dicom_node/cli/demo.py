"""``demo``: the main job end to end on this machine, checked and shown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import console, examples, reporter

if TYPE_CHECKING:
    from dicom_node.demo.demo import DemoResult


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=examples("demo", "demo --out somewhere"))(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Gets a folder a study.")] = Path(
        "demo-output"
    ),
    runtime: Annotated[str, typer.Option(hidden=True)] = "onnx",
    model: Annotated[str, typer.Option(hidden=True)] = "phantom",
) -> None:
    """Send phantoms and real mammograms through a node, check what comes back, and show it.

    A node and a small receiving PACS are started on this machine, with data of their own in DIR. For each study DIR/<n>
    gets sr.dcm, seg.dcm where there are regions, overlay.png and report.txt. Exit status 0 only if everything came
    back and every check held.
    """
    from dicom_node.demo.demo import ATTRIBUTION, run_demo

    begin = time.monotonic()
    with reporter() as report:
        results = run_demo(out, report, runtime=runtime, model=model)
    _show(results)
    print_ = console().print
    print_(f"\n{ATTRIBUTION}")
    if any(result.reading and result.reading.model.commissioning for result in results):
        print_("All results are of the commissioning model, which reads QA phantoms: not for clinical use.")
    failed = [result for result in results if result.faults]
    for number, result in enumerate(results, 1):
        for fault in result.faults:
            print_(f"[red]{number} {result.study.title}: {fault}[/red]")
    seconds = time.monotonic() - begin
    if failed:
        print_(f"[red]{len(failed)} of {len(results)} studies failed a check.[/red] Log: {out / 'node.log'}")
        raise typer.Exit(1)
    objects = sum(len(result.kinds) for result in results)
    print_(
        f"[green]All {len(results)} studies came back with {objects} objects, and every check held[/green] "
        f"({seconds:.0f} s). Look at {out}/1/overlay.png"
    )


def _show(results: Sequence[DemoResult]) -> None:
    from rich.table import Table

    from dicom_node.reading.report import finding_text
    from engine.findings import LANGUAGES

    table = Table("", "study", "findings", "objects", "seconds in stage")
    for number, result in enumerate(results, 1):
        images = len(result.study.files)
        said = [
            finding_text(finding, language)
            for finding in (result.reading.findings if result.reading else ())
            for language in LANGUAGES
        ]
        table.add_row(
            str(number),
            f"{result.study.title}\n{images} image{'s' * (images != 1)}",
            "\n".join(said) or "no finding\n未发现",
            "\n".join(result.kinds),
            "\n".join(f"{stage:<8}{seconds:5.1f}" for stage, seconds in result.seconds.items()),
            end_section=True,
        )
    console().print(table)
