from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.identity import Identity
from ttr.functions.features.taylor import Taylor
from ttr.problem import FeatureMap, Function, Problem, Worked, scale_or_default


@dataclass(frozen=True)
class Linear(Function):
    """m(k) = S^T phi(k), a linear map of features of the key; the read-out is scale * S^T phi(q).

    With ``normalized`` the read-out is divided by that of the same memory with the value 1, plus ``eps``: a ratio of two
    fits, equally a local constant with the kernel phi(q).phi(k). ``scale`` None means K**-0.5.
    """

    features: FeatureMap = field(default_factory=Identity)
    normalized: bool = False
    scale: float | None = None
    eps: float = 1e-10

    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"Linear(eps={self.eps}) lets an empty memory divide 0 by 0. Use a number above 0, such as 1e-10.")

    @property
    def keeps_channels(self) -> bool:
        return self.features.keeps_channels

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        return self.features.parameters(heads, key_size, value_size)

    def feature_size(self, key_size: int) -> int:
        return self.features.size(key_size)

    def query(self, q: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return scale_or_default(self.scale, q.shape[-1]) * self.features(q, params)

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return self.features(k, params)

    def formulas(self) -> dict[str, str]:
        scale = "s = K^(-1/2)" if self.scale is None else f"s = {self.scale:g}"
        formulas = {"prediction": "m(k) = S^T phi(k)", **self.features.formulas(), "read-out": "y_t = s S_t^T phi(q_t)", "scale": scale}
        if not self.normalized:
            return formulas
        return formulas | {
            "read-out": f"y_t = s S_t^T phi(q_t) / (s z_t^T phi(q_t) + eps), eps = {self.eps:g}",
            "normalisation": "z_t = sum_{i<=t} gamma_i^(t) phi(k_i), the same memory of the value 1",
            "approximation": "The read-out is a ratio of two fits, of the values and of the number 1, not the prediction of one linear map. "
                             "Equally it is the exact local constant with the kernel phi(q)^T phi(k)."}

    @classmethod
    def examples(cls) -> tuple[Linear, ...]:
        return (cls(), cls(features=EluPlusOne(), normalized=True), cls(features=Taylor(), scale=0.7))

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.solvers.one_step import OneStep
        from ttr.weights.uniform import Uniform

        r = 0.5**0.5
        q, k, v, plain, ratio = (torch.tensor(rows, dtype=torch.float64)[None, :, None] for rows in (
            [[2, 3], [-3, 2], [0.5, -2]],
            [[3, 2], [2, -0.5], [-2, 4]],
            [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            # The scores q_t.k_i = 12 | -5, -7 | -2.5, 2, -9 times the default scale r = 1 / sqrt(2), times v_i.
            [[24 * r, -36 * r, 6 * r], [4 * r, -13 * r, -23.5 * r], [-54 * r, 20 * r, 40.75 * r]],
            # Scores phi(q_t).phi(k_i) / 2 with elu + 1: 12 | 2 e^-3 + 4.5 = 4.599574136736, 1.5 (e^-3 + e^-0.5) = 0.984476592121 |
            # 3 + 1.5 e^-2 = 3.203002924855, 2.25 + 0.5 e^-2.5 = 2.291042499312, 3.25 e^-2 = 0.439839670519. Their sums times v_i, divided by
            # their sums plus eps = 0.25: 12.25 | 5.834050728856 | 6.183885094686.
            [[24 / 12.25, -36 / 12.25, 6 / 12.25], [1.239309602412, -1.690217740643, 0.900440721015],
             [0.650581170588, -0.107498538928, 1.085930636722]],
        ))
        return (Worked(Problem(Uniform(), cls(), OneStep()), q, k, v, plain),
                Worked(Problem(Uniform(), cls(EluPlusOne(), normalized=True, scale=0.5, eps=0.25), OneStep()), q, k, v, ratio))
