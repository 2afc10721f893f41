from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Parameter, constant
from ttr.problem import FeatureMap


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


def _identity(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.eye(shape[-1]).repeat(*shape[:-2], 1, 1)
