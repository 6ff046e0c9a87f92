"""The figures add up, and are told by any runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import bench
from engine.errors import ModelError
from engine.model.config import MedregaConfig
from engine.model.medrega import Medrega
from engine.runtime.torch import TorchRuntime
from tests.engine.toy import write_toy

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy"), seed=5)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_COPIED", 1 << 22)


def test_published_sizes_are_those_of_forty_billion_parameters() -> None:
    config = MedregaConfig.from_folder(bench.PUBLISHED)
    with torch.device("meta"):
        model = Medrega(config)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(40.1, abs=0.2)
    assert (config.ps_version, config.image_tokens) == ("v1", 256)
    read = sum(p.numel() for n, p in model.language_model.named_parameters() if "embed" not in n) * 2
    assert bench.weights_per_token(config.decoder, "bfloat16") == read
    assert read / 1e9 == pytest.approx(67.9, abs=0.1)
    assert bench.limit(config.decoder, "bf16", 1, 0, 4.8e12) == pytest.approx(70.7, abs=0.1)  # an H200's
    cache = 240 * 1024 * 1000  # 240 KiB a token
    assert bench.limit(config.decoder, "bf16", 4, 1000, 4.8e12) == pytest.approx(4 * 4.8e12 / (read + 4 * cache))


def test_any_runtime_is_measured_by_its_answers(folder: Path) -> None:
    runtime = TorchRuntime(folder, device="cpu")
    figures = bench.measure_runtime(runtime, [1, 2], 12)
    assert [one.batch for one in figures.decoding] == [1, 2]
    assert all(0 < one.tokens_per_second < one.limit for one in figures.decoding)
    assert figures.prefill_ms > 0
    assert figures.prompt_tokens > 4
    assert figures.bandwidth > 1e8
    assert dict(figures.rows())["decoding, batch 2"].endswith(f"of the limit of {figures.decoding[1].limit:.1f}")
    with pytest.raises(ModelError, match="too short"):
        bench.measure_runtime(runtime, [1], 1)


def test_a_model_with_random_weights_is_measured(folder: Path) -> None:
    figures = bench.measure("phantom", "torch", [1, 4], 10, device="cpu", sizes=folder)
    assert (figures.device, figures.dtype) == ("cpu", "float32")
    assert all(one.tokens_per_second > 0 for one in figures.decoding)
    assert np.isfinite([figures.vision_ms, figures.prefill_ms]).all()
    assert figures.agreement.startswith("same tokens on 8 of 8 prompts")
