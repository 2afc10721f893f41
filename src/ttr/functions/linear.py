from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ttr.component import Parameter
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.hedgehog import Hedgehog
from ttr.functions.features.identity import Identity
from ttr.problem import FeatureMap, Function, scale_or_default


@dataclass(frozen=True)
class Linear(Function):
    """m(k) = S^T phi(k), a linear map of features of the key; the read-out is scale * S^T phi(q).

    With ``normalized`` the read-out is divided by that of the same memory with the value 1, plus ``eps``: a
    ratio of two fits, equally a local constant with the kernel phi(q).phi(k). With ``floor`` the divisor is
    instead clamped to at least that number, with ``absolute`` its absolute value. ``scale`` None means
    K**-0.5. Without ``tied``, queries and keys have separate feature parameters, "function.query.NAME" and
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
                f"{self!r} has a floor or an absolute value without a divisor. Use floor with "
                "normalized=True, and absolute with floor."
            )

    @property
    def keeps_channels(self) -> bool:
        return self.features.keeps_channels

    @property
    def kernelised(self) -> bool:
        return self.features.of_dot_product

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
        return scale_or_default(self.scale, q.shape[-1]) * self.features(q, self.of_side("query", params))

    def key(self, k: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return self.features(k, self.of_side("key", params))

    def of_side(self, side: str, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
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
            features = {title: f"{text}, separate for queries and keys" for title, text in features.items()}
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
