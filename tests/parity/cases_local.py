"""Memories that fit polynomials around every query: local quadratic attention, and Parallax, which learns the
slope instead of fitting it.

Local quadratic attention has no public original: its references are the weighted least-squares problem as
stacked rows, and its dual, which knows the monomials by their dot products alone.
"""

from __future__ import annotations

import torch

from .case import B, Draw, H, K, T, fold, parity, problem
from .cases_exact import least_squares, prefixes
from .originals import fla

D = K + K * (K + 1) // 2


def quadratic_rows(z):
    """1, z, then z_a z_b for a <= b: squares as they are, products of two channels times the root of 2."""
    products = [z[..., a] * z[..., b] * (1 if a == b else 2**0.5) for a in range(K) for b in range(a, K)]
    return torch.cat([torch.ones_like(z[..., :1]), z, torch.stack(products, dim=-1)], dim=-1)


@parity(
    "local-quadratic-attention",
    "LAPACK least squares on stacked rows (1, z, z z^T), weights softmax(q.k_i / K^1/2)",
)
def local_quadratic(draw: Draw):
    def ours(q, k, v, ridge):
        return fold(problem("local-quadratic-attention"), q, k, v, {"ridge": ridge})

    def theirs(q, k, v, ridge):
        y = []
        for query, keys, values in prefixes(q, k, v):
            weights = torch.softmax((keys @ query[..., None])[..., 0] / K**0.5, dim=-1)
            penalty = torch.cat([torch.zeros(H, 1), ridge], dim=-1)
            y.append(
                least_squares(quadratic_rows(keys - query[..., None, :]), values, weights, penalty)[..., 0, :]
            )
        return (torch.stack(y, dim=1),)

    return draw.qkv() | {"ridge": draw.between(0.1, 0.5, H, D)}, ours, theirs


@parity(
    "local-quadratic-attention",
    "its dual: (G + ridge P^-1) a equal for all pairs, sum a = 1, G_ij = z_i.z_j + (z_i.z_j)^2",
)
def local_quadratic_dual(draw: Draw):
    def ours(q, k, v, ridge):
        return fold(problem("local-quadratic-attention"), q, k, v, {"ridge": ridge})

    def theirs(q, k, v, ridge):
        y = []
        for query, keys, values in prefixes(q, k, v):
            p = torch.softmax((keys @ query[..., None])[..., 0] / K**0.5, dim=-1)
            z = keys - query[..., None, :]
            dots = z @ z.mT
            a = torch.linalg.solve(
                dots + dots * dots + torch.diag_embed(ridge[:, None] / p), torch.ones_like(p)
            )
            y.append(torch.einsum("bhn,bhnv->bhv", a / a.sum(-1, keepdim=True), values))
        return (torch.stack(y, dim=1),)

    return draw.qkv() | {"ridge": draw.between(0.1, 0.5, H)}, ours, theirs


@parity("parallax", "fla/ops/parallax/naive.py naive_parallax")
def parallax(draw: Draw):
    original = fla("ops/parallax/naive.py", "naive_parallax").naive_parallax

    def ours(q, k, v, slope):
        return fold(problem("parallax"), q, k, v, {"slope": slope})

    def theirs(q, k, v, slope):
        return (original(q, slope, k, v),)

    return draw.qkv(heads=(2 * H, H, H), value_size=K) | {"slope": draw.normal(B, T, 2 * H, K)}, ours, theirs
