"""The demo, as ``make demo`` runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from dicom_node.demo.demo import PHANTOMS, run_demo
from engine.errors import NodeError


def test_the_demo_ends_well_and_leaves_what_it_promises(tmp_path: Path) -> None:
    out = tmp_path / "demo-output"
    # A setting of the shell that runs it must not reach the demo's own node.
    environment = {**os.environ, "MEDREGA_PACS__ENGINE__MODEL": "nowhere"}
    command = [sys.executable, "-m", "dicom_node.cli", "demo", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every check held" in done.stdout
    assert "CC BY 3.0" in done.stdout
    folders = sorted((path for path in out.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    assert len(folders) == PHANTOMS + 8
    for folder in folders:
        report = pydicom.dcmread(folder / "sr.dcm")
        assert (folder / "seg.dcm").exists() == (report.SOPClassUID.name == "Comprehensive SR Storage")
        with Image.open(folder / "overlay.png") as picture:
            assert min(picture.size) > 200
        assert (folder / "report.txt").read_text(encoding="utf-8").strip()


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(NodeError, match="holds files that no demo made"):
        run_demo(tmp_path, lambda *_: None)
    assert (tmp_path / "thesis.txt").exists()
