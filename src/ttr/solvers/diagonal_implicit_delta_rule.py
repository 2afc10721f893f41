from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.problem import Function, Pair, Problem, Solver, Weights, Worked
from ttr.solvers._training import expand


@dataclass(frozen=True)
class DiagonalImplicitDeltaRule(Solver):
    """S <- (1 - d k^2) * D S + d k v^T with d = step / (1 + step ||k||^2), the square per key channel
    (Longhorn's release, arXiv 2407.14207).

    It is the step of ``ImplicitDeltaRule`` with k k^T cut down to its diagonal, which makes the memory a sum
    of pairs that fade channel by channel. It is not the minimiser of that solver's objective: see
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
                "A normalised read-out is a ratio of two sums over pairs, and what this solver forgets "
                "depends on the keys. Use OneStep."
            )
        if not function.linear:
            return (
                "The diagonal of k k^T is that of a linear map's keys. Use Linear, or a solver that "
                "takes gradient steps."
            )
        return None

    def log_retention(self, step_size: Tensor, key: Tensor) -> Tensor:
        """1 - d k_j^2 = (1 + step sum_{i != j} k_i^2) / (1 + step ||k||^2), which cancels nowhere."""
        square = key.square()
        total = square.sum(-1, keepdim=True)
        others = (total - square).clamp(min=0.0)
        return torch.log1p(step_size[..., None] * others) - torch.log1p(step_size[..., None] * total)

    def effective_step(self, step_size: Tensor, key: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return step_size / (1 + step_size * key.square().sum(-1))

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        key, step, kept = pair.key, pair.controls["step_size"][..., None], memory["memory"]
        if pair.log_decay is not None:
            kept = expand(pair.log_decay.exp(), kept) * kept
        d = step / (1 + step * (key * key).sum(-1, keepdim=True))
        return {
            "memory": (1 - d * key**2)[..., None] * kept + (d * key)[..., None] * pair.value[..., None, :]
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
            "parallel form": "that of a sum of pairs whose key channels fade by 1 - d_t phi(k_t)^2 besides",
            "approximation": "Of the proximal step ||S - D S||^2 / 2 + b ||v - S^T k||^2 / 2 it keeps "
            "the diagonal of k k^T alone, so it "
            "minimises neither that nor another stated objective.",
        }

    @classmethod
    def examples(cls) -> tuple[DiagonalImplicitDeltaRule, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.weights.geometric import Geometric

        # ||k||^2 = 2.5, 20, 25 and steps 0.4, 0.2, 0.6 make d = 0.4 / 2 = 0.2, 0.2 / 5 = 0.04, 0.6 / 16 =
        # 0.0375. Row by row: S_1 = 0.2 k_1 v_1^T = 0.1 v_1, 0.3 v_1.
        # 0.04 k_2^2 = (0.16, 0.64) keeps (0.84, 0.36) * 0.5 = (0.42, 0.18), written 0.04 k_2 = (0.08, -0.16):
        # S_2 = 0.042 v_1 + 0.08 v_2, 0.054 v_1 - 0.16 v_2.
        # 0.0375 k_3^2 = (0.3375, 0.6) keeps (0.6625, 0.4) * 0.8 = (0.53, 0.32), written 0.0375 k_3 = (0.1125,
        # -0.15): S_3 = 0.02226 v_1 + 0.0424 v_2 + 0.1125 v_3, 0.01728 v_1 - 0.0512 v_2 - 0.15 v_3.
        # y_t = S_t^T q_t / 2: 0.55 v_1 | -0.009 v_1 - 0.28 v_2 | -0.011715 v_1 + 0.0618 v_2 + 0.178125 v_3.
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[0.5, 1.5], [2, -4], [3, -4]],
                [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
                [[1.1, -1.65, 2.2], [0.542, -1.093, -0.876], [0.743595, 0.1932825, -0.57396]],
            )
        )
        controls = {
            "log_decay": torch.tensor([[[0.3], [0.5], [0.8]]], dtype=torch.float64).log(),
            "step_size": torch.tensor([[[0.4], [0.2], [0.6]]], dtype=torch.float64),
        }
        return (Worked(Problem(Geometric(), Linear(scale=0.5), cls()), q, k, v, y, controls),)
