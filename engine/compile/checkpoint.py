"""Step 4: the Llama folder becomes a TensorRT-LLM checkpoint, ``config.json`` and ``rank{r}.safetensors``.

Names, layout and sharding are those that TensorRT-LLM 1.2.1 loads for ``LlamaForCausalLM``: q, k and v fused in that
order; a rank has its share of heads (rows of qkv, columns of the output projection), of the feed-forward (rows of
``fc`` = gate and ``gate`` = up, columns of ``proj`` = down) and of the vocabulary of the head, which is padded with
zeros to a multiple of the ranks. Embedding and norms are whole on every rank. Where there are fewer key-value heads
than ranks, neighbouring ranks share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from engine.compile.manifest import Output
from engine.compile.streams import Cut, Entry
from engine.errors import ModelError
from engine.model.config import DecoderConfig
from engine.model.stored import Stored, stored_tensors

PARALLEL: Final = (1, 2, 4, 8)


def check_parallel(config: DecoderConfig, ranks: int) -> None:
    """Refuse a tensor parallelism that the sizes do not divide into.

    Raises
    ------
    ModelError
        It names the size.
    """
    if ranks not in PARALLEL:
        raise ModelError(f"tensor parallelism {ranks} is none of {', '.join(map(str, PARALLEL))}")
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    for bad, what in (
        (heads % ranks, f"{heads} attention heads"),
        (shared % ranks and ranks % shared, f"{shared} key-value heads"),
        (config.intermediate_size % ranks, f"a feed-forward of {config.intermediate_size}"),
    ):
        if bad:
            raise ModelError(f"{what} cannot be shared by {ranks} ranks", advice="Choose another --tensor-parallel.")


def checkpoint_outputs(language: Path, config: DecoderConfig, ranks: int) -> list[Output]:
    """Files of this step, in bfloat16."""
    stored = stored_tensors(language)
    files = [Output.text("checkpoint/config.json", checkpoint_config(config, ranks))]
    for rank in range(ranks):
        files.append(Output.tensors(f"checkpoint/rank{rank}.safetensors", rank_entries(stored, config, ranks, rank)))
    return files


def checkpoint_config(config: DecoderConfig, ranks: int) -> dict[str, Any]:
    """``config.json`` of the checkpoint."""
    return {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "logits_dtype": "float32",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_size": config.head_dim,
        "hidden_act": "silu",
        "intermediate_size": config.intermediate_size,
        "norm_epsilon": config.rms_norm_eps,
        "position_embedding_type": "rope_gpt_neox",
        "rotary_base": config.rope_theta,
        "rotary_scaling": None,
        "attn_bias": False,
        "mlp_bias": False,
        "mapping": {"world_size": ranks, "tp_size": ranks, "pp_size": 1},
        "quantization": {
            "quant_algo": None,
            "kv_cache_quant_algo": None,
            "group_size": 128,
            "has_zero_point": False,
            "pre_quant_scale": False,
            "exclude_modules": None,
        },
    }


def rank_entries(stored: dict[str, Stored], config: DecoderConfig, ranks: int, rank: int) -> list[Entry]:
    """Tensors of one rank, as cuts of the Llama folder's."""

    def share(size: int) -> tuple[int, int]:
        return size * rank // ranks, size * (rank + 1) // ranks

    def whole(name: str, source: str) -> Entry:
        return Entry(name, [Cut(stored[source])], "BF16")

    def rows(name: str, *cuts: tuple[str, tuple[int, int]]) -> Entry:
        return Entry(name, [Cut(stored[source], part) for source, part in cuts], "BF16")

    def columns(name: str, source: str, part: tuple[int, int]) -> Entry:
        return Entry(name, [Cut(stored[source], columns=part)], "BF16")

    head, shared = config.head_dim, config.num_key_value_heads
    queries = share(config.num_attention_heads * head)
    first = rank * shared // ranks
    keys = (first * head, (first + max(1, shared // ranks)) * head)
    wide = share(config.intermediate_size)
    entries = [whole("transformer.vocab_embedding.weight", "model.embed_tokens.weight")]
    for layer in range(config.num_hidden_layers):
        there, here = f"model.layers.{layer}.", f"transformer.layers.{layer}."
        attention = ((f"{there}self_attn.{part}_proj.weight", queries if part == "q" else keys) for part in "qkv")
        entries += [
            whole(f"{here}input_layernorm.weight", f"{there}input_layernorm.weight"),
            rows(f"{here}attention.qkv.weight", *attention),
            columns(f"{here}attention.dense.weight", f"{there}self_attn.o_proj.weight", queries),
            whole(f"{here}post_layernorm.weight", f"{there}post_attention_layernorm.weight"),
            rows(f"{here}mlp.fc.weight", (f"{there}mlp.gate_proj.weight", wide)),
            rows(f"{here}mlp.gate.weight", (f"{there}mlp.up_proj.weight", wide)),
            columns(f"{here}mlp.proj.weight", f"{there}mlp.down_proj.weight", wide),
        ]
    entries.append(whole("transformer.ln_f.weight", "model.norm.weight"))
    entries.append(_head(stored["lm_head.weight"], config.vocab_size, ranks, rank))
    return entries


def _head(stored: Stored, vocabulary: int, ranks: int, rank: int) -> Entry:
    each = -(-vocabulary // ranks)
    begin, end = (min(place, vocabulary) for place in (rank * each, (rank + 1) * each))
    cuts: Sequence[Cut] = [Cut(stored, (begin, end))]
    return Entry("lm_head.weight", cuts, "BF16", padding=each - (end - begin))
