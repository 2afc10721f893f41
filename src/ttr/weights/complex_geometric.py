from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ttr.axes import with_resets
from ttr.problem import Problem, Worked
from ttr.weights._rotating import _Rotating


@dataclass(frozen=True)
class ComplexGeometric(_Rotating):
    """Input-dependent forgetting and turning: gamma_i^(t) = prod_{i<j<=t} exp(log_decay_j + i phase_j).

    With real ``values`` the read-out is Re(S)^T q, so that a pair counts |gamma| cos(angle) (GateLoop, arXiv
    2311.01927). With ``values="complex"`` neighbouring value channels are real and imaginary parts and the
    read-out is complex as well, as in a linear recurrent unit (LRU, arXiv 2303.06349). A log decay below
    ``RESET`` forgets the past altogether.
    """

    per: Literal["head", "channel"] = "head"
    values: Literal["real", "complex"] = "real"

    def __post_init__(self) -> None:
        if self.per not in ("head", "channel"):
            raise ValueError(
                f"ComplexGeometric(per={self.per!r}) is unknown. Use per='head' or per='channel'."
            )
        if self.values not in ("real", "complex"):
            raise ValueError(
                f"ComplexGeometric(values={self.values!r}) is unknown. Use values='real' or values='complex'."
            )
        if self.values == "complex" and self.per == "channel":
            raise ValueError(
                "Complex values turn as a whole, with one phase per head. Use per='head', and "
                "a head for every channel."
            )

    @property
    def retention(self) -> Literal["head", "channel"]:
        return self.per

    @property
    def rotation(self) -> Literal["head", "channel"]:
        return self.per

    @property
    def complex_values(self) -> bool:
        return self.values == "complex"

    def controls(self) -> dict[str, str]:
        axes = "BTH" if self.per == "head" else "BTHK"
        return {"log_decay": axes, "phase": axes}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        log_decay = controls["log_decay"]
        return with_resets(log_decay)

    def phase(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], like: Tensor) -> Tensor:
        return controls["phase"]

    def formulas(self) -> dict[str, str]:
        channels = ", one for every key channel" if self.per == "channel" else ""
        told = {
            "decay": "D_t = diag(a_t)" if channels else "D_t = a_t",
            "approximation": "The weight of a pair may be negative, so there is no convex squared error "
            "behind it. The read-out is still "
            "one gradient step on the linearised loss."
            + (" A weight per key channel is no weight of a pair, besides." if channels else ""),
        }
        if self.complex_values:
            return told | {
                "weight": "gamma_i^(t) = prod_{i<j<=t} a_j, a_t = exp(log_decay_t + sqrt(-1) "
                "phase_t), v_t and y_t complex: "
                "neighbouring channels are real and imaginary part",
                "approximation": "A complex weight is no weight of a squared error. The read-out "
                "is still one gradient step on the "
                "linearised loss.",
            }
        return (
            told
            | super().formulas()
            | {
                "weight": "gamma_i^(t) = cos(sum_{i<j<=t} phase_j) prod_{i<j<=t} exp(log_decay_j) = "
                "Re(prod_{i<j<=t} a_j), "
                f"a_t = exp(log_decay_t + sqrt(-1) phase_t){channels}"
            }
        )

    @classmethod
    def examples(cls) -> tuple[ComplexGeometric, ...]:
        return (cls("head"), cls("channel"), cls("head", "complex"))

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
                # Per head, decays 0.5, 0.8, 0.25 and phases (any), 60, -120 degrees. cos 60 = 1/2 and cos
                # -120 = -1/2; together they
                # turn k_1 by -60: 1/2. Scores q_t.k_i / 2 = 6 | -2.5 * 0.8/2 = -1, -3.5 | -1.25 * 0.2/2 =
                #     -0.125,
                #     -0.25/2 = -0.125, -4.5.
                [[12, -18, 3], [5, -11, -11], [-22.5, 2.125, 17.5625]],
                # Per channel, decays (0.5, 0.3), (0.8, 0.4), (0.25, 0.6), phases (60, 180), (-120, 120) at t
                # = 2,
                # 3. Of k_1 remain (3 * 0.8/2, -2 * 0.4) = (1.2, -0.8) at t = 2, and angles (-60, 300) at t =
                #     3:
                # (3 * 0.2/2, 2 * 0.24/2) = (0.3, 0.24); of
                # k_2 at t = 3: (-2 * 0.25/2, 0.5 * 0.6/2) = (-0.25, 0.15).
                # Scores 6 | (-3.6 - 1.6)/2 = -2.6, -3.5 | (0.15 - 0.48)/2 = -0.165, (-0.125 - 0.3)/2 =
                # -0.2125,
                # -4.5.
                [[12, -18, 3], [1.8, -6.2, -11.8], [-22.405, 1.895, 17.28]],
            )
        )
        # Complex values 2-3i | -2+4i | 5-0.5i, decays 0.5, 0.8, 0.25, phases (any), 180, 90 degrees: the
        # first pair counts -0.8 at t = 2 and -0.2i at t = 3, the second 0.25i.
        q3, k3, v2, whole = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3, 0.5], [-3, 2, 0.5], [0.5, -2, 0.5]],
                [[3, 2, -2], [2, -0.5, -2], [-2, 4, -2]],
                [[2, -3], [-2, 4], [5, -0.5]],
                # Scores q_t.k_i / 2 = 5.5 | -3 * -0.8 = 2.4, -4 | -1.75 * -0.2i = 0.35i, 0.5 * 0.25i =
                # 0.125i,
                # -5.
                # 0.35i (2-3i) = 1.05 + 0.7i, 0.125i (-2+4i) = -0.5 - 0.25i, -5 (5-0.5i) = -25 + 2.5i.
                [[11, -16.5], [12.8, -23.2], [-24.45, 2.95]],
            )
        )
        sixth = torch.pi / 3
        decay, phase = (
            torch.tensor(x, dtype=torch.float64)[None]
            for x in ([[0.5], [0.8], [0.25]], [[0.7], [sixth], [-2 * sixth]])
        )
        decays = torch.tensor([[0.5, 0.3], [0.8, 0.4], [0.25, 0.6]], dtype=torch.float64)[None, :, None]
        phases = torch.tensor([[0.7, 0.2], [sixth, 3 * sixth], [-2 * sixth, 2 * sixth]], dtype=torch.float64)[
            None, :, None
        ]
        quarter = torch.tensor([[[0.7], [torch.pi], [torch.pi / 2]]], dtype=torch.float64)
        linear, solver = Linear(scale=0.5), OneStep()
        return (
            Worked(
                Problem(cls("head"), linear, solver),
                q,
                k,
                v,
                by_head,
                {"log_decay": decay.log(), "phase": phase},
            ),
            Worked(
                Problem(cls("channel"), linear, solver),
                q,
                k,
                v,
                by_channel,
                {"log_decay": decays.log(), "phase": phases},
            ),
            Worked(
                Problem(cls("head", "complex"), linear, solver),
                q3,
                k3,
                v2,
                whole,
                {"log_decay": decay.log(), "phase": quarter},
            ),
        )
