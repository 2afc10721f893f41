from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.problem import Function, Pair, Problem, Solver, Weights, Worked
from ttr.solvers._training import expand


@dataclass(frozen=True)
class MomentumDeltaRule(Solver):
    """Gradient descent with heavy-ball momentum: Z <- mu Z - step k (v - S_x^T p)^T, S <- D S - beta Z (arXiv
    2605.05838).

    mu is the control ``momentum``, beta ``momentum_step``. Z, the running gradient, is kept in the state as
    "momentum" and does not decay with D. S_x and p are those of ``DeltaRule``.
    """

    gradient_at: Literal["decayed", "old"] = "old"
    separate_read: bool = False

    weights_act_on: ClassVar[Literal["memory"]] = "memory"
    keeps: ClassVar[str] = "momentum"
    folds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.gradient_at not in ("decayed", "old"):
            raise ValueError(f"gradient_at={self.gradient_at!r} is unknown. Use 'decayed' or 'old'.")

    def controls(self) -> dict[str, str]:
        return {"step_size": "BTH", "momentum": "BTH", "momentum_step": "BTH"} | (
            {"read_key": "BTHK"} if self.separate_read else {}
        )

    def state(self, feature_size: int, value_size: int) -> dict[str, tuple[int, ...]]:
        return {"momentum": (feature_size, value_size)}

    def formulas(self) -> dict[str, str]:
        at = "(D_t S_{t-1})^T" if self.gradient_at == "decayed" else "S_{t-1}^T"
        read, meaning = ("p", ", p = read_key") if self.separate_read else ("k", "")
        told = {
            "objective": "||v_t - S^T phi(k_t)||^2 / 2",
            "update": f"Z_t = momentum_t Z_{{t-1}} - b_t phi(k_t) (v_t - {at} phi({read}_t))^T, S_t = "
            f"D_t S_{{t-1}} - momentum_step_t Z_t, "
            f"b_t = w_t step_size_t{meaning}",
            "order": (
                f"the error of the {self.gradient_at} memory, then momentum, then decay and step, "
                "then read; Z does not decay with S"
            ),
            "parallel form": (
                "one triangular system per chunk as for the delta rule, with sums of "
                "products of decays and momenta for weights"
            ),
        }
        return told | (
            {
                "approximation": (
                    "It reads and writes at different keys, which is the gradient of no single loss in S."
                )
            }
            if meaning
            else {}
        )

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if not function.linear:
            return (
                f"This momentum is that of a matrix, and {type(function).__name__} keeps other "
                "parameters. Use Linear, or another solver."
            )
        return None

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        eta, mu, beta = (
            pair.controls[name][..., None, None] for name in ("step_size", "momentum", "momentum_step")
        )
        kept = memory["memory"]
        if pair.log_decay is not None:
            kept = expand(pair.log_decay.exp(), kept) * kept
        source = kept if self.gradient_at == "decayed" else memory["memory"]
        error = pair.value - torch.einsum("bhfv,bhf->bhv", source, pair.controls.get("read_key", pair.key))
        momentum = mu * memory["momentum"] - eta * torch.einsum("bhf,bhv->bhfv", pair.key, error)
        return {"memory": kept - beta * momentum, "momentum": momentum}

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
    def examples(cls) -> tuple[MomentumDeltaRule, ...]:
        return (cls(), cls("decayed", separate_read=True))

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.weights.geometric import Geometric

        q, k, v, p, old, decayed = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[0.5, 2], [1.5, -0.5], [-0.5, 1.5]],
                [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4]],
                [[2, -0.5], [0.5, 1.5], [-2, 0.5]],
                # Decays 0.5, 0.8, 0.25, steps 0.5, 0.2, 0.6, momenta 0.5, 0.75, 0.4, their steps 2, 0.5,
                # 0.25.
                # Error, Z, then S: v; Z = -0.5 k v^T = [[-0.5, 0.75, -1], [-2, 3, -4]]; S = -2 Z = [[1, -1.5,
                #     2],
                # [4, -6, 8]].
                # v - S^T k = (-1.5, 3.25, 4); 0.75 Z - 0.2 k (.)^T = [[0.075, -0.4125, -1.95], [-1.65, 2.575,
                # -2.6]];
                # 0.8 S - 0.5 Z = [[0.7625, -0.99375, 2.575], [4.025, -6.0875, 7.7]].
                # (-0.65625, 8.134375, -14.2625); [[-0.166875, 2.2753125, -5.05875], [-0.069375, -6.2909375,
                # 11.79625]]; 0.25 S - 0.25 Z = [[0.23234375, -0.817265625, 1.9084375], [1.02359375,
                # 0.050859375, -1.0240625]].
                [[7, -10.5, 14], [2.88125, -4.596875, 3.8375], [-0.9655078125, -0.25517578125, 1.501171875]],
                # Error at the decayed memory and the read key p, decays (0.5, 0.3), (0.8, 0.4), (0.25, 0.6)
                # per
                # channel, the rest as before: the same first token. (-4.8, 8.2, -2.6); Z = [[1.065, -1.8975,
                # 0.03], [-1.98, 3.07, -3.26]];
                # S = [[0.2675, -0.25125, 1.585], [2.59, -3.935, 4.83]]. (4.35675, 0.554875, -4.6565);
                # Z = [[1.733025, -0.5925375, -1.38495], [-4.713075, 0.7286125, 2.88685]];
                # S = [[-0.36638125, 0.085321875, 0.7424875], [2.73226875, -2.543153125, 2.1762875]].
                [[7, -10.5, 14], [2.18875, -3.558125, 2.4525], [-2.8238640625, 2.56448359375, -1.990665625]],
            )
        )
        step, momentum, momentum_step, head = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in ([0.5, 0.2, 0.6], [0.5, 0.75, 0.4], [2, 0.5, 0.25], [0.5, 0.8, 0.25])
        )
        channel = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64).log()[
            None, :, None
        ]
        controls = {"step_size": step, "momentum": momentum, "momentum_step": momentum_step}
        return (
            Worked(
                Problem(Geometric(), Linear(scale=0.5), cls()),
                q,
                k,
                v,
                old,
                {**controls, "log_decay": head.log()},
            ),
            Worked(
                Problem(Geometric("channel"), Linear(scale=0.5), cls("decayed", separate_read=True)),
                q,
                k,
                v,
                decayed,
                {**controls, "log_decay": channel, "read_key": p},
            ),
        )
