from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, normal
from ttr.functions.features import _kernel_case
from ttr.problem import FeatureMap, Worked


@dataclass(frozen=True)
class Dijiang(FeatureMap):
    """phi(x) = softmax(x C D): C the orthogonal cosine transform (DCT-II), D a frozen diagonal of normal
    numbers that the heads share (DiJiang, arXiv 2403.19928)."""

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {"diagonal": Parameter((key_size,), normal, trainable=False)}

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        size = x.shape[-1]
        channel = torch.arange(size, dtype=x.dtype, device=x.device)
        transform = (
            torch.cos(math.pi / max(size, 1) * channel[:, None] * (channel + 0.5)) * (2 / max(size, 1)) ** 0.5
        )
        transform = torch.cat([transform[:1] / 2**0.5, transform[1:]])
        return (x @ (transform * params["diagonal"])).softmax(-1)

    def formulas(self) -> dict[str, str]:
        return {
            "features": (
                "phi(x) = softmax(D C^T x), C the cosine transform (DCT-II), D a fixed random diagonal"
            )
        }

    @classmethod
    def examples(cls) -> tuple[Dijiang, ...]:
        return (cls(),)

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        # For K = 3 the rows of C are (1, 1, 1) / 3^(1/2), (1, 0, -1) / 2^(1/2) and (1, -2, 1) / 6^(1/2). With
        # x = (3^(1/2) a, 2^(1/2) b, 6^(1/2) c) the product x C is (a + b + c, a - 2 c, a - b + c), and with
        # the diagonal ln 2 (2, -0.5, 1) the softmax is that of powers of 2.
        whole_q, whole_k = (
            [(2, -1.5, 0.5), (-2, 2.5, 1.5), (0.5, -2, 2.5)],
            [(1.5, 0.5, -1), (-2, 3, 2), (0.5, 2, -2.5)],
        )

        def vector(a, b, c):
            return [math.sqrt(3) * a, math.sqrt(2) * b, math.sqrt(6) * c]

        def phi(a, b, c):
            powers = [2.0 ** (2 * (a + b + c)), 2.0 ** (-0.5 * (a - 2 * c)), 2.0 ** (a - b + c)]
            return [power / sum(powers) for power in powers]

        kernel = [
            [sum(x * y for x, y in zip(phi(*whole_q[t]), phi(*whole_k[i]))) for i in range(t + 1)]
            for t in range(3)
        ]
        diagonal = math.log(2) * torch.tensor([2, -0.5, 1], dtype=torch.float64)
        return (
            _kernel_case.worked(
                cls(),
                [vector(*x) for x in whole_q],
                [vector(*x) for x in whole_k],
                kernel,
                {"diagonal": diagonal},
            ),
        )
