"""Feature maps as an abstract class: what is applied to queries and keys before a linear function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ttr.component import Component


class FeatureMap(Component):
    """A map phi applied to queries and keys before a linear function."""

    kind: ClassVar[str] = "feature"
    identity: ClassVar[bool] = False
    """Whether phi(x) = x."""
    keeps_channels: ClassVar[bool] = False
    """Whether entry i of phi(x) depends on entry i of x alone, so that a decay per key channel keeps its
    meaning."""

    def formulas(self) -> dict[str, str]:
        """The map as a formula for ``ttr.explain``, under the title "features": "phi(x) = elu(x) + 1"."""
        return {}

    def size(self, key_size: int) -> int:
        """Number F of features of a key of size K."""
        return key_size

    def __call__(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """phi(x): [..., H, K] -> [..., H, F]; ``params`` are those that ``parameters`` declares."""
        raise NotImplementedError

    of_dot_product: ClassVar[bool] = False
    """Whether phi(q).phi(k) = kernel(inner(q).inner(k)), with ``inner`` shorter than phi."""

    def inner(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """The vectors whose dot product ``kernel`` takes, [..., H, K] -> [..., H, R]."""
        raise NotImplementedError

    def kernel(self, products: Tensor) -> Tensor:
        """phi(q).phi(k) of the dot products of ``inner``, entry by entry."""
        raise NotImplementedError
