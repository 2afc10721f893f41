from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, constant, normal
from ttr.functions.features import _kernel_case
from ttr.problem import FeatureMap, Worked


@dataclass(frozen=True)
class RandomFourier(FeatureMap):
    """phi(x) = c [sin(W x^), cos(W x^)] with x^ = x / (||x|| + eps) (random feature attention, arXiv
    2103.02143).

    The rows of W are sigma w_r / tau, w_r normal and frozen, sigma learned per head and channel.
    phi(q).phi(k) is c^2 sum_r cos(W_r.(q^ - k^)), for unit vectors and sigma = 1 in the mean number c^2
    exp((q^.k^ - 1) / tau^2).

    Args:
        number: of random directions; there are two features for each.
        amplitude: c; ``number``^(-1/2) if None, which makes the kernel a mean.
    """

    number: int = 64
    tau: float = 1.0
    amplitude: float | None = None
    eps: float = 1e-3

    def __post_init__(self) -> None:
        if self.number < 1 or not self.tau > 0:
            raise ValueError(
                f"{self!r} has no kernel. Use a number of directions from 1 on and a tau above 0."
            )

    def size(self, key_size: int) -> int:
        return 2 * self.number

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {
            "directions": Parameter((heads, self.number, key_size), normal, trainable=False),
            "sigma": Parameter((heads, key_size), constant(1.0)),
        }

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        unit = x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + self.eps)
        angle = torch.einsum("...hk,hmk->...hm", unit * params["sigma"], params["directions"]) / self.tau
        amplitude = self.number**-0.5 if self.amplitude is None else self.amplitude
        return amplitude * torch.cat([angle.sin(), angle.cos()], dim=-1)

    def formulas(self) -> dict[str, str]:
        scale = "" if self.tau == 1 else f" / {self.tau:g}"
        amplitude = "m^(-1/2)" if self.amplitude is None else f"{self.amplitude:g}"
        return {
            "features": f"phi(x) = c (sin(W x~), cos(W x~)), x~ = x / (||x|| + {self.eps:g}), c = "
            f"{amplitude}, W_r = sigma * omega_r{scale}, "
            f"r = 1, ..., m = {self.number}, omega_r fixed and normal, sigma learned"
        }

    @classmethod
    def examples(cls) -> tuple[RandomFourier, ...]:
        return (cls(number=3), cls(number=2, tau=0.7, amplitude=0.5))

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        # All vectors have whole norms: 5, 10, 13 and 5, 13, 10. With eps = 5 they become (0.3, 0.4), (6, -8)
        # / 15, (-5, 12) / 18 and (-0.4, 0.3), (12, 5) / 18, (8, 6) / 15. W = (2, -0.5) w / 0.8 has the rows
        # (1.25, 0.9375), (5, -0.15625), (-3, 1.5625). The kernel is c^2 times the sum of cos(W_r.(q^ - k^)),
        # with c = 0.6 or 3^(-1/2).
        q, k = [[3, 4], [6, -8], [-5, 12]], [[-4, 3], [12, 5], [8, 6]]
        q_unit, k_unit = (
            [(0.3, 0.4), (0.4, -8 / 15), (-5 / 18, 12 / 18)],
            [(-0.4, 0.3), (12 / 18, 5 / 18), (8 / 15, 0.4)],
        )
        rows = [(1.25, 0.9375), (5, -0.15625), (-3, 1.5625)]
        total = [
            [
                sum(
                    math.cos(a * (q_unit[t][0] - k_unit[i][0]) + b * (q_unit[t][1] - k_unit[i][1]))
                    for a, b in rows
                )
                for i in range(t + 1)
            ]
            for t in range(3)
        ]
        params = {
            "directions": torch.tensor([[[0.5, -1.5], [2, 0.25], [-1.2, -2.5]]], dtype=torch.float64),
            "sigma": torch.tensor([[2, -0.5]], dtype=torch.float64),
        }
        return tuple(
            _kernel_case.worked(
                cls(3, 0.8, amplitude, 5.0), q, k, [[square * s for s in row] for row in total], params
            )
            for amplitude, square in ((0.6, 0.36), (None, 1 / 3))
        )
