"""Peers that npm brings, installed once beside these tests."""

import shutil
import subprocess
from pathlib import Path

import pytest

_HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def dcmjs_dimse() -> list[str]:
    """The command that runs the peer made of dcmjs-dimse; its job is one more argument."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.fail("npm is needed to fetch peers: install Node.js (nodejs, npm)")
    if not (_HERE / "node_modules" / "dcmjs-dimse").is_dir():
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--silent"], cwd=_HERE, capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.fail(f"npm could not fetch the peers: {done.stderr.strip()[-500:]}")
    return [node, str(_HERE / "dcmjs_dimse.js")]
