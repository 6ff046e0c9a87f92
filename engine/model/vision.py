"""InternViT, pixel shuffle and projector: an image becomes tokens in the decoder's space.

Module names follow the published checkpoints, so that weights load by name.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.model.config import MedregaConfig, VisionConfig


class RMSNorm(nn.Module):
    """Root mean square normalisation, computed in float32 (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def _norm(config: VisionConfig) -> nn.Module:
    if config.norm_type == "rms_norm":
        return RMSNorm(config.hidden_size, config.layer_norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class VisionEmbeddings(nn.Module):
    """Patches, a class token and learned positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.class_embedding = nn.Parameter(torch.randn(1, 1, size))
        self.patch_embedding = nn.Conv2d(3, size, config.patch_size, config.patch_size)
        self.position_embedding = nn.Parameter(torch.randn(1, config.trained_grid**2 + 1, size))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, 1 + patches, hidden]; positions are interpolated when the grid is another."""
        patches = self.patch_embedding(pixels)
        height, width = patches.shape[-2:]
        patches = patches.flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(pixels.shape[0], -1, -1).to(patches.dtype)
        return torch.cat([cls, patches], 1) + self._positions(height, width).to(patches.dtype)

    def _positions(self, height: int, width: int) -> Tensor:
        grid = int((self.position_embedding.shape[1] - 1) ** 0.5)
        if (height, width) == (grid, grid):
            return self.position_embedding
        cls, positions = self.position_embedding[:, :1], self.position_embedding[:, 1:]
        square = positions.float().reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        square = functional.interpolate(square, (height, width), mode="bicubic", align_corners=False)
        return torch.cat([cls, square.flatten(2).transpose(1, 2).to(cls.dtype)], 1)


class VisionAttention(nn.Module):
    """Self-attention; q and k are normalised over all heads at once before the split."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(size, 3 * size, bias=config.qkv_bias)
        if config.qk_normalization:
            self.q_norm = RMSNorm(size, config.layer_norm_eps)
            self.k_norm = RMSNorm(size, config.layer_norm_eps)
        self.qk_normalization = config.qk_normalization
        self.proj = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, hidden] -> the same."""
        batch, length, size = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.qk_normalization:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(batch, length, size))
        return projected


class VisionMlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> the same."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class VisionLayer(nn.Module):
    """``x + ls1 * attn(norm1(x))``, then ``x + ls2 * mlp(norm2(x))``."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(config), _norm(config)
        self.attn, self.mlp = VisionAttention(config), VisionMlp(config)
        self.ls1 = nn.Parameter(torch.ones(config.hidden_size))
        self.ls2 = nn.Parameter(torch.ones(config.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, hidden] -> the same."""
        x = x + self.attn(self.norm1(x)) * self.ls1
        out: Tensor = x + self.mlp(self.norm2(x)) * self.ls2
        return out


class VisionEncoder(nn.Module):
    """The layers, with no norm after the last one."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, select_layer: int) -> Tensor:
        """Output of layer `select_layer`, counted as in a list of all hidden states (-1: the last)."""
        last = len(self.layers) + select_layer + 1 if select_layer < 0 else select_layer
        for layer in self.layers[:last]:
            x = layer(x)
        return x


class VisionModel(nn.Module):
    """InternViT without its class token's output."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)

    def forward(self, pixels: Tensor, select_layer: int) -> Tensor:
        """[B, 3, S, S] -> [B, patches, hidden]."""
        out: Tensor = self.encoder(self.embeddings(pixels), select_layer)
        return out[:, 1:]


def pixel_shuffle(x: Tensor, ratio: float, version: Literal["v1", "v2"]) -> Tensor:
    """Fold neighbouring patches into channels.

    Parameters
    ----------
    x : Tensor, [B, side, side, channels]
    ratio : float
        Factor on each side; 0.5 makes a quarter of the tokens with four times the channels.
    version : {"v1", "v2"}
        v1 leaves the two sides swapped after the first step, as MedRegA was trained; v2 swaps them back.

    Returns
    -------
    Tensor, [B, side * ratio, side * ratio, channels / ratio**2]
    """
    batch, side, _, channels = x.shape
    short = int(side * ratio)
    x = x.reshape(batch, side, short, int(channels / ratio)).permute(0, 2, 1, 3)
    x = x.reshape(batch, short, short, int(channels / ratio**2))
    return x.permute(0, 2, 1, 3) if version == "v2" else x


def projector(config: MedregaConfig) -> nn.Sequential:
    """``mlp1``: LayerNorm, linear, exact GELU, linear."""
    wide = int(config.vision.hidden_size / config.downsample_ratio**2)
    size = config.decoder.hidden_size
    return nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, size), nn.GELU(), nn.Linear(size, size))
