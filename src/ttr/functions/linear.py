from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.identity import Identity
from ttr.functions.features.taylor import Taylor
from ttr.problem import FeatureMap, Function, Parameter, scale_or_default


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

    @classmethod
    def examples(cls) -> tuple[Linear, ...]:
        return (cls(), cls(features=EluPlusOne(), normalized=True), cls(features=Taylor(), scale=0.7))
