"""What losses share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ttr.component import Component


class _Loss(Component):
    """A loss of one prediction [..., V] beside its value [..., V].

    ``controls`` are those of the pair. The definition differentiates the call; engines use ``slope``, written
    apart from it. With a ``power`` p the slope is e |e|^(p - 2) for every entry e of prediction - value, and
    ``clipped`` says that its length is cut to the control threshold. ``formula`` is the loss of m at v for
    ``ttr.explain``, ``note`` a sentence on where it leaves the squared error.
    """

    kind: ClassVar[str] = "loss"
    power: ClassVar[float | None] = None
    clipped: ClassVar[bool] = False
    formula: ClassVar[str] = ""
    note: ClassVar[str] = ""

    def __call__(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        """The loss, [...]."""
        raise NotImplementedError

    def slope(self, prediction: Tensor, value: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        """Its derivative in the prediction, [..., V]."""
        raise NotImplementedError
