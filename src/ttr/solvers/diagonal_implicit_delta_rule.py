from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.forms.linear_recurrence import LinearRecurrence, plus
from ttr.inputs import Inputs
from ttr.problem import Function, Pair, Solver, Weights
from ttr.solvers._training import expand


@dataclass(frozen=True)
class DiagonalImplicitDeltaRule(Solver):
    """S <- (1 - d k^2) * D S + d k v^T with d = step / (1 + step ||k||^2), the square per key channel
    (Longhorn's release, arXiv 2407.14207).

    It is the step of ``ImplicitDeltaRule`` with k k^T replaced by its diagonal, which makes the memory a sum
    of pairs that decay channel by channel. It is not the minimiser of that solver's objective: see
    ``ImplicitDeltaRule`` for the one that is.
    """

    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    additive: ClassVar[bool] = True
    folds: ClassVar[bool] = True

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH"}

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if function.normalized:
            return (
                "A normalised read-out is a ratio of two sums over pairs, and the decay of this solver "
                "depends on the keys. Use OneStep."
            )
        if not function.linear:
            return (
                "The diagonal of k k^T is defined for a linear map only. Use Linear, or a solver that "
                "takes gradient steps."
            )
        return None

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        """A sum of pairs with the decay 1 - d k_j^2 = (1 + step sum_{i != j} k_i^2) / (1 + step ||k||^2), in
        which nothing cancels."""
        step, square = form.times_step(x.controls["step_size"]), form.key.square()
        total = square.sum(-1, keepdim=True)
        others = (total - square).clamp(min=0.0)
        log_decay = torch.log1p(step[..., None] * others) - torch.log1p(step[..., None] * total)
        return form._replace(
            log_decay=plus(log_decay, form.log_decay), step=step / (1 + step * total[..., 0])
        )

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        key, step, decayed = pair.key, pair.controls["step_size"][..., None], memory["memory"]
        if pair.log_decay is not None:
            decayed = expand(pair.log_decay.exp(), decayed) * decayed
        d = step / (1 + step * (key * key).sum(-1, keepdim=True))
        return {
            "memory": (1 - d * key**2)[..., None] * decayed + (d * key)[..., None] * pair.value[..., None, :]
        }

    def read(
        self,
        function: Function,
        params: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        query: Tensor,
        pair: Pair,
    ) -> Tensor:
        return (query[..., None] * after["memory"]).sum(-2)

    def formulas(self) -> dict[str, str]:
        return {
            "update": "S_t = (1 - d_t phi(k_t)^2) * D_t S_{t-1} + d_t phi(k_t) v_t^T, d_t = b_t / (1 + "
            "b_t ||phi(k_t)||^2), "
            "b_t = w_t step_size_t",
            "order": "decay, then the update of the decayed memory, then read",
            "parallel form": "that of a sum of pairs whose key channels also decay by 1 - d_t phi(k_t)^2",
            "approximation": "Of the proximal step ||S - D S||^2 / 2 + b ||v - S^T k||^2 / 2 it keeps "
            "the diagonal of k k^T alone, so it "
            "minimises neither that nor another stated objective.",
        }

    @classmethod
    def examples(cls) -> tuple[DiagonalImplicitDeltaRule, ...]:
        return (cls(),)
