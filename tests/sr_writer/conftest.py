"""Validators that are not ours: each test that needs one that is missing fails and says how to install it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]


def _program(name: str, package: str, *places: Path) -> Path:
    for place in places:
        if (place / name).is_file():
            return place / name
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: {package}")
    return Path(found)


def _run(program: Path, *arguments: str | Path) -> str:
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, timeout=120, check=False)
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, f"{program.name} ended with {done.returncode}:\n{output}"
    return output


@pytest.fixture(scope="session")
def dciodvfy() -> Callable[[Path], list[str]]:
    """Run dicom3tools' IOD validator; returns its lines with "Error"."""
    program = _program("dciodvfy", "apt-get install dicom3tools", Path("/usr/bin"))

    def run(path: Path) -> list[str]:
        done = subprocess.run([str(program), str(path)], capture_output=True, timeout=120, check=False)
        lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
        assert lines, "dciodvfy said nothing, not even the IOD"
        return [line for line in lines if "Error" in line]

    return run


@pytest.fixture(scope="session")
def dsrdump() -> Run:
    """Run DCMTK's SR reader; returns the document as text."""
    program = _program("dsrdump", "apt-get install dcmtk", Path("/usr/bin"))
    return lambda *arguments: _run(program, *arguments)


@pytest.fixture(scope="session")
def tid1500reader() -> Run:
    """Run dcmqi's reader of measurement reports."""
    program = _program("tid1500reader", "pip install dcmqi", Path(sys.executable).parent)
    return lambda *arguments: _run(program, *arguments)


@pytest.fixture(scope="session")
def segimage2itkimage() -> Run:
    """Run dcmqi's reader of segmentations."""
    program = _program("segimage2itkimage", "pip install dcmqi", Path(sys.executable).parent)
    return lambda *arguments: _run(program, *arguments)
