from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from ttr.component import Parameter, constant
from ttr.functions.features import _kernel_case
from ttr.functions.features.symmetric_power import SymmetricPower
from ttr.problem import FeatureMap, Worked


@dataclass(frozen=True)
class Rebased(FeatureMap):
    """phi(q).phi(k) = (q~.k~)^2 / K with x~ = LayerNorm(x) gain + bias: a learned square (ReBased, arXiv
    2402.10644).

    Gain and bias are shared by the heads, and by queries and keys unless the function unties them.
    """

    eps: float = 1e-5

    def size(self, key_size: int) -> int:
        return SymmetricPower(2).size(key_size)

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return {"gain": Parameter((key_size,), constant(1.0)), "bias": Parameter((key_size,), constant(0.0))}

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return SymmetricPower(2)(layer_norm(x, x.shape[-1:], params["gain"], params["bias"], self.eps), {})

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

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        # Two channels m - h, m + h have variance h^2 and become -r, r with r = h / (h^2 + eps)^(1/2): eps =
        # 48 gives r = 1/7, 1/2, 11/13 for h = 1, 4, 11. Times (2, 3), plus (-0.5, 0.25): x~ = (-2 r - 0.5, 3
        # r + 0.25), and q~.k~ = 13 r s + 1.75 (r + s) + 0.3125 for a query with r and a key with s.
        q, k = [[3, 5], [6, -2], [-9, 13]], [[2, -6], [-7, -5], [8, -14]]
        r, s = [1 / 7, -1 / 2, 11 / 13], [-1 / 2, 1 / 7, -11 / 13]
        kernel = [
            [(13 * r[t] * s[i] + 1.75 * (r[t] + s[i]) + 0.3125) ** 2 / 2 for i in range(t + 1)]
            for t in range(3)
        ]
        params = {"gain": torch.tensor([2.0, 3.0]), "bias": torch.tensor([-0.5, 0.25])}
        return (_kernel_case.worked(cls(eps=48.0), q, k, kernel, params),)
