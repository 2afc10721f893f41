"""Ridge regression by a polynomial of the second moments as one differentiable function, by compiled
kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ttr.engines.native import chebyshev
from ttr.engines.torch.ridge.block import cut, factors
from ttr.engines.torch.ridge.regression import Differentiable, Regression, differentiated_again
from ttr.torch_internals import in_batches

CHUNK = 16
"""The most tokens of a chunk: products with the pairs inside it grow with their number, and those between
chunks are cheap beside a solver's iterations."""


def serves(coefficients: Tensor | None, call: Regression) -> bool:
    """Whether the kernels run these iterations."""
    complete = coefficients is not None and call.mix is not None and call.query.shape[1] > 0
    return complete and chebyshev.serves(call)


def run(
    call: Regression, chunk: int, coefficients: Tensor, differentiable: Differentiable
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B,T,H,V], and the moments H and U after the call. Second derivatives are those of
    ``differentiable``."""
    return _Run.apply(min(chunk, CHUNK), coefficients, differentiable, *call)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        chunk: int,
        coefficients: Tensor,
        differentiable: Differentiable,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        call, save = Regression(*tensors), any(ctx.needs_input_grad)
        y, gram, memory, states = chebyshev.forward(coefficients, _tensors(call, chunk), save)
        ctx.chunk, ctx.coefficients, ctx.differentiable = chunk, coefficients, differentiable
        ctx.save_for_backward(*tensors, states)
        return y, gram, memory

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, states = ctx.saved_tensors  # read once: checkpointing recomputes them at every access
        call = Regression(*tensors)
        with torch.autocast(call.query.device.type, enabled=False):
            if torch.is_grad_enabled() or any(map(in_batches, grads)):
                return None, None, None, *differentiated_again(call, ctx.differentiable, grads)
            return None, None, None, *_gradients(call, ctx.chunk, ctx.coefficients, states, grads)


def _gradients(
    call: Regression, chunk: int, coefficients: Tensor, states: Tensor, grads: tuple[Tensor, ...]
) -> Regression:
    """Gradients of a call's tensors. Those of the logarithms go through the factors made of them."""
    logs = [x.detach().requires_grad_() for x in (call.log_decay, call.log_importance)]
    with torch.enable_grad():
        x = _tensors(call._replace(log_decay=logs[0], log_importance=logs[1]), chunk)
    made = x.weights, x.decay, x.to_end
    found = chebyshev.backward(coefficients, x, states, *grads)
    of_logs = torch.autograd.grad(made, logs, [found.weights, found.decay, found.to_end])
    others = found.gram, found.memory, found.mix
    return Regression(found.query, found.key, found.value, *of_logs, None, *others)


def _tensors(call: Regression, chunk: int) -> chebyshev.Tensors:
    weights, decay, to_end = factors(*(cut(x, chunk) for x in (call.log_decay, call.log_importance)))
    return chebyshev.Tensors(
        call.query, call.key, call.value, call.mix, weights, decay, to_end, call.gram, call.memory
    )
