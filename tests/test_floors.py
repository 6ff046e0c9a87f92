"""The floors of the house: imports only ever point down, and heavy libraries stay on their own floor."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Modules that are imported only when what they load is asked for.
LAZY = ("engine.model", "engine.phantom", "engine.runtime.", "engine.refine.prompted")
MODELS = {"torch", "onnxruntime", "tensorrt_llm", "onnx", "transformers"}
FORBIDDEN = {
    "engine": {"dicom_node", "sr_writer", "highdicom", "celery", "kombu", "pynetdicom", "sqlalchemy"},
    "sr_writer": {"dicom_node", "celery", "kombu", "pynetdicom", "sqlalchemy", *MODELS},
    "dicom_node": MODELS,
}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name the whole path"
            yield node.lineno, node.module or ""


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_imports_point_down(floor: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {module}"
        for path in sorted((ROOT / floor).rglob("*.py"))
        for line, module in imported(path)
        if module.split(".")[0] in FORBIDDEN[floor]
    ]
    assert wrong == []


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_importing_a_floor_loads_no_model_library(floor: str) -> None:
    code = (
        "import importlib, pkgutil, sys\n"
        f"import {floor}\n"
        f"heavy = {sorted(MODELS)!r}\n"
        "for name in [m.name for m in pkgutil.walk_packages("
        f"{floor}.__path__, '{floor}.') if not m.name.startswith({LAZY!r})"
        " and not m.name.endswith('__main__') and '.migrations' not in m.name]:\n"
        "    importlib.import_module(name)\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
