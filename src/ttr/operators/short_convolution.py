"""The short causal convolution and its derivative, computed in blocks of tokens, so that no intermediate
result leaves the cache.

    z_t = bias + sum_{j<width} weight_j x_{t-past+j},   past = width - 1,   y_t = silu(z_t) = z_t / (1 +
        e^{-z_t}), or z_t

for every channel separately, with x preceded by the ``tail``, the last ``past`` tokens before the call. In
the backward pass, with d_t the gradient of z_t (z is recomputed, which is cheaper than storing it),

    grad x_t = sum_j weight_j d_{t+past-j},   grad weight_j = sum_t d_t x_{t-past+j},   grad bias = sum_t d_t,

the first of which is the same convolution of d with the weights in reverse order, followed by ``past`` later
tokens, which are zero at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ttr.engines.native import convolution as native
from ttr.inputs import needs_composite
from ttr.operators import wide

BLOCK = 3 << 18
"""Entries of a block: 3 MiB of float32, which the cache holds."""

ONEDNN = 1 << 17
"""The number of entries from which oneDNN's convolution amortises its start-up cost."""


def short_convolution(
    x: Float[Tensor, "B T C"],
    tail: Float[Tensor, "N past C"],
    weight: Float[Tensor, "width C"],
    bias: Float[Tensor, " C"] | None = None,
    *,
    silu: bool,
    bounds: Int[Tensor, " bounds"] | None = None,
) -> Tensor:
    """y [B,T,C] in the promoted dtype of x and weight, accumulated in float32 or wider.

    Args:
        tail: the tokens before the call; N = B, or the number of sequences of a packed call.
        weight: its first axis runs from the oldest token to the newest.
        silu: whether SiLU follows.
        bounds: [0, ..., T] of sequences packed along time (B = 1).

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    sequences, (width, channels) = len(x) if bounds is None else len(bounds) - 1, weight.shape
    if (
        tail.shape != (sequences, width - 1, channels)
        or x.shape[2] != channels
        or bias is not None
        and bias.shape != (channels,)
    ):
        raise ValueError(
            f"A convolution of {sequences} sequences with weights [{width}, {channels}] takes "
            f"x [B,T,{channels}], tails "
            f"{[sequences, width - 1, channels]} and a bias [{channels}], got x "
            f"{list(x.shape)}, tails {list(tail.shape)}"
            f"{'' if bias is None else f' and a bias {list(bias.shape)}'}. Give all of them "
            "the same channels."
        )
    if needs_composite():
        return composite(x, tail, weight, bias, silu=silu, bounds=bounds)
    wants_grad = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, tail, weight, bias)
    )
    if wants_grad or torch.compiler.is_compiling():
        return _operator(x, tail, weight, bias, bounds, silu)
    # calling an operator costs as much as the convolution of one token
    return _forward(x, tail, weight, bias, bounds, silu)


def composite(
    x: Tensor,
    tail: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    silu: bool,
    bounds: Tensor | None = None,
) -> Tensor:
    """``short_convolution`` in plain torch operations, for second derivatives and functorch."""
    past = weight.shape[0] - 1
    if bounds is None and x.shape[1] == 1:
        return _activated((weight * torch.cat([tail, x], dim=1)).sum(1, keepdim=True), bias, silu)
    lengths = [x.shape[1]] if bounds is None else bounds.diff().tolist()
    tails = [tail] if bounds is None else tail.split(1)
    parts = []
    for earlier, own in zip(tails, x.split(lengths, dim=1), strict=True):
        window = torch.cat([earlier, own], dim=1)
        parts.append(
            sum(
                (weight[j] * window[:, j : j + own.shape[1]] for j in range(1, past + 1)),
                weight[0] * window[:, : own.shape[1]],
            )
        )
    return _activated(torch.cat(parts, dim=1) if parts else x * weight[0], bias, silu)


def _activated(z: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    z = z if bias is None else z + bias
    return torch.nn.functional.silu(z) if silu else z


def _forward(
    x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor | None, bounds: Tensor | None, silu: bool
) -> Tensor:
    if native.serves(x, tail, weight, bias, width=len(weight)):
        return native.forward(x, tail, weight, bias, bounds, silu)
    y = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
    weight, bias = wide(weight), None if bias is None else wide(bias)
    for part in _parts(x, tail, bounds):
        for start, stop in part.blocks(len(weight) - 1):
            z = _convolve(part.window(start, stop), weight, bias)
            if silu and z.dtype == y.dtype:
                torch.ops.aten.silu.out(z, out=y[part.rows, start:stop])
            else:
                y[part.rows, start:stop] = torch.nn.functional.silu(z) if silu else z
    return y


def _backward(
    grad: Tensor,
    x: Tensor,
    tail: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    bounds: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, tail, weight and bias."""
    if native.serves(grad, x, tail, weight, bias, width=len(weight)):
        return native.backward(grad, x, tail, weight, bias, bounds, silu)
    past, dtype, weight, bias = (
        len(weight) - 1,
        weight.dtype,
        wide(weight),
        None if bias is None else wide(bias),
    )
    # contiguous whatever the strides of the inputs, as compiled code expects them
    grad_x, grad_tail = x.new_empty(x.shape), tail.new_zeros(tail.shape)
    grad_weight, grad_bias = weight.new_zeros(weight.shape), weight.new_zeros(weight.shape[1:])
    reverse = weight.flip(0)
    for part in _parts(x, tail, bounds):
        later = torch.zeros_like(part.tail, dtype=weight.dtype)
        for start, stop in reversed(part.blocks(past)):
            window, d = part.window(start, stop), wide(grad[part.rows, start:stop])
            d = torch.ops.aten.silu_backward(d, _convolve(window, weight, bias)) if silu else d
            for j in range(past + 1):
                grad_weight[j] += (d * window[:, j : j + stop - start]).sum((0, 1))
            grad_bias += d.sum((0, 1))
            d = torch.cat([d, later], dim=1)
            grad_x[part.rows, start:stop] = _convolve(d, reverse)
            later = d[:, :past]
        grad_tail[part.sequences] = _convolve(torch.cat([torch.zeros_like(later), later], dim=1), reverse).to(
            tail.dtype
        )
    return grad_x, grad_tail, grad_weight.to(dtype), grad_bias.to(dtype)


def _convolve(window: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[B,past+n,C] -> [B,n,C]: bias + sum_j weight_j window_{t+j}.

    oneDNN has a fast loop for channels-last images, and a stream is an image of height 1; it has none in
    float64."""
    tokens = window.shape[1] - len(weight) + 1
    if _onednn_serves(window):
        image, kernel, ones = window.transpose(1, 2)[:, :, None], weight.T[:, None, None], (1, 1)
        bias = None if bias is None else bias.contiguous()  # oneDNN ignores its stride
        return torch.mkldnn_convolution(image, kernel, bias, (0, 0), ones, ones, window.shape[2])[
            :, :, 0
        ].transpose(1, 2)
    z = window[:, :tokens] * weight[0] if bias is None else torch.addcmul(bias, window[:, :tokens], weight[0])
    for j in range(1, len(weight)):
        z.addcmul_(window[:, j : j + tokens], weight[j])
    return z


def _onednn_serves(x: Tensor) -> bool:
    mkldnn = torch.backends.mkldnn
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() >= ONEDNN
        and mkldnn.is_available()
        and mkldnn.enabled
    )


class _Part(NamedTuple):
    """Sequences that are processed together: ``rows`` of x [B,T,C] from token ``start`` to ``stop``, and
    their tails."""

    x: Tensor
    tail: Tensor
    rows: slice
    sequences: slice
    start: int
    stop: int

    def blocks(self, past: int) -> list[tuple[int, int]]:
        """The token ranges of the blocks; each block but the last has at least ``past`` tokens."""
        size = max(BLOCK // self.x[:, 0].numel(), past)
        return [(start, min(start + size, self.stop)) for start in range(self.start, self.stop, size)]

    def window(self, start: int, stop: int) -> Tensor:
        """The tokens of a block preceded by the ``past`` tokens before it, in float32 or wider."""
        past = self.tail.shape[1]
        window = (
            self.x[:, start - past : stop]
            if start > self.start
            else torch.cat([self.tail, self.x[:, start:stop]], dim=1)
        )
        return wide(window)


def _parts(x: Tensor, tail: Tensor, bounds: Tensor | None) -> Iterator[_Part]:
    """The parts of a call: every packed sequence, or groups of as many whole rows as fill a block."""
    if x.numel() == 0:
        return
    if bounds is None:
        rows = max(BLOCK // x[0].numel(), 1)
        for part in (slice(row, row + rows) for row in range(0, len(x), rows)):
            yield _Part(x[part], tail[part], part, part, 0, x.shape[1])
        return
    ends = bounds.tolist()
    for row, (start, stop) in enumerate(zip(ends, ends[1:])):
        if start < stop:
            yield _Part(x, tail[row : row + 1], slice(0, 1), slice(row, row + 1), start, stop)


_ARGUMENTS = "Tensor x, Tensor tail, Tensor weight, Tensor? bias, Tensor? bounds, bool silu"
_operator = torch.library.custom_op(
    "ttr::short_convolution", _forward, mutates_args=(), schema=(f"({_ARGUMENTS}) -> Tensor")
)
_derivative = torch.library.custom_op(
    "ttr::short_convolution_backward",
    _backward,
    mutates_args=(),
    schema=f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
)


@_operator.register_fake
def _(
    x: Tensor, tail: Tensor, weight: Tensor, bias: Tensor | None, bounds: Tensor | None, silu: bool
) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype))


@_derivative.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    tail: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    bounds: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape),
        tail.new_empty(tail.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[1:]),
    )


def _save(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, tail, weight, bias, bounds = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative is wanted
        # views, because one of the tensors may have been computed from another
        views = [None if tensor is None else tensor.view_as(tensor) for tensor in (x, tail, weight, bias)]
        leaves = [view for view, needed in zip(views, ctx.needs_input_grad) if needed]
        made = iter(
            torch.autograd.grad(
                composite(*views, silu=ctx.silu, bounds=bounds), leaves, grad, create_graph=True
            )
        )
        return *(next(made) if needed else None for needed in ctx.needs_input_grad[:4]), None, None
    grads = _derivative(grad, x, tail, weight, bias, bounds, ctx.silu)
    return *grads[:3], None if bias is None else grads[3], None, None


_operator.register_autograd(_differentiate, setup_context=_save)
