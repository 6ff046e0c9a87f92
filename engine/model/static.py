"""The decoder with a cache in buffers that never move, so that a step of it is one CUDA graph.

A step reads every weight once, which bounds its speed; the buffers and the graph keep launches and copies from costing
more than that. Attention is PyTorch's fused one: the queries of one key-value head are its rows, so that keys and
values are read once and never widened.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from engine.model.decoder import Decoder, DecoderLayer, rotary, rotate


class StaticDecoder:
    """A decoder and the cache of a batch of sequences of the same length.

    Parameters
    ----------
    decoder : Decoder
    batch : int
    length : int
        Positions that the cache has room for.
    """

    def __init__(self, decoder: Decoder, batch: int, length: int) -> None:
        config, weight = decoder.config, decoder.lm_head.weight
        self._decoder, self._length = decoder, length
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, length, config.head_dim)
        self._keys, self._values = (torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in range(2))
        self._tokens = torch.zeros(batch, dtype=torch.long, device=weight.device)
        self._place = torch.zeros(1, dtype=torch.long, device=weight.device)
        self._places = torch.arange(length, device=weight.device)
        self._logits = torch.empty(0)
        self._graph: torch.cuda.CUDAGraph | None = None

    @torch.inference_mode()
    def begin(self, embeddings: Tensor) -> Tensor:
        """Read prompts, [B, L, hidden], in place of others; logits of what comes next, [B, vocabulary]."""
        hidden, (keys, values) = self._decoder.hidden(embeddings)
        count = embeddings.shape[1]
        self._keys[..., :count, :].copy_(keys)
        self._values[..., :count, :].copy_(values)
        self._place.fill_(count)
        logits: Tensor = self._decoder.lm_head(hidden[:, -1]).float()
        return logits

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token of each sequence, [B]; logits of what comes next, good until the next step."""
        self._tokens.copy_(tokens)
        if self._tokens.is_cuda:
            if self._graph is None:
                self._capture()
            assert self._graph is not None  # noqa: S101 - for the type checker
            self._graph.replay()
        else:
            self._logits = self._compute()
        self._place += 1
        return self._logits

    def _capture(self) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their kernels before the recording; a step may run twice unharmed
                self._compute()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # other threads go on
            self._logits = self._compute()

    def _compute(self) -> Tensor:
        body = self._decoder.model
        cos, sin = rotary(self._place, self._decoder.config)
        mask = self._places <= self._place
        x = body.embed_tokens(self._tokens)[:, None]
        layers = cast("Iterable[DecoderLayer]", body.layers)
        for layer, keys, values in zip(layers, self._keys, self._values, strict=True):
            x = x + self._attend(layer, x, (cos, sin), mask, keys, values)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits: Tensor = self._decoder.lm_head(body.norm(x)[:, 0]).float()
        return logits

    def _attend(
        self, layer: DecoderLayer, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        attention, normed = layer.self_attn, layer.input_layernorm(x)
        batch, heads, shared, size = len(x), attention.heads, attention.kv_heads, attention.head_dim
        q = rotate(attention.q_proj(normed).view(batch, heads, 1, size), *turn)
        k = rotate(attention.k_proj(normed).view(batch, shared, 1, size), *turn)
        keys.index_copy_(2, self._place, k)
        values.index_copy_(2, self._place, attention.v_proj(normed).view(batch, shared, 1, size))
        grouped = q.view(batch, shared, heads // shared, size)
        visible = mask.expand(batch, shared, heads // shared, self._length)
        out = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=visible)
        projected: Tensor = attention.o_proj(out.reshape(batch, 1, heads * size))
        return projected
