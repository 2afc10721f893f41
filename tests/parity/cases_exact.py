"""Memories that solve the regression: MesaNet, Intention, Mesa, Gated KalmaNet, and the local fit of local
linear attention.

Where there is no public original that runs here, the reference is a least-squares problem written as stacked
rows and solved by LAPACK: another route than the oracle's normal equations, so a fault in those would show.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

import ttr
from ttr.solvers.conjugate_gradient import ConjugateGradient

from .case import B, Draw, H, K, T, V, fold, parity, problem
from .originals import fla


def least_squares(rows: Tensor, targets: Tensor, weights: Tensor, ridge: Tensor) -> Tensor:
    """argmin_S sum_i w_i ||targets_i - rows_i S||^2 + sum_j ridge_j ||S_j||^2, as one stacked least-squares
    problem."""
    root = weights.sqrt()[..., None]
    penalty = torch.diag_embed(ridge.sqrt()).expand(*rows.shape[:-2], -1, -1)
    stacked = torch.cat([root * rows, penalty], dim=-2)
    zeros = targets.new_zeros(*targets.shape[:-2], ridge.shape[-1], targets.shape[-1])
    return torch.linalg.lstsq(stacked, torch.cat([root * targets, zeros], dim=-2), driver="gels").solution


def prefixes(q: Tensor, k: Tensor, v: Tensor):
    """For each token: its query [B,H,K] and the keys and values up to it [B,H,t,.]."""
    for t in range(q.shape[1]):
        yield q[:, t], k[:, : t + 1].transpose(1, 2), v[:, : t + 1].transpose(1, 2)


@parity("mesanet", "fla/ops/mesa_net/naive.py naive_mesa_net_exact")
def mesanet(draw: Draw):
    original = fla("ops/mesa_net/naive.py", "naive_mesa_net_exact").naive_mesa_net_exact

    def moments(old_keys, old_values):
        return {"gram": old_keys.mT @ old_keys, "memory": old_keys.mT @ old_values}

    def ours(q, k, v, log_decay, beta, ridge, **past):
        return fold(
            problem("mesanet"),
            q,
            k,
            v,
            {"log_decay": log_decay, "log_importance": beta.log(), "ridge": ridge},
            **moments(**past),
        )

    def theirs(q, k, v, log_decay, beta, ridge, **past):
        start = moments(**past)
        return original(q, k, v, log_decay, ridge, beta, h_kk_init=start["gram"], h_kv_init=start["memory"])

    tensors = {
        "log_decay": draw.log_decay(B, T, H),
        "beta": draw.between(0.1, 1.0, B, T, H),
        "ridge": draw.between(0.25, 1.0, H, K),
        "old_keys": draw.normal(B, H, 4, K),
        "old_values": draw.normal(B, H, 4, K),
    }
    return draw.qkv(value_size=K) | tensors, ours, theirs  # the original requires Dk = Dv


@parity("mesanet", "LAPACK least squares on stacked rows")
def mesanet_least_squares(draw: Draw):
    def ours(q, k, v, log_decay, beta, ridge):
        return fold(
            problem("mesanet"),
            q,
            k,
            v,
            {"log_decay": log_decay, "log_importance": beta.log(), "ridge": ridge},
        )

    def theirs(q, k, v, log_decay, beta, ridge):
        past, y = log_decay.cumsum(1).transpose(1, 2), []
        for t, (query, keys, values) in enumerate(prefixes(q, k, v)):
            weights = (past[..., t, None] - past[..., : t + 1]).exp() * beta.transpose(1, 2)[..., : t + 1]
            y.append(torch.einsum("bhk,bhkv->bhv", query, least_squares(keys, values, weights, ridge)))
        return (torch.stack(y, dim=1),)

    tensors = {
        "log_decay": draw.log_decay(B, T, H),
        "beta": draw.between(0.1, 1.0, B, T, H),
        "ridge": draw.between(0.25, 1.0, H, K),
    }
    return draw.qkv() | tensors, ours, theirs


@parity("intention", "LAPACK least squares on stacked rows")
def intention(draw: Draw):
    def ours(q, k, v, ridge):
        return fold(problem("intention"), q, k, v, {"ridge": ridge})

    def theirs(q, k, v, ridge):
        fits = [
            (query, least_squares(keys, values, torch.ones_like(keys[..., 0]), ridge.expand(H, K)))
            for query, keys, values in prefixes(q, k, v)
        ]
        return (torch.stack([torch.einsum("bhk,bhkv->bhv", query, fit) for query, fit in fits], dim=1),)

    return draw.qkv() | {"ridge": draw.between(0.2, 0.5)}, ours, theirs


@parity("intention", "the kernel form q K^T (K K^T + ridge I)^-1 V of arXiv 2305.10203, by LAPACK")
def intention_kernel(draw: Draw):
    def ours(q, k, v, ridge):
        return fold(problem("intention"), q, k, v, {"ridge": ridge})

    def theirs(q, k, v, ridge):
        y = []
        for query, keys, values in prefixes(q, k, v):
            gram = keys @ keys.mT + ridge * torch.eye(keys.shape[-2])
            y.append((query[..., None, :] @ keys.mT @ torch.linalg.solve(gram, values))[..., 0, :])
        return (torch.stack(y, dim=1),)

    return draw.qkv() | {"ridge": draw.between(0.2, 0.5)}, ours, theirs


@parity(
    "local-linear-attention",
    "LAPACK least squares on stacked rows (1, k_i - q), weights softmax(q.k_i / K^1/2)",
)
def local_linear_attention(draw: Draw):
    """(D+1) x (D+1): the constant is not penalised, the slope by a ridge relative to weights of sum 1."""

    def ours(q, k, v, ridge):
        return fold(problem("local-linear-attention"), q, k, v, {"ridge": ridge})

    def theirs(q, k, v, ridge):
        y = []
        for query, keys, values in prefixes(q, k, v):
            weights = torch.softmax((keys @ query[..., None])[..., 0] / K**0.5, dim=-1)
            rows = torch.cat([torch.ones_like(keys[..., :1]), keys - query[..., None, :]], dim=-1)
            penalty = torch.cat([torch.zeros(H, 1), ridge], dim=-1)
            y.append(least_squares(rows, values, weights, penalty)[..., 0, :])
        return (torch.stack(y, dim=1),)

    return draw.qkv() | {"ridge": draw.between(0.1, 0.5, H, K)}, ours, theirs


@parity(
    "local-linear-rank8",
    "LAPACK least squares on stacked rows (1, P (k_i - q)), weights softmax(q.k_i / K^1/2)",
)
def local_linear_rank8(draw: Draw):
    """With fewer than 8 channels P is square; nothing else is asked of it, so it has 2 rows here."""
    low = dataclasses.replace(
        problem("local-linear-rank8"),
        function=dataclasses.replace(problem("local-linear-rank8").function, rank=2),
    )

    def ours(q, k, v, ridge, projection):
        return (ttr.oracle(low, q, k, v, params={"function.projection": projection}, ridge=ridge),)

    def theirs(q, k, v, ridge, projection):
        y = []
        for query, keys, values in prefixes(q, k, v):
            weights = torch.softmax((keys @ query[..., None])[..., 0] / K**0.5, dim=-1)
            rows = torch.cat(
                [torch.ones_like(keys[..., :1]), (keys - query[..., None, :]) @ projection.mT], dim=-1
            )
            penalty = torch.cat([torch.zeros(H, 1), ridge], dim=-1)
            y.append(least_squares(rows, values, weights, penalty)[..., 0, :])
        return (torch.stack(y, dim=1),)

    return (
        draw.qkv() | {"ridge": draw.between(0.1, 0.5, H, 2), "projection": draw.normal(H, 2, K)},
        ours,
        theirs,
    )


@parity("mesa", "the recursion of the inverse P_t of arXiv 2309.05858")
def mesa(draw: Draw):
    def ours(q, k, v, ridge):
        return fold(problem("mesa"), q, k, v, {"ridge": ridge})

    def theirs(q, k, v, ridge):
        inverse, memory, y = torch.diag_embed(1 / ridge).expand(B, H, K, K), torch.zeros(B, H, K, V), []
        for t in range(T):
            gain = torch.einsum("bhkl,bhl->bhk", inverse, k[:, t])
            share = 1 + (k[:, t] * gain).sum(-1)
            inverse = inverse - gain[..., :, None] * gain[..., None, :] / share[..., None, None]
            memory = memory + k[:, t, :, :, None] * v[:, t, :, None]
            y.append(torch.einsum("bhkv,bhkl,bhl->bhv", memory, inverse, q[:, t]))
        return (torch.stack(y, dim=1),)

    return draw.qkv() | {"ridge": draw.between(0.2, 0.5, H, K)}, ours, theirs


def weighted_moments(q, k, v, log_decay, weight):
    """For each token: its query, and H and U as matrices of all weighted pairs."""
    past = log_decay.cumsum(1).transpose(1, 2)
    for t, (query, keys, values) in enumerate(prefixes(q, k, v)):
        gamma = ((past[..., t, None] - past[..., : t + 1]).exp() * weight.transpose(1, 2)[..., : t + 1])[
            ..., None
        ]
        yield query, (gamma * keys).mT @ keys, (gamma * keys).mT @ values


@parity("gated-kalmanet", "the Chebyshev polynomials of its residual, and LAPACK")
def gated_kalmanet(draw: Draw):
    """q - A x = T_{n+1}((theta - A) / delta) q / T_{n+1}(theta / delta) after n steps, T_n(u) = cosh(n
    arccosh u) for u > 1."""
    steps, ratio = 30, 0.02

    def ours(q, k, v, log_decay, beta, mix):
        return fold(
            problem("gated-kalmanet"),
            q,
            k,
            v,
            {"log_decay": log_decay, "log_importance": 2 * beta.log(), "mix": mix},
        )

    def theirs(q, k, v, log_decay, beta, mix):
        y = []
        for t, (query, gram, memory) in enumerate(weighted_moments(q, k, v, log_decay, beta * beta)):
            norm = torch.linalg.matrix_norm(gram)[..., None]
            ridge, theta, delta = ratio * norm, ratio * norm + norm / 2, norm / 2
            identity = torch.eye(K)
            u = ((theta - ridge)[..., None] * identity - gram) / delta[..., None]
            before, polynomial = identity, u
            for _ in range(steps):
                before, polynomial = polynomial, 2 * u @ polynomial - before
            residual = polynomial / torch.cosh((steps + 1) * torch.acosh(theta / delta))[..., None]
            x = torch.linalg.solve(
                gram + ridge[..., None] * identity, query - (residual @ query[..., None])[..., 0]
            )
            x = mix[:, t, :, None] * x + (1 - mix[:, t, :, None]) * query
            y.append((x[..., None, :] @ memory)[..., 0, :] / K**0.5)
        return (torch.stack(y, dim=1),)

    tensors = {
        "log_decay": draw.log_decay(B, T, H),
        "beta": draw.between(0.1, 1.0, B, T, H),
        "mix": draw.between(0.1, 0.9, B, T, H),
    }
    return draw.qkv() | tensors, ours, theirs


@parity("mesanet", "fla/ops/mesa_net/naive.py naive_mesa_net_CG, as ConjugateGradient")
def mesanet_conjugate_gradient(draw: Draw):
    """Three damped steps: so far from the exact solution that their number and the damping matter."""
    original = fla("ops/mesa_net/naive.py", "naive_mesa_net_CG").naive_mesa_net_CG
    truncated = dataclasses.replace(problem("mesanet"), solver=ConjugateGradient(iterations=3, damping=1e-5))

    def ours(q, k, v, log_decay, beta, ridge):
        return fold(
            truncated, q, k, v, {"log_decay": log_decay, "log_importance": beta.log(), "ridge": ridge}
        )

    def theirs(q, k, v, log_decay, beta, ridge):
        return original(q, k, v, log_decay, ridge, beta, chunk_size=T, max_CG_iteration=3)[:1]

    tensors = {
        "log_decay": draw.log_decay(B, T, H),
        "beta": draw.between(0.1, 1.0, B, T, H),
        "ridge": draw.between(0.25, 1.0, H, K),
    }
    return draw.qkv(value_size=K) | tensors, ours, theirs


@parity("kernel-intention", "the representer problem as stacked least squares, by LAPACK")
def kernel_intention(draw: Draw):
    """argmin_c ||V - kappa c||^2 + ridge tr(c^T kappa c), the penalty by the Cholesky factor of kappa."""

    def ours(q, k, v, ridge):
        return fold(problem("kernel-intention"), q, k, v, {"ridge": ridge})

    def theirs(q, k, v, ridge):
        y = []
        for query, keys, values in prefixes(q, k, v):
            kernel = torch.exp(keys @ keys.mT / K**0.5)
            penalty = ridge.sqrt()[:, None, None] * torch.linalg.cholesky(kernel).mT
            stacked = torch.cat([kernel, penalty], dim=-2)
            coefficients = torch.linalg.lstsq(
                stacked, torch.cat([values, torch.zeros_like(values)], dim=-2), driver="gels"
            ).solution
            y.append((torch.exp(query[..., None, :] @ keys.mT / K**0.5) @ coefficients)[..., 0, :])
        return (torch.stack(y, dim=1),)

    return draw.qkv() | {"ridge": draw.between(0.2, 0.5, H)}, ours, theirs
