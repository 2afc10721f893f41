from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.solvers.maps._map import _Map

MUON = ((3.4445, -4.775, 2.0315),) * 5
"""The coefficients of Muon, which bring singular values near 1: to 0.69..1.05."""


@dataclass(frozen=True)
class NewtonSchulz(_Map):
    """The nearest matrix with orthonormal rows or columns, nearly: X <- a X + (b A + c A A) X with A = X X^T,
    from X = G / (||G||_F + eps).

    One triple (a, b, c) per iteration. After Muon (Jordan et al. 2024), used in LaCT (arXiv 2505.23884) and
    ATLAS (2505.23735).
    """

    coefficients: tuple[tuple[float, float, float], ...] = MUON
    eps: float = 1e-7

    @property
    def formula(self) -> str:
        told = [f"({a:g}, {b:g}, {c:g})" for a, b, c in dict.fromkeys(self.coefficients)]
        told = f"= {told[0]}" if len(told) == 1 else f"from {told[0]} to {told[-1]}"
        return (
            f"NS(G) ~ the nearest orthonormal matrix, {len(self.coefficients)} times X <- a X + (b Y + "
            "c Y Y) X "
            f"from X = G / (||G|| + {self.eps:g}), Y = X X^T, (a, b, c) {told}"
        )

    def __call__(self, matrix: Tensor) -> Tensor:
        tall = matrix.shape[-2] > matrix.shape[-1]
        x = matrix.mT if tall else matrix
        x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + self.eps)
        for a, b, c in self.coefficients:
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.mT if tall else x

    @property
    def condition(self) -> float:
        """How much singular values near 0, and what rounding makes of those that are 0, grow beside the norm
        of G."""
        return math.prod(a for a, _, _ in self.coefficients)

    @classmethod
    def examples(cls) -> tuple[NewtonSchulz, ...]:
        return (cls(), cls(((2.0, -1.5, 0.5), (1.5, -0.5, 0.25))))
