"""Documented disagreements: similar definitions must be distinguished, by a margin that would be visible in
half precision. A parity test that passed for both of a pair would prove nothing."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import pad

import ttr
from ttr.laws.tolerances import HALF, PARITY, error
from ttr.problem import Problem

from .case import B, Draw, H, K, T, problem
from .cases_attention import sdpa, windowed
from .originals import fla, in_float64


def with_solver(entry: str, **fields: object) -> Problem:
    memory = problem(entry)
    return dataclasses.replace(memory, solver=dataclasses.replace(memory.solver, **fields))


def gated_delta(draw: Draw) -> dict[str, Tensor]:
    return draw.qkv() | {"step_size": draw.between(0.1, 1.0, B, T, H), "log_decay": draw.log_decay(B, T, H)}


def test_gradient_at_the_old_state_is_not_gated_deltanet() -> None:
    inputs = gated_delta(Draw())
    decayed, old = (
        ttr.oracle(p, **inputs)
        for p in (problem("gated-deltanet"), with_solver("gated-deltanet", gradient_at="old"))
    )
    assert error(old, decayed) > HALF


def test_comba_recurrent_reference_reads_the_decayed_state() -> None:
    """flash-linear-attention's recurrent Comba disagrees with its own chunk form, which is the published
    rule."""
    draw = Draw()
    inputs = gated_delta(draw) | {"read_key": draw.unit(B, T, H, K)}
    q, k, v, step_size, log_decay, read_key = inputs.values()
    recurrent = fla("ops/comba/naive.py", "naive_recurrent_comba").naive_recurrent_comba(
        q, k, v, read_key, step_size, log_decay
    )[0]
    assert error(ttr.oracle(problem("comba"), **inputs), recurrent) > HALF
    assert error(ttr.oracle(with_solver("comba", gradient_at="decayed"), **inputs), recurrent) <= PARITY


def test_released_longhorn_is_not_the_minimiser_of_its_objective() -> None:
    """The released step keeps the diagonal of k k^T: S <- (1 - d k^2) S + d k x with d = beta / (1 + beta
    ||k||^2)."""
    draw = Draw()
    q, k, v, beta = (
        draw.normal(B, T, H, K),
        draw.normal(B, T, H, K),
        draw.normal(B, T, H, 1),
        draw.between(0.1, 1.0, B, T, H),
    )
    state, y = torch.zeros(B, H, K, dtype=torch.float64), []
    step = (beta / (1 + beta * k.square().sum(-1)))[..., None]
    for t in range(T):
        state = (1 - step[:, t] * k[:, t] ** 2) * state + step[:, t] * k[:, t] * v[:, t]
        y.append((state * q[:, t]).sum(-1, keepdim=True))
    assert error(ttr.oracle(problem("longhorn-exact"), q, k, v, step_size=beta), torch.stack(y, dim=1)) > HALF


def test_recursive_least_squares_with_forgetting_forgets_the_prior_too() -> None:
    """P <- P / a, then Sherman-Morrison (arXiv 2309.05858): ridge regression whose ridge decays. MesaNet's is
    constant."""
    draw = Draw()
    inputs, log_decay, ridge = draw.qkv(), draw.log_decay(B, T, H), 0.3
    ours = ttr.oracle(
        problem("mesanet"), **inputs, log_decay=log_decay, log_importance=torch.zeros(B, T, H), ridge=ridge
    )
    assert error(recursive_least_squares(*inputs.values(), log_decay, ridge), ours) > HALF
    no_decay = torch.zeros_like(log_decay)
    ours = ttr.oracle(problem("mesanet"), **inputs, log_decay=no_decay, log_importance=no_decay, ridge=ridge)
    assert error(recursive_least_squares(*inputs.values(), no_decay, ridge), ours) <= PARITY


def recursive_least_squares(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, ridge: float) -> Tensor:
    with in_float64():
        inverse, moment, y = (torch.eye(K) / ridge).expand(B, H, K, K), torch.zeros(B, H, K, v.shape[-1]), []
    for t in range(T):
        decay = log_decay[:, t, :, None, None].exp()
        inverse, moment = inverse / decay, decay * moment + k[:, t, :, :, None] * v[:, t, :, None]
        column = inverse @ k[:, t, :, :, None]
        inverse = inverse - column @ column.mT / (1 + k[:, t, :, None] @ column)
        y.append((q[:, t, :, None] @ inverse @ moment)[:, :, 0])
    return torch.stack(y, dim=1)


def test_mesanet_weighs_pairs_by_beta_and_not_by_its_square() -> None:
    draw = Draw()
    inputs = draw.qkv() | {"log_decay": draw.log_decay(B, T, H), "ridge": draw.between(0.25, 1.0, H, K)}
    log_beta = draw.between(0.1, 1.0, B, T, H).log()
    once, squared = (
        ttr.oracle(problem("mesanet"), **inputs, log_importance=power * log_beta) for power in (1, 2)
    )
    assert error(squared, once) > HALF


def test_forgetting_gate_is_not_multiplied_by_the_scale_of_the_scores() -> None:
    """It is in PaTH attention, whose gate otherwise looks the same."""
    draw = Draw()
    inputs, log_decay = draw.qkv(), draw.log_decay(B, T, H)
    plain, scaled = (
        ttr.oracle(problem("forgetting-attention"), **inputs, log_decay=factor * log_decay)
        for factor in (1, K**-0.5)
    )
    assert error(scaled, plain) > HALF


def test_window_counts_the_token_itself() -> None:
    inputs = Draw().qkv()
    off_by_one = fla("ops/attn/naive.py", "naive_parallel_attn").naive_parallel_attn(**inputs, window_size=6)[
        0
    ]
    assert error(ttr.oracle(windowed(5), **inputs), off_by_one) > HALF


def test_softmax_without_unit_norm_is_another_layer() -> None:
    draw = Draw()
    q, k, v = (draw.normal(B, T, H, size) for size in (K, K, 3))
    scale = draw.between(1.0, 4.0, H)
    ours = ttr.oracle(problem("softmax-attention-qknorm"), q, k, v, params={"function.scale": scale})
    assert error(ours, sdpa(q * scale[:, None], k, v, is_causal=True, scale=1.0)) > HALF


def test_local_ridge_is_relative_to_weights_of_sum_one() -> None:
    """A ridge added to the raw sums of exp(q.k) is another layer, and one that subtracting a maximum would
    change."""
    draw = Draw()
    q, k, v = draw.qkv().values()
    ridge, t = 0.3, T - 1
    weights = torch.einsum("bhk,bnhk->bhn", q[:, t], k).mul(K**-0.5).exp()
    rows = torch.cat([torch.ones(B, T, H, 1, dtype=torch.float64), k - q[:, t, None]], dim=-1).transpose(1, 2)
    penalty = pad(torch.full((K,), ridge, dtype=torch.float64), (1, 0)).diag()

    def raw(weights: Tensor) -> Tensor:
        return torch.linalg.solve(
            rows.mT @ (weights[..., None] * rows) + penalty,
            rows.mT @ (weights[..., None] * v.transpose(1, 2)),
        )[..., 0, :]

    ours = ttr.oracle(problem("local-linear-attention"), q, k, v, ridge=ridge)[:, t]
    assert error(ours, raw(weights / weights.sum(-1, keepdim=True))) <= PARITY
    assert error(ours, raw(weights)) > HALF
