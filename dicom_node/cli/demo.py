"""``demo``: the main job end to end on this machine, checked and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import examples


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=examples("demo", "demo --out somewhere"))(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Gets a folder a study.")] = Path("demo-output"),
) -> None:
    """Send phantoms and real mammograms through a node, check what comes back, and show it."""
