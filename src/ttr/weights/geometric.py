from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.axes import with_resets
from ttr.problem import Problem, Weights, Worked


@dataclass(frozen=True)
class Geometric(Weights):
    """Input-dependent forgetting: gamma_i^(t) = prod_{i<j<=t} exp(log_decay_j).

    The newest pair has weight 1: its own decay acts on the older ones only. A log decay below ``RESET``
    forgets the past altogether and has no gradient.
    """

    per: Literal["head", "channel"] = "head"

    retention_control: ClassVar[str] = "log_decay"

    def __post_init__(self) -> None:
        if self.per not in ("head", "channel"):
            raise ValueError(f"Geometric(per={self.per!r}) is unknown. Use per='head' or per='channel'.")

    @property
    def retention(self) -> Literal["head", "channel"]:
        return self.per

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTH" if self.per == "head" else "BTHK"}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return with_resets(controls["log_decay"])

    def formulas(self) -> dict[str, str]:
        if self.per == "head":
            return {"weight": "gamma_i^(t) = prod_{i<j<=t} a_j, a_t = exp(log_decay_t)", "decay": "D_t = a_t"}
        return {
            "weight": "gamma_i^(t) = prod_{i<j<=t} a_j, a_t = exp(log_decay_t), one for every key channel",
            "decay": "D_t = diag(a_t)",
            "approximation": "A decay per key channel is no weight of a pair: no weighted squared error "
            "in the keys themselves stands behind "
            "it. It is the fit to keys whose channels have faded by the time they are "
            "read.",
        }

    @classmethod
    def examples(cls) -> tuple[Geometric, ...]:
        return (cls("head"), cls("channel"))

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep

        q, k, v, by_head, by_channel = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                # Per head, decays 0.5, 0.8, 0.001: the scores q_t.k_i / 2 = 6 | -2.5, -3.5 | -1.25, 1, -4.5
                #     of old pairs shrink, those of
                # the newest (6, -3.5, -4.5) do not: 6 | -2.5 * 0.8 = -2, -3.5 | -1.25 * 0.8 * 0.001 = -0.001,
                #     0.001, -4.5.
                [[12, -18, 3], [3, -8, -11.5], [-22.504, 2.257, 18.0025]],
                # Per channel, decays (0.5, 0.3), (0.8, 0.4), (0.25, 0.6). k_1 becomes (2.4, 0.8) at t = 2,
                # (0.6,
                # 0.48) at t = 3, and k_2 becomes (0.5, -0.3) at t = 3. Scores 6 | (-7.2 + 1.6) / 2 = -2.8,
                # -3.5 | (0.3 - 0.96) / 2 = -0.33, (0.25 + 0.6) / 2 = 0.425, -4.5.
                [[12, -18, 3], [1.4, -5.6, -11.9], [-24.01, 4.94, 19.11]],
            )
        )
        head = torch.tensor([[[0.5], [0.8], [0.001]]], dtype=torch.float64).log()
        channel = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64).log()[
            None, :, None
        ]
        return (
            Worked(Problem(cls("head"), Linear(scale=0.5), OneStep()), q, k, v, by_head, {"log_decay": head}),
            Worked(
                Problem(cls("channel"), Linear(scale=0.5), OneStep()),
                q,
                k,
                v,
                by_channel,
                {"log_decay": channel},
            ),
        )
