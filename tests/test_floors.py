"""Imports only point down: engine, then sr_writer, then dicom_node; and none of them drags in what it may not know."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("engine", "sr_writer", "dicom_node")
MODEL_LIBRARIES = {"torch", "onnxruntime", "tensorrt_llm"}
FORBIDDEN = {
    "engine": {"sr_writer", "dicom_node", "highdicom", "celery", "sqlalchemy", "pynetdicom"},
    "sr_writer": {"dicom_node", *MODEL_LIBRARIES},
    "dicom_node": MODEL_LIBRARIES,
}
MODULES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


def imports(node: ast.AST, *, in_functions: bool = True) -> Iterator[str]:
    """Every module that is imported in a tree, by its full name; without those that wait for a function's call."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield node.module or ""
    if in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for child in ast.iter_child_nodes(node):
            yield from imports(child, in_functions=in_functions)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    floor = path.relative_to(ROOT).parts[0]
    found = {name.split(".")[0] for name in imports(ast.parse(path.read_text("utf-8")))}
    assert not found & FORBIDDEN[floor]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_tensorrt_llm_when_it_is_itself_imported(path):
    tree = ast.parse(path.read_text("utf-8"))
    assert "tensorrt_llm" not in {name.split(".")[0] for name in imports(tree, in_functions=False)}


def test_every_floor_has_modules():
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FLOORS)
