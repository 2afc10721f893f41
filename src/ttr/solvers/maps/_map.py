"""What maps of matrices share."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ttr.component import Component
from ttr.forms.network import Mirror


class _Map(Component):
    """A map of matrices [..., F, V] to matrices of the same shape; biases are left as they are.

    ``condition``: by how much it may magnify rounding errors.
    """

    kind: ClassVar[str] = "map"
    formula: ClassVar[str] = ""
    condition: ClassVar[float] = 1.0

    def mirror(self) -> Mirror | None:
        """Its description for engines that do not call it; None if it has none."""
        return None

    def __call__(self, matrix: Tensor) -> Tensor:
        raise NotImplementedError
