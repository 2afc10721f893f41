from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ttr.decay import numbers_of_heads, of_heads
from ttr.problem import Weights


@dataclass(frozen=True)
class LayerwiseDecay(Weights):
    """Fixed decay exp(-m) with m = 2^(-exponent (h+1) / H) (1 - l / (L - 1 + 1e-5) + 1e-5) in head h of H,
    layer l of L: almost no decay in the last layer (Lightning attention as in MiniMax-01, arXiv 2501.08313).

    ``layer`` and ``layers`` are l and L; if they are None, a Mixer fills in its own, and a memory outside a
    Mixer takes l = 0 of L = 1. With ``among`` = (first, H) the heads are those from number ``first`` on of H.
    """

    exponent: float = 8.0
    layer: int | None = None
    layers: int | None = None
    among: tuple[int, int] | None = None

    retention = "head"

    def __post_init__(self) -> None:
        if (
            (self.layer is None) != (self.layers is None)
            or self.layer is not None
            and not 0 <= self.layer < self.layers
        ):
            raise ValueError(
                f"{self!r} names no layer of the model. Give both, with layer from 0 to "
                "layers - 1, or neither."
            )

    def at_layer(self, layer: int, layers: int) -> LayerwiseDecay:
        return dataclasses.replace(self, layer=layer, layers=layers) if self.layer is None else self

    def at_heads(self, first: int, heads: int) -> LayerwiseDecay:
        return dataclasses.replace(self, among=(first, heads))

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        layer, layers = (0, 1) if self.layer is None else (self.layer, self.layers)
        depth = 1 - layer / (layers - 1 + 1e-5) + 1e-5
        numbers, total = numbers_of_heads(heads, self.among)
        return -of_heads([depth * 2.0 ** (-self.exponent * (h + 1) / total) for h in numbers], like)

    def formulas(self) -> dict[str, str]:
        layer = "l of L" if self.layer is None else f"l = {self.layer} of L = {self.layers}"
        return {
            "weight": f"gamma_i^(t) = exp(-m_h (t - i)), m_h = 2^(-{self.exponent:g} (h + 1) / H) (1 - "
            "l / (L - 1 + 1e-5) + 1e-5) "
            f"in head h = 0, 1, ... of layer {layer}",
            "decay": "D_t = exp(-m_h)",
        }

    @classmethod
    def examples(cls) -> tuple[LayerwiseDecay, ...]:
        return (cls(exponent=3.0, layer=1, layers=3),)
