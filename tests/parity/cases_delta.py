"""Memories that descend: the delta rule, its gated, per-channel, several-pair, implicit and old-state forms."""

from __future__ import annotations

import torch

from .case import B, Draw, H, K, T, V, fold, parity, problem
from .originals import fla, transformers


def _delta_tensors(draw: Draw, heads: tuple[int, int, int] = (H, H, H), channels: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    tensors = draw.qkv(heads) | {"step_size": draw.between(0.1, 1.0, B, T, heads[2])}
    return tensors | {"log_decay": draw.log_decay(B, T, heads[2], *channels), "state": draw.normal(B, heads[2], K, V)}


@parity("deltanet", "fla/ops/delta_rule/naive.py delta_rule_recurrence")
def deltanet(draw: Draw):
    original = fla("ops/delta_rule/naive.py", "delta_rule_recurrence").delta_rule_recurrence
    tensors = _delta_tensors(draw)
    del tensors["log_decay"]

    def ours(q, k, v, step_size, state):
        return fold(problem("deltanet"), q, k, v, {"step_size": step_size}, memory=state)

    def theirs(q, k, v, step_size, state):
        y, end = original(*(x.transpose(1, 2) for x in (q, k, v, step_size)), initial_state=state)
        return y.transpose(1, 2), end

    return tensors, ours, theirs


def _gated(entry: str, channels: tuple[int, ...], original, heads: tuple[int, int, int], draw: Draw):
    """Gated DeltaNet and Kimi Delta Attention differ in the shape of their gate alone."""

    def ours(q, k, v, step_size, log_decay, state):
        return fold(problem(entry), q, k, v, {"step_size": step_size, "log_decay": log_decay}, memory=state)

    def theirs(q, k, v, step_size, log_decay, state):
        return original(q, k, v, beta=step_size, g=log_decay, initial_state=state, output_final_state=True)

    return _delta_tensors(draw, heads, channels), ours, theirs


@parity("gated-deltanet", "fla/ops/gated_delta_rule/naive.py naive_recurrent_gated_delta_rule")
def gated_deltanet(draw: Draw):
    original = fla("ops/gated_delta_rule/naive.py", "naive_recurrent_gated_delta_rule").naive_recurrent_gated_delta_rule
    return _gated("gated-deltanet", (), original, (H, H, H), draw)


@parity("gated-deltanet", "fla/ops/gated_delta_rule/naive.py naive_chunk_gated_delta_rule")
def gated_deltanet_chunk(draw: Draw):
    original = fla("ops/gated_delta_rule/naive.py", "naive_chunk_gated_delta_rule").naive_chunk_gated_delta_rule
    return _gated("gated-deltanet", (), lambda *x, **options: original(*x, chunk_size=4, **options), (H, H, H), draw)


@parity("gated-deltanet", "transformers models/qwen3_next torch_recurrent_gated_delta_rule, grouped heads")
def gated_deltanet_qwen(draw: Draw):
    original = transformers("models/qwen3_next/modeling_qwen3_next.py", "torch_recurrent_gated_delta_rule").torch_recurrent_gated_delta_rule
    return _gated("gated-deltanet", (), original, (2, 2, 4), draw)


@parity("gated-deltanet", "transformers models/qwen3_next torch_chunk_gated_delta_rule, grouped heads")
def gated_deltanet_qwen_chunk(draw: Draw):
    original = transformers("models/qwen3_next/modeling_qwen3_next.py", "torch_chunk_gated_delta_rule").torch_chunk_gated_delta_rule
    return _gated("gated-deltanet", (), lambda *x, **options: original(*x, chunk_size=4, **options), (2, 2, 4), draw)


@parity("kda", "fla/ops/kda/naive.py naive_recurrent_kda, grouped heads")
def kda(draw: Draw):
    original = fla("ops/kda/naive.py", "naive_recurrent_kda").naive_recurrent_kda
    return _gated("kda", (K,), original, (2, 2, 4), draw)


@parity("kda", "transformers models/kimi_linear recurrent_kimi_delta_attention")
def kda_kimi(draw: Draw):
    original = transformers("models/kimi_linear/modeling_kimi_linear.py", "recurrent_kimi_delta_attention").recurrent_kimi_delta_attention
    return _gated("kda", (K,), original, (H, H, H), draw)


@parity("kda", "transformers models/kimi_linear chunk_kimi_delta_attention")
def kda_kimi_chunk(draw: Draw):
    original = transformers("models/kimi_linear/modeling_kimi_linear.py", "chunk_kimi_delta_attention").chunk_kimi_delta_attention
    return _gated("kda", (K,), lambda *x, **options: original(*x, chunk_size=4, **options), (H, H, H), draw)


@parity("gated-deltaproduct", "fla/ops/gated_delta_product/naive.py naive_recurrent_gated_delta_product")
def gated_deltaproduct(draw: Draw):
    original = fla("ops/gated_delta_product/naive.py", "naive_recurrent_gated_delta_product").naive_recurrent_gated_delta_product
    memory = problem("gated-deltaproduct")
    n = memory.solver.pairs_per_token

    def ours(q, k, v, step_size, log_decay, state):
        return fold(memory, q, k, v, {"step_size": step_size, "log_decay": log_decay}, memory=state)

    def theirs(q, k, v, step_size, log_decay, state):
        k, v, step_size = (x.flatten(1, 2) for x in (k, v, step_size))
        return original(q, k, v, log_decay, step_size, scale=K**-0.5, initial_state=state, output_final_state=True, num_householder=n)

    tensors = {"q": draw.normal(B, T, H, K), "k": draw.unit(B, T, n, H, K), "v": draw.normal(B, T, n, H, V),
               "step_size": draw.between(0.1, 1.0, B, T, n, H), "log_decay": draw.log_decay(B, T, H), "state": draw.normal(B, H, K, V)}
    return tensors, ours, theirs


@parity("comba", "fla/ops/comba/naive.py naive_chunk_comba (the recurrent one there reads the decayed state)")
def comba(draw: Draw):
    original = fla("ops/comba/naive.py", "naive_chunk_comba").naive_chunk_comba

    def ours(q, k, v, step_size, log_decay, state, read_key):
        return fold(problem("comba"), q, k, v, {"step_size": step_size, "log_decay": log_decay, "read_key": read_key}, memory=state)

    def theirs(q, k, v, step_size, log_decay, state, read_key):
        return original(q, k, v, read_key, log_decay, step_size, chunk_size=4, initial_state=state, output_final_state=True)

    return _delta_tensors(draw) | {"read_key": draw.unit(B, T, H, K)}, ours, theirs


@parity("longhorn-exact", "dense solve of the objective of arXiv 2407.14207, ||s - s_old||^2 + beta (s.k - x)^2 per value channel")
def longhorn_exact(draw: Draw):
    """Setting its gradient to zero: (I + beta k k^T) s = s_old + beta x k. The released code keeps only the diagonal of
    k k^T, so there is no public original of the exact form."""

    def ours(q, k, v, step_size, state):
        return fold(problem("longhorn-exact"), q, k, v, {"step_size": step_size}, memory=state)

    def theirs(q, k, v, step_size, state):
        y, s = [], state[..., 0]
        for t in range(T):
            key, beta = k[:, t], step_size[:, t, :, None]
            system = torch.eye(K) + beta[..., None] * key[..., :, None] * key[..., None, :]
            s = torch.linalg.solve(system, s + beta * v[:, t] * key)
            y.append((s * q[:, t]).sum(-1, keepdim=True))
        return torch.stack(y, dim=1), s[..., None]

    # Its layout: d_inner heads of one value channel each; keys and queries shared by all of them, not normalised, no scale.
    channels = 6
    tensors = {"q": draw.normal(B, T, 1, K), "k": draw.normal(B, T, 1, K), "v": draw.normal(B, T, channels, 1),
               "step_size": draw.between(0.1, 1.0, B, T, channels), "state": draw.normal(B, channels, K, 1)}
    return tensors, ours, theirs
