from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from ttr.functions._network import _Network


@dataclass(frozen=True)
class GatedMlp(_Network):
    """m(x) = W_1^T (silu(W_0^T x) * W_2^T x), SwiGLU, the hidden layer ``hidden`` times as wide as x (LaCT,
    arXiv 2505.23884).

    ``start`` is the standard deviation of the initial weights, None for 1 / sqrt(inputs).

    Raises:
        ValueError: if the width is below 1.
    """

    hidden: int = 1
    start: float | None = None

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"A hidden layer of {self.hidden} times the key size is empty. Use 1 or more.")

    def sizes(self) -> dict[str, int]:
        return {"P": 3}

    def limits(self) -> dict[str, float]:
        return {"step_size": 0.2}

    def formulas(self) -> dict[str, str]:
        prediction = (
            f"m(x) = W_1^T (silu(W_0^T x) * W_2^T x), hidden layer {self._width()}, silu(x) = x sigmoid(x)"
        )
        return {"prediction": prediction, **super().formulas()}

    def matrices(self) -> tuple[str, ...]:
        return ("w0", "w1", "w2")

    def memory(self, feature_size: int, value_size: int) -> dict[str, tuple[int, ...]]:
        hidden = self.hidden * feature_size
        return {"w0": (feature_size, hidden), "w1": (hidden, value_size), "w2": (feature_size, hidden)}

    def forward(
        self, affine: Callable[[str, Tensor], Tensor], key: Tensor, params: Mapping[str, Tensor]
    ) -> Tensor:
        return affine("w1", silu(affine("w0", key)) * affine("w2", key))

    def slopes(
        self,
        back: Callable[[str, Tensor], Tensor],
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        slope: Tensor,
        params: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        gate, through, hidden = torch.sigmoid(outputs["w0"]), outputs["w2"], back("w1", slope)
        silu_slope = gate * (1 + outputs["w0"] * (1 - gate))
        return {"w0": hidden * through * silu_slope, "w1": slope, "w2": hidden * outputs["w0"] * gate}

    @classmethod
    def examples(cls) -> tuple[GatedMlp, ...]:
        return (cls(),)
