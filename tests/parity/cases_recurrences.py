"""Linear memories that add pairs by a recurrence of their own."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

import ttr

from .case import B, Draw, H, K, T, V, fold, parity, problem
from .originals import fla, transformers

LOG_LINEAR = ("segsum", "construct_level_mask", "construct_H_matrix", "naive_log_linear_attn")


@parity("rwkv6", "fla/ops/rwkv6/recurrent_naive.py naive_recurrent_rwkv6")
def rwkv6(draw: Draw):
    original = fla("ops/rwkv6/recurrent_naive.py", "naive_recurrent_rwkv6").naive_recurrent_rwkv6

    def ours(q, k, v, log_decay, bonus, state):
        start = ttr.initial_state(problem("rwkv6"), B, H, K, V, dtype=torch.float64).replace(memory=state)
        y, end = ttr.oracle(
            problem("rwkv6"),
            q,
            k,
            v,
            params={"weights.bonus": bonus},
            state=start,
            return_state=True,
            log_decay=log_decay,
        )
        return y, end["memory"]

    def theirs(q, k, v, log_decay, bonus, state):
        inputs = (x.transpose(1, 2) for x in (q, k, v, log_decay))
        y, end = original(*inputs, bonus, scale=1.0, initial_state=state, output_final_state=True)
        return y.transpose(1, 2), end

    tensors = {
        "log_decay": draw.log_decay(B, T, H, K),
        "bonus": draw.normal(H, K),
        "state": draw.normal(B, H, K, V),
    }
    return draw.qkv() | tensors, ours, theirs


@parity("mlstm", "transformers models/xlstm mlstm_recurrent_sequence_native (eps=0)")
def mlstm(draw: Draw):
    """The sums in undivided units are compared: the original's running maximum may be below 0."""
    original = transformers(
        "models/xlstm/modeling_xlstm.py", "mlstm_recurrent_step_native", "mlstm_recurrent_sequence_native"
    )
    options = {"return_last_states": True, "eps": 0.0, "dtype_state": torch.float64}

    def undivided(memory, normalizer, log_scale):
        return torch.exp(log_scale)[..., None, None] * memory, torch.exp(log_scale)[..., None] * normalizer

    def ours(q, k, v, i, f, memory, normalizer, log_scale):
        state = {"memory": memory, "normalizer": normalizer, "log_scale": log_scale}
        y, *end = fold(problem("mlstm"), q, k, v, {"log_decay": logsigmoid(f), "log_importance": i}, **state)
        return y, *undivided(*end)

    def theirs(q, k, v, i, f, memory, normalizer, log_scale):
        inputs = (x.transpose(1, 2) for x in (q, k, v, i, f))
        y, (memory, normalizer, log_scale) = original.mlstm_recurrent_sequence_native(
            *inputs, memory, normalizer, log_scale[..., None], **options
        )
        return y.transpose(1, 2), *undivided(memory, normalizer, log_scale[..., 0])

    gates = {"i": 3 * draw.normal(B, T, H), "f": 2 * draw.normal(B, T, H)}
    state = {
        "memory": draw.normal(B, H, K, V),
        "normalizer": draw.normal(B, H, K),
        "log_scale": draw.between(0.0, 2.0, B, H),
    }
    return draw.qkv() | gates | state, ours, theirs


@parity(
    "log-linear-attention",
    "fla/ops/log_linear_attn/naive.py naive_log_linear_attn, queries and keys shared by groups of heads",
)
def log_linear_attention(draw: Draw):
    original = fla("ops/log_linear_attn/naive.py", *LOG_LINEAR).naive_log_linear_attn
    levels = problem("log-linear-attention").weights.levels

    def ours(q, k, v, log_decay, level_weight):
        return fold(
            problem("log-linear-attention"), q, k, v, {"log_decay": log_decay, "level_weight": level_weight}
        )

    def theirs(q, k, v, log_decay, level_weight):
        return (original(q, k, v, log_decay, level_weight),)

    heads = 2 * H
    return (
        draw.qkv((H, H, heads))
        | {"log_decay": draw.log_decay(B, T, heads), "level_weight": draw.normal(B, T, heads, levels)},
        ours,
        theirs,
    )


@parity(
    "mamba3", "the matrix of its weights, a_{i+1} ... a_t (l_i d_i + (1 - l_{i+1}) d_{i+1}), times the scores"
)
def mamba3(draw: Draw):
    def ours(q, k, v, log_decay, step, newer):
        return fold(
            problem("mamba3"),
            q,
            k,
            v,
            {"log_decay": log_decay, "log_importance": step.log(), "trapezoid": newer},
        )

    def theirs(q, k, v, log_decay, step, newer):
        total = log_decay.cumsum(1)
        later = torch.cat([((1 - newer) * step)[:, 1:], torch.zeros(B, 1, H)], dim=1)
        weight = torch.exp(total[:, :, None] - total[:, None]) * (newer * step + later)[:, None]
        weight = torch.where(torch.eye(T, dtype=torch.bool)[..., None], (newer * step)[:, None], weight)
        weight = torch.where(torch.ones(T, T, dtype=torch.bool).tril()[..., None], weight, 0.0)
        return (torch.einsum("bthk,bihk,btih,bihv->bthv", q, k, weight, v),)

    controls = {
        "log_decay": draw.log_decay(B, T, H),
        "step": draw.between(0.1, 0.9, B, T, H),
        "newer": draw.between(0.0, 1.0, B, T, H),
    }
    return draw.qkv() | controls, ours, theirs


@parity("mamba3", "transformers models/mamba2 mamba2_chunk_scan, where all of a step goes to its newer end")
def mamba3_by_eulers_rule(draw: Draw):
    original = transformers(
        "models/mamba2/modeling_mamba2.py",
        "pad_tensor_by_size",
        "reshape_into_chunks",
        "segment_sum",
        "mamba2_chunk_scan",
    ).mamba2_chunk_scan

    def ours(q, k, v, step, rate, state):
        controls = {
            "log_decay": step * rate,
            "log_importance": step.log(),
            "trapezoid": torch.ones_like(step),
        }
        return fold(problem("mamba3"), q, k, v, controls, memory=state)

    def theirs(q, k, v, step, rate, state):
        y, end = original(
            v, step, rate, k, q, chunk_size=4, initial_states=state.mT, return_final_states=True
        )
        return y, end.mT

    tensors = {
        "step": draw.between(0.1, 0.9, B, T, H),
        "rate": -draw.between(0.3, 2.0, H),
        "state": draw.normal(B, H, K, V),
    }
    return draw.qkv() | tensors, ours, theirs
