"""The model against independent references, at toy size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import ModelError
from engine.model.config import MedregaConfig
from engine.model.vision import pixel_shuffle
from engine.model.weights import load_model
from tests.engine.toy import write_toy

torch.set_num_threads(1)


def _numpy_tower(weights: dict[str, np.ndarray], config: MedregaConfig, pixels: np.ndarray) -> np.ndarray:
    """InternViT, pixel shuffle and projector written out in float64, loop by loop, from the description alone."""
    vision = config.vision
    from scipy.special import erf

    def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + vision.layer_norm_eps) * weight

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + erf(x / np.sqrt(2)))

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    w = {name: array.astype(np.float64) for name, array in weights.items()}
    side, patch = vision.grid, vision.patch_size
    kernel = w["vision_model.embeddings.patch_embedding.weight"]
    rows = []
    for r in range(side):
        for c in range(side):
            block = pixels[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
            rows.append((kernel * block).sum((1, 2, 3)) + w["vision_model.embeddings.patch_embedding.bias"])
    x = np.concatenate([w["vision_model.embeddings.class_embedding"][0], np.stack(rows)])
    x = x + w["vision_model.embeddings.position_embedding"][0]
    for n in range(vision.num_hidden_layers):
        p = f"vision_model.encoder.layers.{n}."
        q, k, v = np.split(rms(x, w[p + "norm1.weight"]) @ w[p + "attn.qkv.weight"].T, 3, -1)
        if vision.qk_normalization:
            q, k = rms(q, w[p + "attn.q_norm.weight"]), rms(k, w[p + "attn.k_norm.weight"])
        size = vision.hidden_size // vision.num_attention_heads
        heads = []
        for h in range(vision.num_attention_heads):
            part = slice(h * size, (h + 1) * size)
            heads.append(softmax(q[:, part] @ k[:, part].T / np.sqrt(size)) @ v[:, part])
        out = np.concatenate(heads, -1) @ w[p + "attn.proj.weight"].T + w[p + "attn.proj.bias"]
        x = x + out * w[p + "ls1"]
        hidden = gelu(rms(x, w[p + "norm2.weight"]) @ w[p + "mlp.fc1.weight"].T + w[p + "mlp.fc1.bias"])
        x = x + (hidden @ w[p + "mlp.fc2.weight"].T + w[p + "mlp.fc2.bias"]) * w[p + "ls2"]
    grid = x[1:].reshape(side, side, -1)
    half = side // 2
    tokens = np.zeros((half, half, 4 * vision.hidden_size))
    for r in range(half):
        for c in range(half):
            four = [grid[2 * r + i, 2 * c + j] for i in (0, 1) for j in (0, 1)]
            place = (c, r) if config.ps_version == "v1" else (r, c)  # v1 leaves rows and columns swapped
            tokens[place] = np.concatenate(four)
    tokens = tokens.reshape(half * half, -1)
    centred = tokens - tokens.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w["mlp1.0.weight"] + w["mlp1.0.bias"]
    return gelu(normed @ w["mlp1.1.weight"].T + w["mlp1.1.bias"]) @ w["mlp1.3.weight"].T + w["mlp1.3.bias"]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("normalised", [True, False])
def test_vision_tower_equals_a_written_out_forward(tmp_path: Path, version: str, normalised: bool) -> None:
    write_toy(tmp_path, vision={"qk_normalization": normalised}, ps_version=version)
    model = load_model(tmp_path, device="cpu", dtype=torch.float32)
    pixels = np.random.default_rng(1).normal(size=(3, 56, 56))
    with torch.inference_mode():
        ours = model.image_tokens(torch.from_numpy(pixels[None]).float())[0].numpy()
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.testing.assert_allclose(ours, _numpy_tower(weights, model.config, pixels), rtol=2e-4, atol=2e-4)


def test_decoder_equals_transformers_llama(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    write_toy(tmp_path)
    model = load_model(tmp_path, device="cpu", dtype=torch.float32)
    sizes = model.config.decoder
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    more = ("vocab_size", "rms_norm_eps", "rope_theta", "max_position_embeddings")
    reference = LlamaForCausalLM(LlamaConfig(**{name: getattr(sizes, name) for name in (*names, *more)})).eval()
    reference.load_state_dict(model.language_model.state_dict())
    ids = torch.randint(0, sizes.vocab_size, (2, 17), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        ours, _ = model.language_model(model.language_model.model.embed_tokens(ids))
        torch.testing.assert_close(ours, reference(ids).logits, rtol=1e-4, atol=1e-4)


def test_decoder_with_its_cache_equals_the_whole_sequence_at_once(tmp_path: Path) -> None:
    write_toy(tmp_path)
    decoder = load_model(tmp_path, device="cpu", dtype=torch.float32).language_model
    ids = torch.arange(12)[None] + 5
    embedded = decoder.model.embed_tokens(ids)
    with torch.inference_mode():
        whole, _ = decoder(embedded)
        first, cache = decoder(embedded[:, :7])
        second, cache = decoder(embedded[:, 7:11], cache)
        last, _ = decoder(embedded[:, 11:], cache)
    torch.testing.assert_close(torch.cat([first, second, last], 1), whole, rtol=1e-4, atol=1e-4)


def test_pixel_shuffle_v1_is_v2_with_rows_and_columns_swapped() -> None:
    x = torch.arange(2 * 4 * 4 * 3.0).reshape(2, 4, 4, 3)
    v1, v2 = pixel_shuffle(x, 0.5, "v1"), pixel_shuffle(x, 0.5, "v2")
    assert torch.equal(v1, v2.permute(0, 2, 1, 3))
    assert torch.equal(v2[0, 1, 0], torch.cat([x[0, 2, 0], x[0, 2, 1], x[0, 3, 0], x[0, 3, 1]]))


def test_positions_are_interpolated_to_another_grid(tmp_path: Path) -> None:
    write_toy(tmp_path)
    model = load_model(tmp_path, device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        assert model.vision_model(torch.zeros(1, 3, 84, 84), -1).shape == (1, 36, 24)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_toy(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["mlp1.3.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"mlp1\.3\.bias"):
        load_model(tmp_path, device="cpu", dtype=torch.float32)


def test_a_tensor_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_toy(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["mlp1.3.bias"] = weights["mlp1.3.bias"][:-1].clone()
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"mlp1\.3\.bias.*\(31,\), expected \(32,\)"):
        load_model(tmp_path, device="cpu", dtype=torch.float32)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_toy(tmp_path)
    index = '{"weight_map": {"mlp1.3.bias": "model-00002-of-00002.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        load_model(tmp_path, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llava"}, "internvl_chat"),
        ({"downsample_ratio": 0.4}, "downsample"),
        ({"ps_version": "v3"}, "ps_version"),
        ({"llm_config": {}}, "hidden_size"),
    ],
)
def test_a_configuration_of_another_architecture_is_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    write_toy(tmp_path)
    import json

    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=words):
        MedregaConfig.from_folder(tmp_path)
