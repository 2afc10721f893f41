from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import layer_norm

from ttr.component import Parameter, constant
from ttr.functions.features.symmetric_power import SymmetricPower
from ttr.problem import FeatureMap


@dataclass(frozen=True)
class Rebased(FeatureMap):
    """phi(q).phi(k) = (q~.k~)^2 / K with x~ = LayerNorm(x) gain + bias: a learned square (ReBased, arXiv
    2402.10644).

    Gain and bias are shared by the heads, and by queries and keys unless the function unties them.
    """

    eps: float = 1e-5

    of_dot_product: ClassVar[bool] = True

    def inner(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return SymmetricPower(2).inner(self._normed(x, params), {})

    def kernel(self, products: Tensor) -> Tensor:
        return SymmetricPower(2).kernel(products)

    def size(self, key_size: int) -> int:
        return SymmetricPower(2).size(key_size)

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {"gain": Parameter((key_size,), constant(1.0)), "bias": Parameter((key_size,), constant(0.0))}

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return SymmetricPower(2)(self._normed(x, params), {})

    def _normed(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return layer_norm(x, x.shape[-1:], params["gain"], params["bias"], self.eps)

    def formulas(self) -> dict[str, str]:
        return {
            "features": (
                "phi(q)^T phi(k) = (q~^T k~)^2 / K, x~ = LN(x) with learned gain and shift, "
                f"eps = {self.eps:g}"
            )
        }

    @classmethod
    def examples(cls) -> tuple[Rebased, ...]:
        return (cls(),)
