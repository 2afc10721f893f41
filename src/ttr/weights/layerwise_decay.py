from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.problem import Problem, Weights, Worked


@dataclass(frozen=True)
class LayerwiseDecay(Weights):
    """Fixed forgetting exp(-m) with m = 2^(-exponent (h+1) / H) (1 - l / (L - 1 + 1e-5) + 1e-5) in head h of
    H, layer l of L: almost none in the last layer (Lightning attention as in MiniMax-01, arXiv 2501.08313).

    ``layer`` and ``layers`` are l and L; without them a Mixer puts its own, and the memory alone is that of
    the only layer.
    """

    exponent: float = 8.0
    layer: int | None = None
    layers: int | None = None

    retention = "head"

    def __post_init__(self) -> None:
        if (
            (self.layer is None) != (self.layers is None)
            or self.layer is not None
            and not 0 <= self.layer < self.layers
        ):
            raise ValueError(f"{self!r} stands in no layer. Use layer from 0 to layers - 1, or neither.")

    def at_layer(self, layer: int, layers: int) -> LayerwiseDecay:
        return dataclasses.replace(self, layer=layer, layers=layers) if self.layer is None else self

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        layer, layers = (0, 1) if self.layer is None else (self.layer, self.layers)
        depth = 1 - layer / (layers - 1 + 1e-5) + 1e-5
        return -torch.tensor(
            [depth * 2.0 ** (-self.exponent * (h + 1) / heads) for h in range(heads)],
            dtype=like.dtype,
            device=like.device,
        )

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

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.functions.linear import Linear
        from ttr.solvers.one_step import OneStep

        # Three heads with the same q, k, v: 2^-1, 2^-2, 2^-3, times 1 - 2 / 4.00001 + 0.00001 = 0.50001125 in
        #     layer 2 of 5.
        # The scores q_t.k_i / 2 are: 6 at t = 1; -2.5, -3.5 at t = 2; -1.25, 1, -4.5 at t = 3.
        # With a = exp(-m): y_1 = 6 v_1, y_2 = -2.5 a v_1 - 3.5 v_2, y_3 = -1.25 a^2 v_1 + a v_2 - 4.5 v_3.
        q, k, v = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2]],
                [[3, 2], [2, -0.5], [-2, 4]],
                [[2, -3, 0.5], [-2, 4, 3], [5, -0.5, -4]],
            )
        )
        depth = (2 + 1e-5) / (4 + 1e-5) + 1e-5
        y = torch.tensor(
            [
                [
                    [12, -18, 3],
                    [7 - 5 * a, 7.5 * a - 14, -1.25 * a - 10.5],
                    [-22.5 - 2 * a - 2.5 * a * a, 2.25 + 4 * a + 3.75 * a * a, 18 + 3 * a - 0.625 * a * a],
                ]
                for a in (math.exp(-depth / slope) for slope in (2, 4, 8))
            ],
            dtype=torch.float64,
        )
        return (
            Worked(
                Problem(cls(exponent=3.0, layer=2, layers=5), Linear(scale=0.5), OneStep()),
                q.expand(-1, -1, 3, -1),
                k,
                v,
                y.transpose(0, 1)[None],
            ),
        )
