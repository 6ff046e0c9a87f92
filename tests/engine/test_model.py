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
LLAMA = {"hidden_size": 32, "num_attention_heads": 4}


def _numpy_tower(weights: dict[str, np.ndarray], config: MedregaConfig, pixels: np.ndarray) -> np.ndarray:
    """InternViT, pixel shuffle and projector written out in float64, loop by loop, from the description alone."""
    vision = config.vision
    from scipy.special import erf

    def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + vision.layer_norm_eps) * weight

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        if vision.norm_type == "rms_norm":
            return rms(x, w[name + ".weight"])
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + vision.layer_norm_eps)
        return scaled * w[name + ".weight"] + w[name + ".bias"]

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
        bias = w[p + "attn.qkv.bias"] if vision.qkv_bias else 0.0
        q, k, v = np.split(norm(x, p + "norm1") @ w[p + "attn.qkv.weight"].T + bias, 3, -1)
        if vision.qk_normalization:
            q, k = rms(q, w[p + "attn.q_norm.weight"]), rms(k, w[p + "attn.k_norm.weight"])
        size = vision.hidden_size // vision.num_attention_heads
        heads = []
        for h in range(vision.num_attention_heads):
            part = slice(h * size, (h + 1) * size)
            heads.append(softmax(q[:, part] @ k[:, part].T / np.sqrt(size)) @ v[:, part])
        out = np.concatenate(heads, -1) @ w[p + "attn.proj.weight"].T + w[p + "attn.proj.bias"]
        x = x + out * w[p + "ls1"]
        hidden = gelu(norm(x, p + "norm2") @ w[p + "mlp.fc1.weight"].T + w[p + "mlp.fc1.bias"])
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
@pytest.mark.parametrize(
    "vision",
    [
        {"qk_normalization": True},
        {"qk_normalization": False},
        {"norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False},  # as the later, smaller towers
    ],
)
def test_vision_tower_equals_a_written_out_forward(tmp_path: Path, version: str, vision: dict[str, object]) -> None:
    write_toy(tmp_path, vision=vision, ps_version=version)
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


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_forced_image_size_keeps_the_positions_that_were_learned(tmp_path: Path, version: str) -> None:
    folder = write_toy(tmp_path, vision={"image_size": 28}, force_image_size=56, ps_version=version)
    model = load_model(folder, device="cpu", dtype=torch.float32)
    learned = model.vision_model.embeddings.position_embedding
    assert (learned.shape, model.config.image_tokens) == ((1, 5, 24), 4)
    square = learned[0, 1:].reshape(2, 2, 24).permute(2, 0, 1)[None]
    wide = torch.nn.functional.interpolate(square, (4, 4), mode="bicubic", align_corners=False)
    pixels = torch.randn(1, 3, 56, 56)
    with torch.inference_mode():
        ours = model.image_tokens(pixels)
        whole = torch.cat([learned[:, :1], wide[0].permute(1, 2, 0).reshape(1, 16, 24)], 1)
        model.vision_model.embeddings.position_embedding = torch.nn.Parameter(whole, requires_grad=False)
        assert torch.equal(ours, model.image_tokens(pixels))


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


def test_tensors_have_the_names_and_shapes_of_published_checkpoints(tmp_path: Path) -> None:
    """As the modules of InternVL's public source name them; the vision part is not named by transformers' own port."""
    from safetensors import safe_open

    tower = {
        "embeddings.class_embedding": (1, 1, 24),
        "embeddings.position_embedding": (1, 17, 24),
        "embeddings.patch_embedding.weight": (24, 3, 14, 14),
        "embeddings.patch_embedding.bias": (24,),
    }
    layers = {
        **dict.fromkeys(("ls1", "ls2", "norm1.weight", "norm2.weight", "attn.q_norm.weight"), (24,)),
        **dict.fromkeys(("attn.k_norm.weight", "attn.proj.bias", "mlp.fc2.bias"), (24,)),
        "attn.qkv.weight": (72, 24),
        "attn.proj.weight": (24, 24),
        "mlp.fc1.weight": (48, 24),
        "mlp.fc1.bias": (48,),
        "mlp.fc2.weight": (24, 48),
    }
    projector = {
        "0.weight": (96,),
        "0.bias": (96,),
        "1.weight": (32, 96),
        "1.bias": (32,),
        "3.weight": (32, 32),
        "3.bias": (32,),
    }
    decoder = {
        "input_layernorm.weight": (32,),
        "post_attention_layernorm.weight": (32,),
        "self_attn.q_proj.weight": (32, 32),
        "self_attn.k_proj.weight": (16, 32),
        "self_attn.v_proj.weight": (16, 32),
        "self_attn.o_proj.weight": (32, 32),
        "mlp.gate_proj.weight": (64, 32),
        "mlp.up_proj.weight": (64, 32),
        "mlp.down_proj.weight": (32, 64),
    }
    with safe_open(write_toy(tmp_path) / "model.safetensors", framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    vocabulary = MedregaConfig.from_folder(tmp_path).decoder.vocab_size
    assert found == {
        **{f"vision_model.{name}": shape for name, shape in tower.items()},
        **{f"vision_model.encoder.layers.{n}.{name}": shape for n in range(2) for name, shape in layers.items()},
        **{f"mlp1.{name}": shape for name, shape in projector.items()},
        "language_model.model.embed_tokens.weight": (vocabulary, 32),
        **{f"language_model.model.layers.{n}.{name}": shape for n in range(2) for name, shape in decoder.items()},
        "language_model.model.norm.weight": (32,),
        "language_model.lm_head.weight": (vocabulary, 32),
    }


def test_shards_give_the_same_model_as_one_file(tmp_path: Path) -> None:
    one = load_model(write_toy(tmp_path / "one"), device="cpu", dtype=torch.float32).state_dict()
    three = load_model(write_toy(tmp_path / "three", shards=3), device="cpu", dtype=torch.float32).state_dict()
    assert one.keys() == three.keys()
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_an_unknown_tensor_is_named_and_stored_rotary_frequencies_are_not_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(write_toy(tmp_path) / "model.safetensors")
    weights["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, tmp_path / "model.safetensors")
    load_model(tmp_path, device="cpu", dtype=torch.float32)
    weights["vision_model.extra"] = torch.ones(4)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"vision_model\.extra is not part"):
        load_model(tmp_path, device="cpu", dtype=torch.float32)


def test_a_model_that_does_not_fit_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import resources

    write_toy(tmp_path)
    monkeypatch.setattr(resources, "available_memory", lambda: 1000)
    with pytest.raises(ModelError, match=r"needs [0-9.]+ KB of memory, and 1\.0 KB are free"):
        load_model(tmp_path, device="cpu", dtype=torch.float32)


def test_free_memory_is_what_the_system_says() -> None:
    from engine.resources import available_memory, readable

    free = available_memory()
    assert free is None or 10**6 < free < 10**15
    assert [readable(size) for size in (12, 1500, 80_200_000_000)] == ["12 B", "1.5 KB", "80.2 GB"]


@pytest.mark.parametrize("cut", [3, 60, 5000])
def test_a_broken_shard_is_named(tmp_path: Path, cut: int) -> None:
    path = write_toy(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"model\.safetensors is broken"):
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
        ({"llm_config": None}, "no table of sizes"),
        ({"llm_config": LLAMA | {"num_attention_heads": 0}}, "no size"),
        ({"llm_config": LLAMA | {"hidden_size": "32"}}, "no size"),
        ({"select_layer": -4}, "select_layer"),
        ({"template": "internlm2-chat"}, "template"),
        ({"llm_config": LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}}, "rope_scaling"),
        ({"llm_config": LLAMA | {"attention_bias": True}}, "attention_bias"),
        ({"llm_config": LLAMA | {"architectures": ["InternLM2ForCausalLM"]}}, "InternLM2"),
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
