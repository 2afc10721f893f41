from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ttr.component import Parameter
from ttr.functions.features import _kernel_case
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.hedgehog import Hedgehog
from ttr.functions.features.identity import Identity
from ttr.problem import FeatureMap, Function, Problem, Worked, scale_or_default


@dataclass(frozen=True)
class Linear(Function):
    """m(k) = S^T phi(k), a linear map of features of the key; the read-out is scale * S^T phi(q).

    With ``normalized`` the read-out is divided by that of the same memory with the value 1, plus ``eps``: a
    ratio of two fits, equally a local constant with the kernel phi(q).phi(k). With ``floor`` the divisor is
    instead at least that number, and with ``absolute`` its absolute value is. ``scale`` None means K**-0.5.
    Not ``tied``, queries and keys have features with parameters of their own, "function.query.NAME" and
    "function.key.NAME".
    """

    features: FeatureMap = field(default_factory=Identity)
    normalized: bool = False
    scale: float | None = None
    eps: float = 1e-10
    floor: float | None = None
    absolute: bool = False
    tied: bool = True

    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(
                f"Linear(eps={self.eps}) lets an empty memory divide 0 by 0. Use a number "
                "above 0, such as 1e-10."
            )
        if self.floor is not None and not self.floor > 0:
            raise ValueError(
                f"Linear(floor={self.floor}) lets an empty memory divide 0 by 0. Use a number "
                "above 0, such as 1, or None."
            )
        if (
            (self.floor is not None or self.absolute)
            and not self.normalized
            or self.absolute
            and self.floor is None
        ):
            raise ValueError(
                f"{self!r} does not say what is divided. Use floor with normalized=True, and "
                "absolute with floor."
            )

    @property
    def keeps_channels(self) -> bool:
        return self.features.keeps_channels

    def parameters(self, heads: int, key_size: int, value_size: int) -> dict[str, Parameter]:
        own = self.features.parameters(heads, key_size, value_size)
        return (
            own
            if self.tied
            else {f"{side}.{name}": p for side in ("query", "key") for name, p in own.items()}
        )

    def feature_size(self, key_size: int) -> int:
        return self.features.size(key_size)

    def plain_scale(self, key_size: int) -> float | None:
        return scale_or_default(self.scale, key_size) if self.features.identity else None

    def query(self, q: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return scale_or_default(self.scale, q.shape[-1]) * self.features(q, self._of("query", params))

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return self.features(k, self._of("key", params))

    def _of(self, side: str, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The features' own parameters for queries or keys."""
        return (
            params
            if self.tied
            else {
                name.removeprefix(f"{side}."): x for name, x in params.items() if name.startswith(f"{side}.")
            }
        )

    def ratio(self, numerator: Tensor, denominator: Tensor, unit: Tensor | float = 1.0) -> Tensor:
        if self.floor is None:
            return numerator / (denominator + self.eps * unit)
        return numerator / (denominator.abs() if self.absolute else denominator).clamp(min=self.floor * unit)

    def formulas(self) -> dict[str, str]:
        scale = "s = K^(-1/2)" if self.scale is None else f"s = {self.scale:g}"
        features = self.features.formulas()
        if not self.tied and self.parameters(1, 1, 1):
            features = {title: f"{text}, apart for queries and keys" for title, text in features.items()}
        formulas = {
            "prediction": "m(k) = S^T phi(k)",
            **features,
            "read-out": "y_t = s S_t^T phi(q_t)",
            "scale": scale,
        }
        if not self.normalized:
            return formulas
        total = "s z_t^T phi(q_t)"
        divisor = (
            f"({total} + eps), eps = {self.eps:g}"
            if self.floor is None
            else (f"max({f'|{total}|' if self.absolute else total}, {self.floor:g})")
        )
        where = "" if self.floor is None else " wherever the floor does not act"
        return formulas | {
            "read-out": f"y_t = s S_t^T phi(q_t) / {divisor}",
            "normalisation": "z_t = sum_{i<=t} gamma_i^(t) phi(k_i), the same memory of the value 1",
            "approximation": "The read-out is a ratio of two fits, of the values and of the number 1, not "
            "the prediction of one linear map. "
            "Equally it is the exact local constant with the kernel phi(q)^T "
            f"phi(k){where}.",
        }

    @classmethod
    def examples(cls) -> tuple[Linear, ...]:
        return (
            cls(),
            cls(features=EluPlusOne(), normalized=True),
            cls(features=Hedgehog(), tied=False, scale=0.7),
            cls(normalized=True, floor=0.5, absolute=True),
        )

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.solvers.one_step import OneStep
        from ttr.weights.uniform import Uniform

        r = 0.5**0.5
        q, k, v, plain, ratio, floored, absolute = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
                # The scores q_t.k_i = 12 | -5, -7 | -2.5, 2, -9 times the default scale r = 1 / sqrt(2),
                # times v_i.
                [[24 * r, -36 * r, 6 * r], [4 * r, -13 * r, -23.5 * r], [-54 * r, 20 * r, 40.75 * r]],
                # Scores phi(q_t).phi(k_i) / 2 with elu + 1: 12 | 2 e^-3 + 4.5 = 4.599574136736, 1.5 (e^-3 +
                # e^-0.5) = 0.984476592121 | 3 + 1.5 e^-2 = 3.203002924855, 2.25 + 0.5 e^-2.5 =
                # 2.291042499312,
                # 3.25 e^-2 = 0.439839670519. Their sums times v_i, divided by
                # their sums plus eps = 0.25: 12.25 | 5.834050728856 | 6.183885094686.
                [
                    [24 / 12.25, -36 / 12.25, 6 / 12.25],
                    [1.239309602412, -1.690217740643, 0.900440721015],
                    [0.650581170588, -0.107498538928, 1.085930636722],
                ],
                # Plain scores over 2: 6 | -2.5, -3.5 | -1.25, 1, -4.5, with sums 6, -6, -4.75. With a floor
                # of 5 the divisors are 6, 5, 5, and 6, 6, 5 with absolute values.
                [[2, -3, 0.5], [0.4, -1.3, -2.35], [-5.4, 2, 4.075]],
                [[2, -3, 0.5], [2 / 6, -6.5 / 6, -11.75 / 6], [-5.4, 2, 4.075]],
            )
        )
        return (
            Worked(Problem(Uniform(), cls(), OneStep()), q, k, v, plain),
            Worked(
                Problem(Uniform(), cls(EluPlusOne(), normalized=True, scale=0.5, eps=0.25), OneStep()),
                q,
                k,
                v,
                ratio,
            ),
            Worked(
                Problem(Uniform(), cls(normalized=True, scale=0.5, floor=5.0), OneStep()), q, k, v, floored
            ),
            Worked(
                Problem(Uniform(), cls(normalized=True, scale=0.5, floor=5.0, absolute=True), OneStep()),
                q,
                k,
                v,
                absolute,
            ),
            cls._worked_untied(),
        )

    @classmethod
    def _worked_untied(cls) -> Worked:
        # Hedgehog with W and b in multiples of ln 2 / 2, so that exp(2 z) = 2^n: n = (x_1 + x_2 / 2 - 1, x_1
        # / 2 - x_2 + 2) for queries, (x_1 / 2 - x_2 / 2 + 3, 2 x_1 + x_2 / 2 - 2) for keys. With c(n) = 2^n +
        # 2^-n the kernel is (c(n_1 + m_1) + c(n_2 + m_2)) / ((c(n_1) + c(n_2)) (c(m_1) + c(m_2))) for a query
        # with n and a key with m.
        n, m = [(3, -1), (-2, -1), (4, 2)], [(3, 3), (3, -7), (2, 4)]

        def c(a, b=(0, 0)):
            return sum(2.0 ** (i + j) + 2.0 ** -(i + j) for i, j in zip(a, b))

        kernel = [[c(n[t], m[i]) / (c(n[t]) * c(m[i])) for i in range(t + 1)] for t in range(3)]
        multiples = {
            "query.weight": [[1, 0.5], [0.5, -1]],
            "query.bias": [-1, 2],
            "key.weight": [[0.5, -0.5], [2, 0.5]],
            "key.bias": [3, -2],
        }
        params = {
            name: math.log(2) / 2 * torch.tensor(rows, dtype=torch.float64)[None]
            for name, rows in multiples.items()
        }
        return _kernel_case.worked(
            Hedgehog(), [[2, 4], [-2, 2], [4, 2]], [[2, 2], [-2, -2], [2, 4]], kernel, params, tied=False
        )
