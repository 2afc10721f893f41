"""Helpers for the definitions of solvers that train networks: the gradient of a loss in every parameter, by
torch.func.grad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ttr.component import Component, axis_params
from ttr.problem import Function


def loss_gradient(
    function: Function,
    params: Mapping[str, Tensor],
    loss: Component,
    weights: Mapping[str, Tensor],
    pairs: Sequence[tuple[Tensor, Tensor, Tensor]],
    controls: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """sum_i step_i grad l(m(k_i), v_i) in every tensor [B,H,...] of ``weights``, for pairs (key, value, step
    [B,H])."""

    def total(weights: Mapping[str, Tensor]) -> Tensor:
        losses = [
            step * loss(function.predict(weights, key, axis_params(params, "function")), value, controls)
            for key, value, step in pairs
        ]
        return sum(losses, torch.zeros_like(losses[0])).sum()

    return torch.func.grad(total)(dict(weights))


def only_matrices(change: Component | None, name: str, x: Tensor) -> Tensor:
    """``change`` of a matrix; biases stay as they are."""
    return x if change is None or name.endswith("_bias") else change(x)


def expand(x: Tensor, like: Tensor) -> Tensor:
    """[B] or [B,H] with axes of size 1 up to those of ``like``."""
    return x.reshape(*x.shape, *(1,) * (like.ndim - x.ndim))
