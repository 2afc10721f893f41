"""Polynomials of the second moments of many tokens at once, by the compiled kernel, and their derivatives."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.engines.native import chebyshev
from ttr.engines.torch.implicit_solve import System
from ttr.problem import Solver
from ttr.torch_internals import in_batches


def serves(solver: Solver, system: System, right: Tensor) -> bool:
    """Whether the kernel runs the iterations of this solver."""
    tensors = (right, system.weights, system.keys, system.decay, system.gram)
    return solver.polynomial() is not None and chebyshev.serves(*tensors)


def solve(
    solver: Solver, system: System, squared_norm: Float[Tensor, "G R"], right: Float[Tensor, "G R F"]
) -> Float[Tensor, "G R F"]:
    """``solver.iterate`` by its polynomial. Second derivatives are those of ``iterate``."""
    return _Polynomial.apply(
        solver, right, system.weights, system.keys, system.decay, system.gram, squared_norm
    )


class _Polynomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solver: Solver, *tensors: Tensor) -> Tensor:
        *others, squared_norm = tensors
        norm = torch.where(squared_norm > 0, squared_norm, 1.0).sqrt()
        ctx.solver = solver
        ctx.save_for_backward(*tensors)
        return chebyshev.evaluate(solver.polynomial(), *others, norm.to(others[0]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # read once: activation checkpointing recomputes them at every access
        if torch.is_grad_enabled() or in_batches(grad):
            return None, *_differentiably(ctx.solver, grad, tensors)
        *others, squared_norm = tensors
        norm = torch.where(squared_norm > 0, squared_norm, 1.0).sqrt()
        *found, grad_norm = chebyshev.differentiate(
            ctx.solver.polynomial(), grad, *others, norm.to(others[0])
        )
        return None, *found, torch.where(squared_norm > 0, grad_norm / (2 * norm), 0.0)


def _differentiably(solver: Solver, grad: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients that can be differentiated again, with respect to views, as where a graph is part of
    another."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        right, weights, keys, decay, gram, squared_norm = inputs = [
            x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in tensors
        ]
        system = System(weights, keys, keys.new_zeros(1, 1, keys.shape[-1]), decay=decay, gram=gram)
        solution = solver.iterate(system.product, squared_norm, right)
    return torch.autograd.grad(
        solution, inputs, grad, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
