"""The form of the cases worked by hand that features share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ttr.problem import FeatureMap, Problem, Worked

Rows = Sequence[Sequence[int | float]]


def worked(
    features: FeatureMap, q: Rows, k: Rows, kernel: Rows, params: Mapping[str, Tensor], tied: bool = True
) -> Worked:
    """One head that sums the values v_i of three pairs with the weights kernel_ti = phi(q_t).phi(k_i), times
    a scale of 1/2.

    ``params`` are the features' own, by their names.
    """
    from ttr.functions.linear import Linear
    from ttr.solvers.one_step import OneStep
    from ttr.weights.uniform import Uniform

    values = [[2, -3, 0.5, 6], [-2, 4, 3, 0.25], [5, -0.5, -4, -7]]
    y = [
        [sum(weight * value[c] for weight, value in zip(row, values)) / 2 for c in range(4)] for row in kernel
    ]
    q, k, v, y = (torch.tensor(rows, dtype=torch.float64)[None, :, None] for rows in (q, k, values, y))
    return Worked(
        Problem(Uniform(), Linear(features, scale=0.5, tied=tied), OneStep()),
        q,
        k,
        v,
        y,
        params={f"function.{name}": tensor.double() for name, tensor in params.items()},
    )
