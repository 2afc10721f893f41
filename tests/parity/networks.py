"""Independent derivations of the memories that are networks: gradients by hand, the weights of every token
written out, no code of the package.

Layout of a single memory: rows are tokens; batch and heads stand in front. Weights are [inputs, outputs].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import gelu


def gelu_slope(x: Tensor) -> Tensor:
    """Of x Phi(x) in its tanh form, with the tanh written by the logistic function: x sigmoid(2 u)."""
    u, du = (
        math.sqrt(8 / math.pi) * x * (1 + 0.044715 * x**2),
        math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x**2),
    )
    gate = torch.sigmoid(u)
    return gate + x * gate * (1 - gate) * du


def norm(x: Tensor, gain: Tensor, shift: Tensor, eps: float) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=eps) * gain + shift


def norm_slope(x: Tensor, slope: Tensor, gain: Tensor, eps: float) -> Tensor:
    """The derivative through ``norm`` by its Jacobian, written out."""
    size = x.shape[-1]
    deviation = (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
    unit = (x - x.mean(-1, keepdim=True)) / deviation
    jacobian = (
        torch.eye(size, dtype=x.dtype) - 1 / size - unit[..., :, None] * unit[..., None, :] / size
    ) / deviation[..., None]
    return (jacobian @ (gain * slope)[..., None])[..., 0]


def mlp(
    weights: list[Tensor],
    x: Tensor,
    *,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """x W_1 and then gelu(.) W_2, with a gain as x + norm(.)."""
    y = gelu(x @ weights[0], approximate="tanh") @ weights[1]
    return y if gain is None else x + norm(y, gain, shift, eps)


def mlp_gradient(
    weights: list[Tensor],
    x: Tensor,
    slope: Callable[[Tensor], Tensor],
    *,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-6,
) -> list[Tensor]:
    """The gradients of one pair [..., 1, K] in both weights; ``slope`` gives the loss's derivative at the
    prediction."""
    hidden = x @ weights[0]
    raw = gelu(hidden, approximate="tanh") @ weights[1]
    prediction = raw if gain is None else x + norm(raw, gain, shift, eps)
    outer = slope(prediction) if gain is None else norm_slope(raw, slope(prediction), gain, eps)
    inner = (outer @ weights[1].mT) * gelu_slope(hidden)
    return [x.mT @ inner, gelu(hidden, approximate="tanh").mT @ outer]


def newton_schulz(
    matrix: Tensor, coefficients: tuple[tuple[float, float, float], ...], eps: float = 1e-7
) -> Tensor:
    """By the spectral theorem: the odd polynomials act on the singular values, G p(G^T G) with p from the
    eigenvalues of G^T G."""
    small = matrix.mT @ matrix if matrix.shape[-2] >= matrix.shape[-1] else matrix @ matrix.mT
    scale = (small.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt() + eps)[..., None, None]
    power, factor, unit = small / scale**2, None, torch.eye(small.shape[-1], dtype=matrix.dtype)
    for a, b, c in coefficients:
        here = a * unit + b * power + c * power @ power
        factor = here if factor is None else factor @ here
        power = power @ here @ here  # powers of one matrix commute
    return (matrix @ factor if matrix.shape[-2] >= matrix.shape[-1] else factor @ matrix) / scale


def unrolled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: list[Tensor],
    step: Tensor,
    decay: Tensor,
    *,
    chunk: int,
    slope: Callable[[Tensor, Tensor, int], Tensor],
    momentum: Tensor | None = None,
    window: int = 1,
    orthogonalise: Callable[[Tensor], Tensor] = lambda x: x,
    mirror: Callable[[Tensor], Tensor] = lambda x: x,
    **norm_parameters: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """A_t = a_t A_{t-1} + NS(Z_t) with Z_t = eta_t Z_{t-1} - sum_i step_i grad l_i over the window, weights =
    mirror(A), gradients at the weights after the last full chunk; q, k, v [B,T,H,.], gates [B,T,H]. Read-outs
    [B,T,H,V] and the accumulators after the last token."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    step, decay = (x.transpose(1, 2)[..., None, None] for x in (step, decay))
    base, now, moving, y = weights, weights, [torch.zeros_like(w) for w in weights], []
    for t in range(q.shape[2]):
        at = [mirror(w) for w in base]
        total = [torch.zeros_like(w) for w in weights]
        for i in range(max(t - window + 1, 0), t + 1):
            found = mlp_gradient(
                at, k[:, :, i : i + 1], lambda p, i=i: slope(p, v[:, :, i : i + 1], i), **norm_parameters
            )
            total = [a + step[:, :, i] * b for a, b in zip(total, found)]
        kept = 0.0 if momentum is None else momentum[:, t, :, None, None]
        moving = [kept * z - g for z, g in zip(moving, total)]
        now = [decay[:, :, t] * w + orthogonalise(z) for w, z in zip(now, moving)]
        base = now if (t + 1) % chunk == 0 else base
        y.append(mlp([mirror(w) for w in now], q[:, :, t : t + 1], **norm_parameters))
    return torch.cat(y, dim=2).transpose(1, 2), now
