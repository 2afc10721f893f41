"""RMS normalisation with a gain and a gate, and its derivative, computed in blocks of rows that stay in
cache.

    u = p r,   r = (c sum p^2 + eps)^(-1/2),   y = gain u a(g),   with p = x, or p = x a(g) and then y = gain
               u

for every row x of D numbers; c = 1 / D (RMSNorm, arXiv 1910.07467), or 1 for vectors of norm 1; a is SiLU or
the sigmoid. In the backward pass, with d_u the gradient of u, dr/dp = -c r^3 p gives the gradient of p,

    d_p = r (d_u - c u (d_u . u)),

and the product rule gives those of x, gain and g.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod  # torch.Size.numel() would fix the sizes of an exported call

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ttr.inputs import needs_composite
from ttr.operators import wide

BLOCK = 1 << 18
"""Entries of a block: 1 MiB of float32, of which the cache holds several. Inputs of up to one block gain
nothing over plain operations."""

ACTIVATIONS = {"silu": torch.nn.functional.silu, "sigmoid": torch.sigmoid}
SLOPES = {
    "silu": torch.ops.aten.silu_backward,
    "sigmoid": lambda grad, x: torch.ops.aten.sigmoid_backward(grad, x.sigmoid()),
}
"""The gradient of x from the gradient of its activation and x."""


def rms_norm(
    x: Tensor,
    eps: float,
    *,
    gain: Tensor | None = None,
    gate: Tensor | None = None,
    activation: str = "silu",
    gate_first: bool = False,
    mean: bool = True,
) -> Tensor:
    """y [...,*D] in x's dtype, computed in float32 or wider.

    Args:
        gain: [*D]; the norm is taken over as many axes as it has, or over the last one if it is None.
        gate: g [...,*D], before its activation, "silu" or "sigmoid".
        gate_first: the gate multiplies x before the norm.
        mean: c is 1 / D, else 1.
    """
    axes = 1 if gain is None else gain.ndim
    rows, size = prod(x.shape[: x.ndim - axes]), prod(x.shape[x.ndim - axes :])
    call = (
        x.reshape(rows, size),
        None if gain is None else gain.flatten(),
        None if gate is None else gate.reshape(rows, size),
        eps,
        1 / max(size, 1) if mean else 1.0,
        activation,
        gate_first,
    )
    if needs_composite() or x.numel() <= BLOCK:
        return composite(*call).reshape(x.shape)
    wants_grad = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in call[:3]
    )
    return (_BlockByBlock.apply if wants_grad else _forward)(*call).reshape(x.shape)


def composite(
    x: Tensor,
    gain: Tensor | None,
    gate: Tensor | None,
    eps: float,
    share: float,
    activation: str,
    gate_first: bool,
) -> Tensor:
    """``rms_norm`` on rows [R,D] in plain torch operations, for functorch, second derivatives and compilers,
    which fuse them."""
    factor = None if gate is None else ACTIVATIONS[activation](wide(gate))
    p = wide(x) * factor if gate_first and factor is not None else wide(x)
    squares = p.square().sum(-1, keepdim=True)
    y = p * torch.rsqrt((squares if share == 1.0 else share * squares) + eps)
    y = y if gain is None else y * gain
    return (y if gate_first or factor is None else y * factor).to(x.dtype)


def _forward(
    x: Tensor,
    gain: Tensor | None,
    gate: Tensor | None,
    eps: float,
    share: float,
    activation: str,
    gate_first: bool,
) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for rows in _blocks(x):
        p, factor = wide(x[rows]), None if gate is None else ACTIVATIONS[activation](wide(gate[rows]))
        p = p * factor if gate_first and factor is not None else p
        u = torch.mul(p, _inverse_root(p, eps, share), out=y[rows] if y.dtype == p.dtype else None)
        if gain is not None:
            u.mul_(gain)
        if factor is not None and not gate_first:
            u.mul_(factor)
        if y.dtype != p.dtype:
            y[rows] = u
    return y


def _backward(
    grad: Tensor,
    x: Tensor,
    gain: Tensor | None,
    gate: Tensor | None,
    eps: float,
    share: float,
    activation: str,
    gate_first: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, gain and gate."""
    grad_x, grad_gate = (
        None if tensor is None else torch.empty(tensor.shape, dtype=tensor.dtype, device=x.device)
        for tensor in (x, gate)
    )
    grad_gain = (
        None if gain is None else torch.zeros_like(gain, dtype=torch.promote_types(gain.dtype, torch.float32))
    )
    for rows in _blocks(x):
        d, p = wide(grad[rows]), wide(x[rows])
        g = None if gate is None else wide(gate[rows])
        factor = None if g is None else ACTIVATIONS[activation](g)
        before, after = (factor, None) if gate_first else (None, factor)
        numbers, p = p, p if before is None else p * before
        r = _inverse_root(p, eps, share)
        u = p * r
        if gain is not None:
            grad_gain += (d * u if after is None else (d * u).mul_(after)).sum(0)
            d = d * gain
        if after is not None:
            grad_gate[rows] = SLOPES[activation](d * u, g)
            d = d * after
        d = torch.addcmul(d, u, torch.linalg.vecdot(d, u)[:, None], value=-share).mul_(r)
        if before is not None:
            grad_gate[rows] = SLOPES[activation](d * numbers, g)
            d.mul_(before)
        grad_x[rows] = d
    return grad_x, None if gain is None else grad_gain.to(gain.dtype), grad_gate


def _inverse_root(p: Tensor, eps: float, share: float) -> Tensor:
    return torch.linalg.vector_norm(p, dim=-1, keepdim=True).square_().mul_(share).add_(eps).rsqrt_()


def _blocks(x: Tensor) -> Iterator[slice]:
    rows = max(BLOCK // max(x.shape[1], 1), 1)
    return (slice(start, start + rows) for start in range(0, len(x), rows))


class _BlockByBlock(torch.autograd.Function):
    """``composite``, with derivatives of the same kind."""

    @staticmethod
    def forward(ctx: FunctionCtx, *call: Tensor | float | str | bool | None) -> Tensor:
        ctx.save_for_backward(*call[:3])
        ctx.others = call[3:]
        return _forward(*call)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # a second derivative is wanted
            # views, because one of the tensors may have been computed from another
            views = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
            leaves = [view for view, wanted in zip(views, needed) if wanted]
            made = iter(torch.autograd.grad(composite(*views, *ctx.others), leaves, grad, create_graph=True))
            grads = tuple(next(made) if wanted else None for wanted in needed)
        else:
            grads = _backward(grad, *tensors, *ctx.others)
        return *grads, *(None for _ in ctx.others)
