"""Small random models of the recurrent and hybrid families of transformers that ttr accelerates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn


class Sizes(NamedTuple):
    """``hidden`` channels, ``heads`` of ``channels`` in the recurrent layers; ``layers`` of which the last is
    attention where a family has any."""

    hidden: int
    heads: int
    channels: int
    layers: int
    vocabulary: int = 256


TINY, SMALL = Sizes(32, 4, 8, 2, 100), Sizes(512, 8, 128, 4)

LARGER = {"initializer_range": 0.1}
"""Of families in whose logits the recurrent layers hardly show with weights as small as by default."""


def _common(s: Sizes) -> dict[str, Any]:
    return {
        "vocab_size": s.vocabulary,
        "hidden_size": s.hidden,
        "num_hidden_layers": s.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 2 * s.hidden,
        **{f"{token}_token_id": None for token in ("pad", "bos", "eos")},
    }


def _types(s: Sizes, recurrent: str, attention: str) -> list[str]:
    return [recurrent] * (s.layers - 1) + [attention]


def _gated_delta(s: Sizes) -> dict[str, Any]:
    return {
        **_common(s),
        "linear_num_value_heads": s.heads,
        "linear_num_key_heads": s.heads // 2,
        "linear_key_head_dim": s.channels,
        "linear_value_head_dim": s.channels,
        "head_dim": s.hidden // 4,
        "layer_types": _types(s, "linear_attention", "full_attention"),
    }


def _experts(s: Sizes, name: str = "num_experts") -> dict[str, Any]:
    return {name: 2, "num_experts_per_tok": 1, "moe_intermediate_size": s.hidden // 2}


def _kimi(s: Sizes) -> dict[str, Any]:
    eighth = s.hidden // 8
    attention = {"kv_lora_rank": eighth, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": eighth}
    return {
        **_common(s),
        **_experts(s, "num_local_experts"),
        **attention,
        "num_key_value_heads": 4,
        "linear_num_heads": s.heads,
        "linear_head_dim": s.channels,
        "layer_types": _types(s, "linear_attention", "full_attention"),
    }


def _mamba2(s: Sizes, prefix: str = "mamba_") -> dict[str, Any]:
    """In the names of Bamba; the state space has 2 x hidden channels in all."""
    return {
        **_common(s),
        "mamba_n_heads": 2 * s.hidden // s.channels,
        "mamba_d_head": s.channels,
        "mamba_d_state": s.channels,
        "mamba_n_groups": 1,
        "mamba_expand": 2,
        "mamba_chunk_size": 64,
    }


def _pure_mamba2(s: Sizes) -> dict[str, Any]:
    return {
        **{name: _common(s)[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")},
        "num_heads": 2 * s.hidden // s.channels,
        "head_dim": s.channels,
        "state_size": s.channels,
        "n_groups": 1,
        "expand": 2,
        "chunk_size": 64,
    }


def _nemotron(s: Sizes) -> dict[str, Any]:
    names = {"num_heads": "mamba_num_heads", "head_dim": "mamba_head_dim", "state_size": "ssm_state_size"}
    own = {names.get(name, name): value for name, value in _pure_mamba2(s).items()}
    own.pop("num_hidden_layers")
    return {
        **_common(s),
        **own,
        "layers_block_type": _types(s, "mamba", "attention"),
        "head_dim": s.hidden // 4,
    }


def _zamba2(s: Sizes) -> dict[str, Any]:
    return {
        **_common(s),
        "layers_block_type": _types(s, "mamba", "hybrid"),
        "n_mamba_heads": 2 * s.hidden // s.channels,
        "mamba_d_state": s.channels,
        "chunk_size": 64,
        "num_key_value_heads": 4,
    }


def _mamba(s: Sizes) -> dict[str, Any]:
    return {name: _common(s)[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")}


def _bailing(s: Sizes) -> dict[str, Any]:
    own = {name: value for name, value in _kimi(s).items() if not name.startswith("linear_")}
    return {
        **own,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.heads,
        "head_dim": s.channels,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "num_mtp_layers": 0,
    }


def _minimax(s: Sizes) -> dict[str, Any]:
    own = {"num_attention_heads": s.heads, "head_dim": s.channels, "block_size": 8 if s.layers == 2 else 256}
    types = _types(s, "linear_attention", "full_attention")
    return {**_common(s), **own, "num_local_experts": 2, "num_experts_per_tok": 1, "layer_types": types}


def _recurrent_gemma(s: Sizes) -> dict[str, Any]:
    recurrent, attention = ["recurrent"] * (s.layers - 1), ["attention"]
    own = {"lru_width": s.hidden, "block_types": recurrent + attention, "w_init_variance_scale": 1.0}
    return {**_common(s), **own, "pad_token_id": 0}


def _lfm(s: Sizes) -> dict[str, Any]:
    """With weights so large that the convolutions show in the logits."""
    types = _types(s, "conv", "full_attention")
    return {**_common(s), "layer_types": types, "initializer_range": 0.2}


def _inkling(s: Sizes) -> dict[str, Any]:
    attention = {"head_dim": s.hidden // 4, "swa_head_dim": s.hidden // 4, "swa_num_attention_heads": 4}
    experts = {**_experts(s, "n_routed_experts"), "unpadded_vocab_size": s.vocabulary}
    return {**_common(s), **LARGER, **attention, **experts, "swa_num_key_value_heads": 2}


def _qwen4(s: Sizes) -> dict[str, Any]:
    indexer = {"n_heads": 2, "kv_heads": 1, "head_dim": 8, "budget": 64, "compress_ratio": 8}
    embeddings = {"ngram_vocab_size_base": 50, "heads_per_ngram": 2, "ple_embed_dim": s.hidden}
    return {
        **_gated_delta(s),
        **LARGER,
        **_experts(s),
        **{f"indexer_{name}": value for name, value in indexer.items()},
        **embeddings,
        "shared_expert_intermediate_size": s.hidden // 2,
        "hc_count": 2,
        "hc_lowrank": s.hidden // 4,
    }


def _zamba(s: Sizes) -> dict[str, Any]:
    own = {"layers_block_type": ["hybrid"] * s.layers, "num_key_value_heads": 4, "n_mamba_heads": 2}
    return {**_common(s), **LARGER, **own, "use_mamba_kernels": False}


def _xlstm(s: Sizes) -> dict[str, Any]:
    """Its cache takes multiples of 64 channels only."""
    hidden = max(s.hidden, 64)
    own = {"hidden_size": hidden, "num_heads": hidden // s.channels, "qk_dim_factor": 1.0}
    return {**_mamba(s), **own, "chunk_size": min(64, 2 * s.channels)}


FAMILIES: dict[str, tuple[str, Callable[[Sizes], Mapping[str, Any]]]] = {
    "qwen3-next": (
        "Qwen3Next",
        lambda s: {**_gated_delta(s), **_experts(s), "shared_expert_intermediate_size": s.hidden // 2},
    ),
    "qwen3.5": ("Qwen3_5", _gated_delta),
    "olmo-hybrid": ("OlmoHybrid", lambda s: {**_gated_delta(s), "linear_num_key_heads": s.heads}),
    "kimi-linear": ("KimiLinear", _kimi),
    "mamba2": ("Mamba2", _pure_mamba2),
    "bamba": ("Bamba", lambda s: {**_mamba2(s), "attn_layer_indices": [s.layers - 1]}),
    "falcon-h1": ("FalconH1", lambda s: {**_mamba2(s), **LARGER, "mamba_d_ssm": 2 * s.hidden}),
    "granite-4-hybrid": (
        "GraniteMoeHybrid",
        lambda s: {**_mamba2(s), "layer_types": _types(s, "mamba", "attention")},
    ),
    "nemotron-h": ("NemotronH", _nemotron),
    "zamba2": ("Zamba2", _zamba2),
    "mamba": ("Mamba", _mamba),
    "falcon-mamba": ("FalconMamba", _mamba),
    "jamba": (
        "Jamba",
        lambda s: {
            **_common(s),
            **LARGER,
            "attn_layer_period": s.layers,
            "attn_layer_offset": s.layers - 1,
        },
    ),
    "bailing-hybrid": ("BailingHybrid", _bailing),
    "minimax": ("MiniMax", _minimax),
    "recurrent-gemma": ("RecurrentGemma", _recurrent_gemma),
    "xlstm": ("xLSTM", _xlstm),
    "rwkv": ("Rwkv", _mamba),
    "lfm2": ("Lfm2", _lfm),
    "lfm2-moe": ("Lfm2Moe", lambda s: {**_lfm(s), **_experts(s), "num_dense_layers": 1}),
    "lfm3": ("Lfm3", _lfm),
    "inkling": ("Inkling", _inkling),
    "qwen4-exp": ("Qwen4Exp", _qwen4),
    "zamba": ("Zamba", _zamba),
    "qwen3.5-moe": (
        "Qwen3_5Moe",
        lambda s: {**_gated_delta(s), **_experts(s), "shared_expert_intermediate_size": s.hidden // 2},
    ),
}
"""A family's classes in transformers, ``...Config`` and ``...ForCausalLM``, and its configuration."""


def build(family: str, sizes: Sizes) -> nn.Module:
    """A random model, the same at every call, for evaluation."""
    import transformers

    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config")
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config(**settings(sizes))).eval()
