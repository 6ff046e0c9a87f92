"""The wheel: it builds, holds what the node needs at run time, and runs in an empty environment without torch."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DATA = [
    "dicom_node/ledger/migrations/env.py",
    "engine/plans/phantom.toml",
    "engine/prompts/prompts.toml",
    "engine/phantom/checkpoint/config.json",
    "sr_writer/codes.csv",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT))
    (path,) = out.glob("medrega_pacs-*.whl")
    return path


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"dicom_node", "engine", "sr_writer"}
    assert [name for name in DATA if name not in names] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_installs_and_runs_in_an_empty_environment_without_torch(wheel: Path, tmp_path: Path) -> None:
    # Not in pytest's own folder, which it keeps: an environment is hundreds of megabytes.
    with tempfile.TemporaryDirectory() as empty:
        run(sys.executable, "-m", "venv", empty)
        folder = Path(empty) / "bin"
        constraints = str(ROOT / "deploy" / "constraints.txt")
        run(str(folder / "pip"), "install", "--disable-pip-version-check", "--constraint", constraints, str(wheel))
        version = wheel.name.split("-")[1]
        assert run(str(folder / "medrega-pacs"), "version").strip() == version
        installed = run(str(folder / "pip"), "list", "--format", "freeze").lower()
        assert "torch==" not in installed
        assert "onnxruntime==" in installed
        run(str(folder / "medrega-pacs"), "config", "check")
        run(str(folder / "medrega-pacs"), "phantom", "--out", str(tmp_path / "phantoms"), "--count", "1")
