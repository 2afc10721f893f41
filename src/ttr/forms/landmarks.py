"""A kernel sum over the whole sequence, through landmarks.

Used by: GaussianNystrom.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from ttr.inputs import Inputs
from ttr.state_tensors import StateTensors


class Landmarks(NamedTuple):
    """Y = kappa(Q, L) W^+ kappa(L, K) V with W = kappa(L, L) + ridge and kappa(a, b) = exp(-||a - b||^2 / 2),
    the scale in the points.

    L are ``counts`` (of queries, of keys) landmarks: means of equal segments of the sequence where
    ``pooled``, else their first points. W^+ is the result of ``steps`` iterations of ``inverse``. There is no
    state.
    """

    query: Float[Tensor, "B T H F"]
    key: Float[Tensor, "B T H F"]
    value: Float[Tensor, "B T H V"]
    counts: tuple[int, int]
    pooled: bool
    ridge: float
    inverse: Literal["balanced", "newton"]
    steps: int

    def finish(self, x: Inputs, y: Tensor) -> tuple[Tensor, StateTensors]:
        """Read-outs and state of the call, which is not changed."""
        return y, x.state
