"""The Llama decoder with a key-value cache that is handed in and out, so that the same module exports to ONNX."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.model.config import DecoderConfig
from engine.model.vision import RMSNorm

Cache = tuple[Tensor, Tensor]
"""Keys and values of all layers: each [layers, B, KV heads, length, head size]."""


def rotary(positions: Tensor, config: DecoderConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary embedding (Su et al. 2021), in the half-split order of Llama.

    Parameters
    ----------
    positions : Tensor of int, [length] or [B, length]

    Returns
    -------
    tuple of Tensor, each [..., length, head size]
    """
    steps = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = 1.0 / config.rope_theta ** (steps / config.head_dim)
    angles = positions.float()[..., None] * frequencies
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys, [..., length, head size], to their positions."""
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


class SelfAttention(nn.Module):
    """Grouped-query attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        size, head = config.hidden_size, config.head_dim
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, head
        self.q_proj = nn.Linear(size, self.heads * head, bias=False)
        self.k_proj = nn.Linear(size, self.kv_heads * head, bias=False)
        self.v_proj = nn.Linear(size, self.kv_heads * head, bias=False)
        self.o_proj = nn.Linear(self.heads * head, size, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, past: Cache | None
    ) -> tuple[Tensor, Cache]:
        """[B, L, hidden] -> the same, and the layer's keys and values so far.

        `mask` is True where a query may look; None means plainly causal.
        """
        batch, length, _ = x.shape
        q = rotate(self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        groups = self.heads // self.kv_heads
        wide_k, wide_v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        out = functional.scaled_dot_product_attention(q, wide_k, wide_v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1)), (k, v)


class Mlp(nn.Module):
    """SwiGLU feed-forward (Shazeer 2020)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> the same."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, past: Cache | None
    ) -> tuple[Tensor, Cache]:
        """[B, L, hidden] -> the same, and the layer's cache."""
        attended, present = self.self_attn(self.input_layernorm(x), cos, sin, mask, past)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), present


class DecoderBody(nn.Module):
    """Embeddings, layers and the last norm (``language_model.model``)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """``language_model``: the body and the output head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DecoderBody(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def hidden(self, embeddings: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """Run all layers over new positions.

        Parameters
        ----------
        embeddings : Tensor, [B, L, hidden]
        past : Cache, optional
            Keys and values of the positions before; None at the beginning.

        Returns
        -------
        hidden : Tensor, [B, L, hidden]
            After the last norm.
        cache : Cache
            Keys and values of everything so far.
        """
        length = embeddings.shape[1]
        start = 0 if past is None else past[0].shape[3]
        positions = torch.arange(start, start + length, device=embeddings.device)
        cos, sin = rotary(positions, self.config)
        mask = None if past is None else positions[:, None] >= torch.arange(start + length, device=embeddings.device)
        x, keys, values = embeddings, [], []
        for index, layer in enumerate(self.model.layers):
            x, (k, v) = layer(x, cos, sin, mask, None if past is None else (past[0][index], past[1][index]))
            keys.append(k)
            values.append(v)
        return self.model.norm(x), (torch.stack(keys), torch.stack(values))

    def forward(self, embeddings: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """As `hidden`, with logits [B, L, vocabulary] in float32."""
        x, cache = self.hidden(embeddings, past)
        return self.lm_head(x).float(), cache
