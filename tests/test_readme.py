"""The README's commands do what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def blocks() -> list[str]:
    """Shell blocks marked to be run; the others start servers, or need a PACS or a terminal."""
    return re.findall(r"<!-- run -->\n```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_marked_commands_run(tmp_path: Path) -> None:
    assert blocks()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MEDREGA_PACS__")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for block in blocks():
        done = subprocess.run(
            ["bash", "-euc", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
    studies = [path for path in (tmp_path / "results").iterdir() if path.is_dir()]
    assert len(studies) == 2
    for study in studies:
        assert {"sr.dcm", "overlay.png", "report.txt", "reading.json"} <= {path.name for path in study.iterdir()}


def test_every_shell_command_of_the_readme_is_one_that_exists() -> None:
    for block in re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            assert re.match(r"(make [a-z-]+|(\.venv/bin/)?medrega-pacs [a-z]+)", line), line
