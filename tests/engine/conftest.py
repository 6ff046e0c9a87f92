"""Fixtures that write DICOM files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_files import image_dataset, store

from engine.study import Instance, load_instance

Make = Callable[..., Path]
MakeInstance = Callable[..., Instance]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a radiograph of these stored values; further elements by keyword."""

    def write(pixels: np.ndarray, **elements: Any) -> Path:
        dataset = image_dataset(pixels, **elements)
        return store(dataset, tmp_path / f"{dataset.SOPInstanceUID}.dcm")

    return write


@pytest.fixture
def make_instance(make: Make) -> MakeInstance:
    """Write a radiograph and load it."""

    def write(pixels: np.ndarray, **elements: Any) -> Instance:
        return load_instance(make(pixels, **elements))

    return write
