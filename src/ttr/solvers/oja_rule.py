from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.problem import Function, Pair, Problem, Solver, Weights, Worked
from ttr.solvers._training import expand


@dataclass(frozen=True)
class OjaRule(Solver):
    """The delta rule the other way round: N, which maps values to keys, takes a gradient step on 1/2 ||k - N
    v||^2 per pair.

    N <- D N diag(a), then N <- N + step (k - N v) v^T, with a = exp(``value_log_decay``) per value channel
    beside the retention D of the weights; stable for step ||v||^2 below 2. The read-out is the adjoint, y =
    N^T q (the gated Oja rule of flash-linear-attention 0.6.0, after Oja, J. Math. Biology 15, 1982).
    """

    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    keeps: ClassVar[str] = "reverse"
    folds: ClassVar[bool] = True

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH", "value_log_decay": "BTHV"}

    def formulas(self) -> dict[str, str]:
        return {
            "objective": "||phi(k_t) - N v_t||^2 / 2",
            "prediction": "n(v) = N v, keys from values",
            "update": (
                "N_t = N~ + b_t (phi(k_t) - N~ v_t) v_t^T, N~ = D_t N_{t-1} diag(c_t), c_t = "
                "exp(value_log_decay_t), b_t = w_t step_size_t"
            ),
            "read-out": "y_t = s N_t^T phi(q_t)",
            "order": "decay, then the error of the decayed memory, then write, then read",
            "parallel form": "none: token by token",
            "approximation": (
                "The regression runs from values to keys, and the read-out is its adjoint, not a prediction."
            ),
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if not function.linear:
            return (
                f"The Oja rule learns a matrix, and {type(function).__name__} keeps other parameters. "
                "Use Linear, or another solver."
            )
        return None

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        kept = memory["memory"] * pair.controls["value_log_decay"].exp()[..., None, :]
        if pair.log_decay is not None:
            kept = expand(pair.log_decay.exp(), kept) * kept
        error = pair.key - torch.einsum("bhfv,bhv->bhf", kept, pair.value)
        return {
            "memory": kept
            + pair.controls["step_size"][..., None, None] * torch.einsum("bhf,bhv->bhfv", error, pair.value)
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
        return torch.einsum("bhfv,bhf->bhv", after["memory"], query)

    @classmethod
    def examples(cls) -> tuple[OjaRule, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.weights.uniform import Uniform

        # Decays of the value channels as below, steps 0.5, 0.2, 0.1; N diag(a), then step * (k - N v), then
        # N; y = N^T q / 2: 0; (0.25, 1); [[0.5, -0.75, 1], [2, -3, 4]].
        # [[0.4, -0.375, 0.25], [1.6, -1.5, 1]]; 0.2 (k - (-1.55, -6.2)) = (0.61, 1.14); [[-0.82, 2.065,
        # 2.08], [-0.68, 3.06, 4.42]]. [[-0.205, 0.826, 1.248], [-0.17, 1.224, 2.652]]; 0.1 (k - (-6.43,
        # -12.07)) = (0.593, 1.357);
        # [[2.76, 0.5295, -1.124], [6.615, 0.5455, -2.776]].
        q, k, v, decay, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
                [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
                [[0.5, 0.4, 0.2], [0.8, 0.5, 0.25], [0.25, 0.4, 0.6]],
                [[3.5, -5.25, 7], [0.55, -0.0375, 1.3], [-5.925, -0.413125, 2.495]],
            )
        )
        controls = {
            "value_log_decay": decay.log(),
            "step_size": torch.tensor([[[0.5], [0.2], [0.1]]], dtype=torch.float64),
        }
        return (Worked(Problem(Uniform(), Linear(scale=0.5), cls()), q, k, v, y, controls),)
