"""Regressions on second moments as one differentiable function, by compiled kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ttr.engines.native import moments
from ttr.engines.native.moments import Chebyshev, Ridge
from ttr.engines.torch.ridge.block import cut, factors
from ttr.engines.torch.ridge.regression import Differentiable, Regression, differentiated_again
from ttr.problem import Solver
from ttr.torch_internals import in_batches

CHUNK = 16
"""The most tokens of a chunk: products with the pairs inside it grow with their number, and those between
chunks are cheap beside a solver's iterations."""

FEATURES = 128
"""The most features of a ridge kernel. Torch is as fast at 192 and faster at 256: matrices [F,F] leave the
first caches of a core, and every product reads them anew for the 16 tokens of a chunk, in torch for 32."""


def kernel_of(solver: Solver, call: Regression) -> Chebyshev | Ridge | None:
    """The kernel that runs this solver, None if there is none."""
    if call.query.shape[1] == 0 or not moments.serves(x for x in call if x is not None):
        return None
    if solver.exact:
        return Ridge() if call.key.shape[-1] <= FEATURES else None
    coefficients = solver.polynomial()
    return None if coefficients is None or call.mix is None else Chebyshev(coefficients)


def run(
    call: Regression, chunk: int, kernel: Chebyshev | Ridge, differentiable: Differentiable
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B,T,H,V], and the moments H and U after the call. Second derivatives are those of
    ``differentiable``, and first ones where the kernel does not solve their systems.

    Raises:
        Unsolved: if the kernel does not solve all systems.
    """
    # needs_input_grad is the same under torch.no_grad()
    return _Run.apply(min(chunk, CHUNK), kernel, differentiable, torch.is_grad_enabled(), *call)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        chunk: int,
        kernel: Chebyshev | Ridge,
        differentiable: Differentiable,
        recorded: bool,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        call, save = Regression(*tensors), recorded and any(ctx.needs_input_grad)
        y, gram, memory, *saved = kernel.forward(_tensors(call, chunk), getattr(call, kernel.own), save)
        ctx.chunk, ctx.kernel, ctx.differentiable = chunk, kernel, differentiable
        ctx.save_for_backward(*tensors, *saved)
        return y, gram, memory

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # read once: activation checkpointing recomputes them at every access
        call, saved = Regression(*tensors[: len(Regression._fields)]), tensors[len(Regression._fields) :]
        with torch.autocast(call.query.device.type, enabled=False):
            if not torch.is_grad_enabled() and not any(map(in_batches, grads)):
                try:
                    return None, None, None, None, *_gradients(call, ctx.chunk, ctx.kernel, saved, grads)
                except moments.Unsolved:
                    pass
            return None, None, None, None, *differentiated_again(call, ctx.differentiable, grads)


def _gradients(
    call: Regression,
    chunk: int,
    kernel: Chebyshev | Ridge,
    saved: tuple[Tensor, ...],
    grads: tuple[Tensor, ...],
) -> Regression:
    """Gradients of a call's tensors. Those of the logarithms go through the factors made of them."""
    logs = [x.detach().requires_grad_() for x in (call.log_decay, call.log_importance)]
    with torch.enable_grad():
        x = _tensors(call._replace(log_decay=logs[0], log_importance=logs[1]), chunk)
    factors_made = x.weights, x.decay, x.to_end
    found, own = kernel.backward(x, getattr(call, kernel.own), saved, grads)
    of_logs = torch.autograd.grad(factors_made, logs, [found.weights, found.decay, found.to_end])
    known = (found.query, found.key, found.value, *of_logs, None, found.gram, found.memory)
    return Regression(*known)._replace(**{kernel.own: own})


def _tensors(call: Regression, chunk: int) -> moments.Tensors:
    made = factors(*(cut(x, chunk) for x in (call.log_decay, call.log_importance)))
    return moments.Tensors(call.query, call.key, call.value, *made, call.gram, call.memory)
