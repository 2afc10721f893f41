"""Linear memories that add weighted pairs: linear attention and its gated forms."""

from __future__ import annotations

import torch
from torch.nn.functional import elu, logsigmoid, pad, silu

from .case import B, Draw, H, K, T, V, fold, parity, problem
from .originals import fla, transformers

MAMBA2 = ("pad_tensor_by_size", "reshape_into_chunks", "segment_sum", "mamba2_chunk_scan")


@parity("linear-attention", "fla/ops/linear_attn/naive.py naive_recurrent_linear_attn")
def linear_attention(draw: Draw):
    original = fla("ops/linear_attn/naive.py", "naive_recurrent_linear_attn").naive_recurrent_linear_attn

    def ours(q, k, v, state):
        return fold(problem("linear-attention"), q, k, v, {}, memory=state)

    def theirs(q, k, v, state):
        return original(q, k, v, initial_state=state, output_final_state=True)

    return draw.qkv() | {"state": draw.normal(B, H, K, V)}, ours, theirs


@parity(
    "linear-attention-normalized",
    "fla/ops/linear_attn/naive.py naive_recurrent_linear_attn(normalize=True) of elu + 1",
)
def linear_attention_normalized(draw: Draw):
    original = fla("ops/linear_attn/naive.py", "naive_recurrent_linear_attn").naive_recurrent_linear_attn

    def ours(q, k, v, state, normalizer):
        return fold(problem("linear-attention-normalized"), q, k, v, {}, memory=state, normalizer=normalizer)

    def theirs(q, k, v, state, normalizer):
        y, (memory, ones) = original(
            elu(q) + 1,
            elu(k) + 1,
            v,
            initial_state=(state, normalizer[:, None]),
            output_final_state=True,
            normalize=True,
        )
        return y, memory, ones[:, 0]

    return (
        draw.qkv() | {"state": draw.normal(B, H, K, V), "normalizer": draw.between(0.5, 2.0, B, H, K)},
        ours,
        theirs,
    )


@parity("based", "fla/ops/based/naive.py naive_parallel_based")
def based(draw: Draw):
    original = fla("ops/based/naive.py", "naive_parallel_based").naive_parallel_based

    def ours(q, k, v):
        return fold(problem("based"), q, k, v, {})

    def theirs(q, k, v):
        return (original(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2),)

    return draw.qkv(), ours, theirs


@parity(
    "based",
    "fla/modules/feature_map.py TaylorFeatureMap, then fla/ops/linear_attn/naive.py "
    "(normalize=True, scale=1)",
)
def based_features(draw: Draw):
    taylor = fla(
        "modules/feature_map.py", "_triu_indices", "flatten_diag_outer_product_off1", "TaylorFeatureMap"
    ).TaylorFeatureMap(K)
    original = fla("ops/linear_attn/naive.py", "naive_recurrent_linear_attn").naive_recurrent_linear_attn

    def ours(q, k, v):
        return fold(problem("based"), q, k, v, {})

    def theirs(q, k, v):
        # This original adds 1e-10 to the denominator, the entry 1e-6: a further pair of value 0 with the
        # missing kernel value for every query. Only the constant feature is alike for all queries, and it is
        # 1.
        missing = pad(
            torch.full((B, 1, H, 1), problem("based").function.eps - 1e-10), (0, taylor(q).shape[-1] - 1)
        )
        return original(
            taylor(q), taylor(k), v, scale=1.0, normalize=True, initial_state=(torch.zeros(()), missing)
        )[:1]

    return draw.qkv(), ours, theirs


@parity("retnet", "fla/ops/retention/naive.py naive_retention")
def retnet(draw: Draw):
    original = fla("ops/retention/naive.py", "naive_retention").naive_retention

    def ours(q, k, v):
        return fold(problem("retnet"), q, k, v, {})

    def theirs(q, k, v):
        return (original(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2),)

    return draw.qkv((3, 3, 3)), ours, theirs


@parity("gla", "fla/ops/gla/naive.py naive_recurrent_gla")
def gla(draw: Draw):
    original = fla("ops/gla/naive.py", "naive_recurrent_gla").naive_recurrent_gla

    def ours(q, k, v, log_decay, state):
        return fold(problem("gla"), q, k, v, {"log_decay": log_decay}, memory=state)

    def theirs(q, k, v, log_decay, state):
        return original(q, k, v, log_decay, initial_state=state, output_final_state=True)

    return (
        draw.qkv() | {"log_decay": draw.log_decay(B, T, H, K), "state": draw.normal(B, H, K, V)},
        ours,
        theirs,
    )


@parity("mamba2", "transformers models/mamba2 mamba2_chunk_scan, B and C shared by groups of heads")
def mamba2(draw: Draw):
    original = transformers("models/mamba2/modeling_mamba2.py", *MAMBA2).mamba2_chunk_scan

    def ours(x, dt, A, B_, C, state):
        return fold(problem("mamba2"), C, B_, x * dt[..., None], {"log_decay": dt * A}, memory=state)

    def theirs(x, dt, A, B_, C, state):
        y, end = original(x, dt, A, B_, C, chunk_size=4, initial_states=state.mT, return_final_states=True)
        return y, end.mT

    heads, groups = 4, 2
    tensors = {
        "x": draw.normal(B, T, heads, V),
        "dt": draw.between(0.1, 0.9, B, T, heads),
        "A": -draw.between(0.3, 2.0, heads),
        "B_": draw.normal(B, T, groups, K),
        "C": draw.normal(B, T, groups, K),
        "state": draw.normal(B, heads, K, V),
    }
    return tensors, ours, theirs


@parity("hgrn2", "fla/ops/gla/naive.py naive_recurrent_gla with the keys and gates of fla/layers/hgrn2.py")
def hgrn2(draw: Draw):
    original = fla("ops/gla/naive.py", "naive_recurrent_gla").naive_recurrent_gla

    def ours(q, f, i, state):
        return fold(
            problem("hgrn2"), silu(q), torch.sigmoid(-f), i, {"log_decay": logsigmoid(f)}, memory=state
        )

    def theirs(q, f, i, state):
        log_forget = logsigmoid(f)
        return original(
            q * q.sigmoid(), 1 - log_forget.exp(), i, log_forget, initial_state=state, output_final_state=True
        )

    tensors = {
        "q": draw.normal(B, T, H, K),
        "f": draw.normal(B, T, H, K),
        "i": draw.normal(B, T, H, V),
        "state": draw.normal(B, H, K, V),
    }
    return tensors, ours, theirs
