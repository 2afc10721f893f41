"""Base class and helpers of the weights that define their own recurrence, for a memory that adds pairs with
or without a normaliser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.problem import Function, Solver, Weights


class _Recurrence(Weights):
    """Weights whose memory is defined by ``learn`` and ``read``, not by a product of decays."""

    folds: ClassVar[bool] = True

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if not solver.additive:
            name = type(self).__name__
            return (
                f"{name} defines how pairs are summed, and {type(solver).__name__} does not sum pairs. Use "
                "OneStep, or Geometric weights."
            )
        return None


def joined(memory: Mapping[str, Tensor]) -> Tensor:
    """The memory [...,F,V], followed by its normaliser as one more column if there is one."""
    return (
        torch.cat([memory["memory"], memory["normalizer"][..., None]], dim=-1)
        if "normalizer" in memory
        else memory["memory"]
    )


def outer(memory: Mapping[str, Tensor], key: Tensor, value: Tensor) -> Tensor:
    """k v^T [...,F,V] for k [...,F] and v [...,V], with a value of 1 appended if there is a normaliser."""
    value = pad(value, (0, 1), value=1.0) if "normalizer" in memory else value
    return key[..., :, None] * value[..., None, :]


def parted(memory: Mapping[str, Tensor], columns: Tensor) -> dict[str, Tensor]:
    """Undo ``joined``."""
    return (
        {"memory": columns[..., :-1], "normalizer": columns[..., -1]}
        if "normalizer" in memory
        else {"memory": columns}
    )


def retrieved(function: Function, columns: Tensor, query: Tensor, unit: Tensor | float = 1.0) -> Tensor:
    """The read-out [B,H,V] of the columns that ``joined`` returns, a ratio if there is a normaliser; ``unit``
    is the number 1 in the units of the columns."""
    y = torch.einsum("bhfv,bhf->bhv", columns, query)
    return function.ratio(y[..., :-1], y[..., -1:], unit) if function.normalized else y
