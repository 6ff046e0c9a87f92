"""Sizes of a MedRegA model, read from a Hugging Face style ``config.json`` of type ``internvl_chat``."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import ModelError


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """InternViT (``vision_config``).

    Parameters
    ----------
    image_size : int
        Side of the images that it is given, pixels: ``force_image_size`` where the configuration has one.
    trained_size : int
        Side of the images that its learned positions are of; they are interpolated where the two differ.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    trained_size: int
    patch_size: int
    layer_norm_eps: float
    norm_type: Literal["rms_norm", "layer_norm"]
    qk_normalization: bool
    qkv_bias: bool

    @property
    def grid(self) -> int:
        """Patches along one side of the square image."""
        return self.image_size // self.patch_size

    @property
    def trained_grid(self) -> int:
        """Learned positions along one side."""
        return self.trained_size // self.patch_size


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Llama decoder (``llm_config``)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, slots=True)
class MedregaConfig:
    """The whole model: vision tower, pixel shuffle, projector, decoder.

    Parameters
    ----------
    ps_version : {"v1", "v2"}
        Order of the pixel shuffle. MedRegA is v1: after the first step height and width are *not* swapped back.
    select_layer : int
        Which vision layer's output is used; -1 is the last.
    downsample_ratio : float
        Pixel shuffle factor along each side.
    """

    vision: VisionConfig
    decoder: DecoderConfig
    ps_version: Literal["v1", "v2"]
    select_layer: int
    downsample_ratio: float

    @property
    def image_tokens(self) -> int:
        """Number of tokens one image becomes."""
        return round(self.vision.grid * self.downsample_ratio) ** 2

    @classmethod
    def from_folder(cls, folder: Path) -> MedregaConfig:
        """Read ``config.json``.

        Raises
        ------
        ModelError
            If the file is missing, describes another architecture, or contradicts itself.
        """
        path = folder / "config.json"
        try:
            raw: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path} cannot be read: {error}", advice="point [engine] model at a MedRegA folder"
            ) from error
        if not isinstance(raw, dict):
            raise ModelError(f"{path} is no model configuration")
        if raw.get("model_type") != "internvl_chat":
            raise ModelError(f"{path} describes model_type {raw.get('model_type')!r}, expected 'internvl_chat'")
        try:
            config = cls._from_raw(raw)
            config._check(path)
        except KeyError as error:
            raise ModelError(f"{path} lacks {error}") from error
        except ValueError as error:
            raise ModelError(f"{path}: {error}") from error
        except (AttributeError, TypeError, ZeroDivisionError) as error:  # a part or a size that is none
            raise ModelError(f"{path} holds what is no size or no table of sizes: {error}") from error
        return config

    @classmethod
    def _from_raw(cls, raw: dict[str, Any]) -> MedregaConfig:
        vision, decoder = raw["vision_config"], raw["llm_config"]
        _refuse_variants(raw, vision, decoder)
        return cls(
            vision=VisionConfig(
                hidden_size=vision["hidden_size"],
                intermediate_size=vision["intermediate_size"],
                num_hidden_layers=vision["num_hidden_layers"],
                num_attention_heads=vision["num_attention_heads"],
                image_size=raw.get("force_image_size") or vision["image_size"],
                trained_size=vision["image_size"],
                patch_size=vision["patch_size"],
                layer_norm_eps=vision.get("layer_norm_eps", 1e-6),
                norm_type=vision.get("norm_type", "rms_norm"),
                qk_normalization=vision.get("qk_normalization", True),
                qkv_bias=vision.get("qkv_bias", False),
            ),
            decoder=DecoderConfig(
                hidden_size=decoder["hidden_size"],
                intermediate_size=decoder["intermediate_size"],
                num_hidden_layers=decoder["num_hidden_layers"],
                num_attention_heads=decoder["num_attention_heads"],
                num_key_value_heads=decoder.get("num_key_value_heads") or decoder["num_attention_heads"],
                vocab_size=decoder["vocab_size"],
                rms_norm_eps=decoder.get("rms_norm_eps", 1e-6),
                rope_theta=decoder.get("rope_theta", 10000.0),
                max_position_embeddings=decoder["max_position_embeddings"],
            ),
            ps_version=raw.get("ps_version", "v1"),
            select_layer=raw.get("select_layer", -1),
            downsample_ratio=raw.get("downsample_ratio", 0.5),
        )

    def _check(self, path: Path) -> None:
        vision, decoder = self.vision, self.decoder
        layers = vision.num_hidden_layers
        sizes = [value for value in (*astuple(vision), *astuple(decoder)) if not isinstance(value, str | bool)]
        wrong = [
            (min(sizes) <= 0, "a size is not above zero"),
            (not -layers - 1 <= self.select_layer <= layers, "select_layer is none of the vision layers"),
            (vision.image_size % vision.patch_size, "image size is no multiple of the patch size"),
            (vision.trained_size % vision.patch_size, "vision image size is no multiple of the patch size"),
            (vision.hidden_size % vision.num_attention_heads, "vision hidden size is no multiple of its heads"),
            (decoder.hidden_size % decoder.num_attention_heads, "decoder hidden size is no multiple of its heads"),
            (decoder.num_attention_heads % decoder.num_key_value_heads, "query heads are no multiple of KV heads"),
            (vision.grid * self.downsample_ratio % 1, "the patch grid does not divide by the downsample ratio"),
            (self.ps_version not in ("v1", "v2"), "ps_version is neither v1 nor v2"),
            (vision.norm_type not in ("rms_norm", "layer_norm"), "norm_type is neither rms_norm nor layer_norm"),
        ]
        for bad, reason in wrong:
            if bad:
                raise ModelError(f"{path}: {reason}")


def _refuse_variants(raw: dict[str, Any], vision: dict[str, Any], decoder: dict[str, Any]) -> None:
    """Refuse what Llama and InternViT configurations can say and this architecture does not do."""
    head = decoder["hidden_size"] // decoder["num_attention_heads"]
    known: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("template", raw.get("template"), (None, "Hermes-2")),
        ("llm_config.architectures", decoder.get("architectures"), (None, ["LlamaForCausalLM"])),
        ("llm_config.rope_scaling", decoder.get("rope_scaling"), (None,)),
        ("llm_config.attention_bias", decoder.get("attention_bias"), (None, False)),
        ("llm_config.mlp_bias", decoder.get("mlp_bias"), (None, False)),
        ("llm_config.hidden_act", decoder.get("hidden_act"), (None, "silu")),
        ("llm_config.head_dim", decoder.get("head_dim"), (None, head)),
        ("vision_config.hidden_act", vision.get("hidden_act"), (None, "gelu")),
        ("vision_config.num_channels", vision.get("num_channels"), (None, 3)),
    ]
    for name, value, allowed in known:
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}, which this architecture does not have")
