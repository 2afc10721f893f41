"""The base class of solvers defined by an iteration on the moments H = sum gamma k k^T and U = sum gamma k
v^T."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ttr.forms import SecondMoments
from ttr.problem import Function, Pair, Solver, Weights


class _Moments(Solver):
    """Accumulates the pairs in H and U. Abstract: subclasses define the iteration in ``read``."""

    form = SecondMoments
    folds = True

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        return {"gram": (feature_size, feature_size)}

    def formulas(self) -> dict[str, str]:
        return {
            "update": "H_t = D_t H_{t-1} + w_t phi(k_t) phi(k_t)^T, U_t = D_t U_{t-1} + w_t phi(k_t) v_t^T",
            "order": "decay, then write, then iterate and read",
            "parallel form": (
                "all x_t of a chunk iterate together; H_t X^T costs two products of the "
                "size of the scores, (Gamma * X K^T) K"
            ),
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        name = type(self).__name__
        if weights.retention == "channel" or weights.folds:
            return (
                f"{name} needs one weight per pair, which {type(weights).__name__} does not give. Use "
                "Geometric(per='head')."
            )
        if weights.window is not None:
            return (
                f"{name} stores two sums over the pairs, from which none can be removed again. Use "
                "Geometric for a decay, or ExactRidge."
            )
        return None

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        decay = (
            pair.key.new_ones(()) if pair.log_decay is None else torch.exp(pair.log_decay)[..., None, None]
        )
        weight = (
            pair.key.new_ones(())
            if pair.log_importance is None
            else torch.exp(pair.log_importance)[..., None, None]
        )
        return {
            name: decay * memory[name] + weight * torch.einsum("bhf,bhv->bhfv", pair.key, target)
            for name, target in (("memory", pair.value), ("gram", pair.key))
        }
