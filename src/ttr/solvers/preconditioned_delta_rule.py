from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.problem import Function, Pair, Problem, Solver, Weights, Worked
from ttr.solvers._training import expand


@dataclass(frozen=True)
class PreconditionedDeltaRule(Solver):
    """The delta rule with a diagonal preconditioner: S <- D S + step (P * k) (v - (D S)^T k)^T (arXiv
    2604.21100).

    A <- a A + b k^2 is a running sum of squared keys with a = exp(``precond_log_decay``) and b =
    ``precond_step``, the pair's own included. P = bound^(-r / (1 + |r|)), r = ln(A + eps) - c, lies between 1
    / bound and bound: small where keys have been large. Only the written key is preconditioned. c is learned,
    one per head, and starts at ``center``.

    Raises:
        ValueError: if ``bound`` is below 1 or ``eps`` not above 0.
    """

    bound: float = 1.5
    center: float = -0.2
    eps: float = 1e-6

    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    gradient_at: ClassVar[Literal["decayed"]] = "decayed"
    preconditioned: ClassVar[bool] = True
    folds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.bound >= 1 and self.eps > 0):
            raise ValueError(
                f"PreconditionedDeltaRule(bound={self.bound}, eps={self.eps}) is out of range. "
                "Use bound >= 1 and eps > 0."
            )

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH", "precond_log_decay": "BTH", "precond_step": "BTH"}

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {"center": Parameter((heads,), constant(self.center))}

    def state(self, feature_size: int, value_size: int) -> dict[str, tuple[int, ...]]:
        return {"preconditioner": (feature_size,)}

    def formulas(self) -> dict[str, str]:
        return {
            "objective": "||v_t - S^T phi(k_t)||^2 / 2, descended in the metric of P_t",
            "update": "S_t = D_t S_{t-1} + b_t (P_t * phi(k_t)) (v_t - (D_t S_{t-1})^T phi(k_t))^T, b_t "
            "= w_t step_size_t, "
            f"P_t = {self.bound:g}^(-r / (1 + |r|)), r = log(A_t + eps) - c, c learned from "
            f"{self.center:g}, "
            "A_t = exp(precond_log_decay_t) A_{t-1} + w_t precond_step_t phi(k_t)^2",
            "order": (
                "decay, then the error of the decayed memory, then write, then read; A_t holds token t"
            ),
            "parallel form": "a scan for A, then that of the delta rule with the written keys P * phi(k)",
        }

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if not function.linear:
            return (
                f"A preconditioner per key channel belongs to a matrix, and {type(function).__name__} "
                "has others. Use Linear, or DeltaRule."
            )
        return None

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        key, control = pair.key, {name: c[..., None] for name, c in pair.controls.items()}
        sums = (
            control["precond_log_decay"].exp() * memory["preconditioner"] + control["precond_step"] * key**2
        )
        r = torch.log(sums + self.eps) - params["solver.center"][:, None]
        written = self.bound ** (-r / (1 + r.abs())) * key
        kept = memory["memory"]
        if pair.log_decay is not None:
            kept = expand(pair.log_decay.exp(), kept) * kept
        error = pair.value - torch.einsum("bhfv,bhf->bhv", kept, key)
        return {
            "memory": kept + torch.einsum("bhf,bhv->bhfv", control["step_size"] * written, error),
            "preconditioner": sums,
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
    def examples(cls) -> tuple[PreconditionedDeltaRule, ...]:
        return (cls(bound=3.0, eps=0.1),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.weights.geometric import Geometric

        # Decays 0.5, 0.8, 0.25, steps 0.5, 0.2, 0.6; of the preconditioner decays 0.5, 0.8, 0.4, steps 0.8,
        # 0.4, 0.6; bound 4, c = 0.3, eps = 0.25: A = (0.2, 3.2), (1.06, 2.66), (0.574, 2.414); r = ln(A +
        # 0.25) - 0.3 = (-1.098507696, 0.938374231), (-0.029972863, 0.768153081), (-0.493584749, 0.679828753);
        # P = 4^(-r / (1 + |r|)) = (2.066145401, 0.511140745), (1.041166838, 0.547573215), (1.581112177,
        # 0.570618154). Written keys P k = (1.0330727, 1.0222815), (1.5617503, -0.2737866), (-0.7905561,
        # 0.8559272). Step times v - (D S)^T k: (1, -1.5, 2); D S = [[0.8264582, -1.2396872, 1.6529163],
        # [0.8178252, -1.2267378, 1.6356504]], 0.2 (v - ...) = (-0.566154929, 1.049232393, 0.267690142), S =
        # [[-0.0577344, 0.3989517, 2.0709815], [0.9728308, -1.5140036, 1.5623604]]; (2.776782980, 0.070572181,
        # -2.596207482), S = [[-2.2096363, 0.0439467, 2.5701930], [2.6199319, -0.3180962, -1.8315746]].
        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
                [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
                [
                    [2.566494934793, -3.84974240219, 5.132989869586],
                    [1.059432497352, -2.112431144718, -1.544111796126],
                    [-3.172340950292, 0.3290829053, 2.474122828715],
                ],
            )
        )
        decay, step, forget, add = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in ([0.5, 0.8, 0.25], [0.5, 0.2, 0.6], [0.5, 0.8, 0.4], [0.8, 0.4, 0.6])
        )
        controls = {
            "log_decay": decay.log(),
            "step_size": step,
            "precond_log_decay": forget.log(),
            "precond_step": add,
        }
        problem = Problem(Geometric(), Linear(scale=0.5), cls(bound=4.0, center=0.3, eps=0.25))
        return (
            Worked(
                problem, q, k, v, y, controls, {"solver.center": torch.tensor([0.3], dtype=torch.float64)}
            ),
        )
