"""Direct solves of the systems of a regression, and when a solution has no digits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

HOPELESS = 0.05
"""The largest eps ||A||_F |x| / |b|, about the relative error of an output, at which a call is answered."""

SINGULAR = "The regression is singular: its pairs do not fix it. Use a larger ridge, or a smaller log_importance."
"""What a call is told that cannot be answered."""


def solve_spd(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric positive definite systems [..., D, D] x = [..., D] in float64 where the device has it.

    Raises:
        ValueError: if a system is singular.
    """
    wide = matrix.dtype if matrix.device.type == "mps" else torch.float64
    try:
        solution = torch.cholesky_solve(right.to(wide)[..., None], torch.linalg.cholesky(matrix.to(wide)))[..., 0]
    except torch.linalg.LinAlgError as error:
        raise ValueError(SINGULAR) from error
    return solution.to(right.dtype)


def refuse_without_digits(norm: Float[Tensor, "*rows"], solution: Float[Tensor, "*rows F"], right: Float[Tensor, "*rows F"]) -> None:
    """Refuse A x = b where the rounding errors of the moments reach the output: their product with x, against b.

    Args:
        norm: ||A||_F.

    Raises:
        ValueError: if a row has hardly a digit.
    """
    lost = torch.finfo(right.dtype).eps * norm * solution.norm(dim=-1)
    if bool((lost > HOPELESS * right.norm(dim=-1)).any()):
        raise ValueError("The regression is too ill-conditioned for its dtype: its pairs and its ridge hardly fix it, and the output would be "
                         "rounding errors. Use a larger ridge, or float64 inputs.")
