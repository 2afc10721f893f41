"""The results of a call, to be compared with those of the oracle."""

from __future__ import annotations

import torch

from ttr.laws.rows import Case


def all_of(call, case: Case, **options) -> dict[str, torch.Tensor]:
    """Outputs, final state, and gradients of a fixed random functional of both."""
    case = case.differentiable()
    y, state = call(case.problem, return_state=True, **{**case.arguments(), **options})
    generator = torch.Generator().manual_seed(2)
    tensors = [torch.where(torch.isneginf(x), 0.0, x).double() for x in (y, *state.tensors.values())]
    total = sum((x * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum() for x in tensors)
    total = total + 0.0 * case.q.sum()  # without tokens nothing else may need gradients
    gradients = torch.autograd.grad(
        total, list(case.leaves().values()), allow_unused=True, materialize_grads=True
    )
    return {"y": y, **state.tensors, "position": state.position} | {
        f"gradient of {n}": g for n, g in zip(case.leaves(), gradients, strict=True)
    }
