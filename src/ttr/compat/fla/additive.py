"""Sums of pairs: linear attention, retention, gated linear attention, RWKV-6."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.compat.fla._operator import Matrix, matrix, run, wide
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.bonus import Bonus
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform

LINEAR = Problem(Uniform(), Linear(), OneStep())
GATED = Problem(Geometric(), Linear(), OneStep())
GATED_PER_CHANNEL = Problem(Geometric("channel"), Linear(), OneStep())
WITH_BONUS = Problem(Bonus(), Linear(), OneStep())


def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Any = None,
    output_final_state: bool = False,
    normalize: bool = True,
    **options: Any,
) -> tuple[Tensor, Any]:
    """Linear attention. If ``normalize``, a state is the pair of the memory and the sum of keys [N,1,H,K]."""
    if not normalize:
        return matrix(LINEAR, q, k, v, scale, initial_state, output_final_state, options)
    memory, keys = (None, None) if initial_state is None else initial_state
    start = {"memory": memory, "normalizer": None if keys is None else keys[:, 0]}
    problem = replace(LINEAR, function=Linear(normalized=True, scale=scale))
    y, end = run(problem, q, k, v, start, output_final_state, options)
    return y, (end["memory"], end["normalizer"][:, None]) if output_final_state else None


def fused_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Any = None,
    output_final_state: bool = False,
    **options: Any,
) -> tuple[Tensor, Any]:
    """``chunk_linear_attn``, not normalised unless asked, as in fla."""
    options = {"normalize": False} | options
    return chunk_linear_attn(q, k, v, scale, initial_state, output_final_state, **options)


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Float[Tensor, "B T H"] | None = None,
    g_gamma: Float[Tensor, " H"] | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """Linear attention with the log decays g + g_gamma per head: Mamba-2 and lightning attention."""
    if g is None and g_gamma is None:
        return matrix(LINEAR, q, k, v, scale, initial_state, output_final_state, options)
    decay = 0.0 if g is None else g
    decay = decay if g_gamma is None else decay + g_gamma.expand(*q.shape[:2], -1)
    return matrix(GATED, q, k, v, scale, initial_state, output_final_state, options, log_decay=decay)


def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """Retention: head h decays by 1 - 2^(-5-h)."""
    heads = torch.arange(q.shape[2], dtype=torch.float64, device=q.device)
    gamma = torch.log1p(-(2.0 ** (-5.0 - heads))).to(wide(q))
    return chunk_simple_gla(q, k, v, None, gamma, scale, initial_state, output_final_state, **options)


def chunk_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """Lightning attention: head h of H decays by exp(-8 h / H (1 - layer_idx / num_layers))."""
    heads = torch.arange(q.shape[2], dtype=wide(q), device=q.device)
    gamma = -8 / q.shape[2] * (1 - layer_idx / num_layers) * heads
    return chunk_simple_gla(q, k, v, None, gamma, scale, initial_state, output_final_state, **options)


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Float[Tensor, "B T H K"],
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """Gated linear attention: a log decay per key channel."""
    return matrix(GATED_PER_CHANNEL, q, k, v, scale, initial_state, output_final_state, options, log_decay=g)


def fused_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Float[Tensor, "B T H K"] | None = None,
    gv: None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """``chunk_gla``; decays per value channel, ``gv``, are refused."""
    options["gv"] = gv
    if gk is None:
        return matrix(LINEAR, q, k, v, scale, initial_state, output_final_state, options)
    return chunk_gla(q, k, v, gk, scale, initial_state, output_final_state, **options)


def chunk_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Float[Tensor, "B T H K"],
    u: Float[Tensor, "H K"],
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """RWKV-6: log decays w per key channel; a token reads before it is written, with the bonus u."""
    params = {"weights.bonus": u}
    return matrix(WITH_BONUS, r, k, v, scale, initial_state, output_final_state, options, params, log_decay=w)


fused_chunk_linear_attn = chunk_linear_attn
fused_chunk_simple_gla = fused_recurrent_simple_gla = chunk_simple_gla
fused_chunk_retention = fused_recurrent_retention = chunk_retention
fused_recurrent_lightning_attn = chunk_lightning_attn
fused_recurrent_rwkv6 = chunk_rwkv6
