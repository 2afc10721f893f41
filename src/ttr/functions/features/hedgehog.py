from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.functions.features import _kernel_case
from ttr.problem import FeatureMap, Worked


@dataclass(frozen=True)
class Hedgehog(FeatureMap):
    """phi(x) = softmax([2z, -2z]) over all 2K entries, with a learned z = W x + b per head (Hedgehog, arXiv
    2402.04347).

    W starts as the identity and b at 0. This is the map of flash-linear-attention; other releases take two
    softmaxes, of z and of -z.
    """

    def size(self, key_size: int) -> int:
        return 2 * key_size

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {
            "weight": Parameter((heads, key_size, key_size), _identity),
            "bias": Parameter((heads, key_size), constant(0.0)),
        }

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        z = torch.einsum("...hk,hjk->...hj", x, params["weight"]) + params["bias"]
        return torch.cat([2 * z, -2 * z], dim=-1).softmax(-1)

    def formulas(self) -> dict[str, str]:
        return {"features": "phi(x) = softmax((2 z, -2 z)), z = W x + b with learned W and b"}

    @classmethod
    def examples(cls) -> tuple[Hedgehog, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        # W and b are multiples of ln 2 / 2, so that exp(2 z) = 2^n with n = (x_1 + x_2 / 2 - 1, x_1 / 2 - x_2
        # + 2): n = (3, -1), (-2, -1), (4, 2) for the queries, (2, 1), (-4, -2), (6, -2) for the keys. With
        # c(n) = 2^n + 2^-n phi(q).phi(k) = (c(n_1 + m_1) + c(n_2 + m_2)) / ((c(n_1) + c(n_2)) (c(m_1) +
        # c(m_2))) for a query with n and a key with m.
        q, k = [[2, 4], [-2, 2], [4, 2]], [[2, 2], [-4, 2], [4, 6]]
        n, m = [(3, -1), (-2, -1), (4, 2)], [(2, 1), (-4, -2), (6, -2)]

        def c(a, b=(0, 0)):
            return sum(2.0 ** (i + j) + 2.0 ** -(i + j) for i, j in zip(a, b))

        kernel = [[c(n[t], m[i]) / (c(n[t]) * c(m[i])) for i in range(t + 1)] for t in range(3)]
        weight, bias = (
            math.log(2) / 2 * torch.tensor(rows, dtype=torch.float64)[None]
            for rows in ([[1, 0.5], [0.5, -1]], [-1, 2])
        )
        return (_kernel_case.worked(cls(), q, k, kernel, {"weight": weight, "bias": bias}),)


def _identity(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.eye(shape[-1]).repeat(*shape[:-2], 1, 1)
