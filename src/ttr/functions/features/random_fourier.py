from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, constant, normal
from ttr.problem import FeatureMap


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
