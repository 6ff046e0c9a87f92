"""The bill of materials of what is installed, by CycloneDX's own tool, and its licences as a page.

``make licences`` renews deploy/LICENCES.md with it, from a fresh environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOT_INSTALLED = ("pip", "setuptools", "wheel")
"""What an environment may hold that is no part of the node."""
UNRECOGNISED = {"protobuf": "BSD-3-Clause"}
"""Declared in words that the tool does not take."""


@dataclass(frozen=True)
class Materials:
    """A CycloneDX document, and what of it a page shows: name, version, licence, sorted by name."""

    text: str
    rows: tuple[tuple[str, str, str], ...]


def materials(python: Path) -> Materials:
    """The bill of materials of an environment.

    Parameters
    ----------
    python : Path
        Its interpreter.
    """
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", str(python)]
    project = ["--pyproject", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, *project], capture_output=True, text=True, check=True)  # noqa: S603
    document = json.loads(done.stdout)
    parts = [part for part in document["components"] if part["name"] not in (*NOT_INSTALLED, "medrega-pacs")]
    rows = sorted(((part["name"], part["version"], _licence(part)) for part in parts), key=lambda row: row[0].lower())
    return Materials(done.stdout, tuple(rows))


def _licence(part: dict[str, Any]) -> str:
    """As the package declares it: an SPDX expression or id; else the names that it gives."""
    given = part.get("licenses", [])
    for one in given:
        if "expression" in one:
            return str(one["expression"])
    ids = [one["license"]["id"] for one in given if "id" in one["license"]]
    names = [one["license"]["name"] for one in given if "name" in one["license"]]
    short = [name.removeprefix("License :: ").removeprefix("OSI Approved :: ") for name in names if len(name) < 80]
    return ", ".join(dict.fromkeys(ids or short)) or UNRECOGNISED.get(part["name"], "not declared")


def licence_page(bill: Materials) -> str:
    """The page of all dependencies and their licences."""
    head = """# Licences of what is installed with the node

Made by `make licences` from an environment that holds the node with the extras `demo` and `postgresql`, by the licences
that the packages declare. The texts are in the offline bundle (`licences/`), with the bill of materials
(`sbom.cdx.json`, CycloneDX). The node itself is under the Apache 2.0 licence.

| package | version | licence |
|---|---|---|
"""
    return head + "".join(f"| {name} | {version} | {licence} |\n" for name, version, licence in bill.rows)


if __name__ == "__main__":
    sys.stdout.write(licence_page(materials(Path(sys.argv[1]))))
