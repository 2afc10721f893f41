from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import silu

from ttr.functions._network import _Network
from ttr.problem import Problem, Worked


@dataclass(frozen=True)
class GatedMlp(_Network):
    """m(x) = W_1^T (silu(W_0^T x) * W_2^T x), SwiGLU, the hidden layer ``hidden`` times as wide as x (LaCT,
    arXiv 2505.23884).

    ``start`` is the standard deviation of the first weights, None for 1 / sqrt(inputs).

    Raises:
        ValueError: if the width is below 1.
    """

    hidden: int = 1
    start: float | None = None

    groups: ClassVar[int] = 3
    stable_step: ClassVar[float] = 0.2

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"A hidden layer of {self.hidden} times the key size is empty. Use 1 or more.")

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

    @classmethod
    def worked(cls) -> tuple[Worked, ...]:
        from ttr.solvers.chunk_descent import ChunkDescent
        from ttr.weights.uniform import Uniform

        q, k, v, y = (
            torch.tensor(rows, dtype=torch.float64)[None, :, None]
            for rows in (
                [[2, 3], [-3, 2], [0.5, -2], [3, 0.5], [-2, 0.5]],
                [[0.5, 2], [1.5, -0.5], [-0.5, 1.5], [2, 0.5], [-1.5, 2.5]],
                [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2], [0.5, 3, -4]],
                # Loss -<m(k), v>, chunks of 2, steps of W_0, W_1, W_2 below, momenta 0.4, 0.3, 0.7, 0.2, 0.6.
                # The
                # first two tokens read the start: q_1 W_0 = (1.75, 3), q_1 W_2 = (1.5, 3.2), silu(1.75) * 1.5
                # = 2.236..., and so on. The gradients of the first chunk are added with their steps, and each
                # output's column brought back to its first length:
                # W_0 = [[0.215902373905, -0.848134168050], [-0.515637586194, -1.446773752333]],
                # W_2 = [[1.305034110895, -0.507812814222], [0.892674833077, -0.736288546931]], read by tokens
                # 3 and 4. The second chunk's gradients plus (0.7 + 0.2) / 2 of the first's give those that
                # token 5 reads.
                [
                    [-5.9739436309, 5.50674769018, 5.42706481145],
                    [-0.783723498314, 0.870655288216, 2.40172470186],
                    [2.93239203309, -2.30715065939, 2.28775880118],
                    [-0.0400377521549, 0.289351449282, 0.896683336505],
                    [0.169220201815, -0.183688228966, 0.11494765853],
                ],
            )
        )
        steps = torch.tensor(
            [[0.5, 0.2, 0.3], [0.2, 0.4, 0.6], [0.6, 0.1, 0.2], [0.3, 0.7, 0.4], [0.4, 0.5, 0.6]],
            dtype=torch.float64,
        )
        momentum = torch.tensor([0.4, 0.3, 0.7, 0.2, 0.6], dtype=torch.float64)
        weights = {
            "w0": [[0.5, -0.75], [0.25, 1.5]],
            "w1": [[0.6, -0.4, 1.2], [-0.8, 0.7, 0.3]],
            "w2": [[1.5, 0.4], [-0.5, 0.8]],
        }
        params = {f"function.{name}": torch.tensor([x], dtype=torch.float64) for name, x in weights.items()}
        return (
            Worked(
                Problem(Uniform(), cls(start=0.5), ChunkDescent(chunk=2, momentum=True)),
                q,
                k,
                v,
                y,
                {"step_size": steps[None, :, None], "momentum": momentum[None, :, None]},
                params,
            ),
        )
