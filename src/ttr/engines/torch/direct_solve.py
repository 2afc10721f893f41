"""Direct solves of the systems of a regression, and the refusal of calls whose solution has no correct
digits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ttr.diagnostics import record
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State

HOPELESS = 0.05
"""The largest eps ||A||_F |x| / |b|, about the relative error of an output, at which a call is answered."""

POOR = 1e-3
"""The same where the call can be repeated in a wider dtype; gradients lose about one more digit."""

SINGULAR = (
    "The regression is singular: its pairs do not determine it. Use a larger ridge, or a smaller "
    "log_importance."
)
"""The error of a call with a singular system."""

NO_DIGITS = (
    "The regression is too ill-conditioned for its dtype: its pairs and its ridge hardly "
    "determine it, and the output would be rounding errors. Use a larger ridge, or float64 inputs."
)


class NoDigits(ValueError):
    """The result has no correct digits in this dtype; in a wider one it may have."""


def with_digits(
    run: Callable[[Problem, Inputs], tuple[Tensor, State]], problem: Problem, x: Inputs
) -> tuple[Tensor, State]:
    """``run(problem, x)``, repeated in float64 where a narrower dtype leaves no correct digits: for memories
    that store their pairs unchanged.

    Raises:
        ValueError: where float64 leaves none either, or the device has none.
    """
    try:
        return run(problem, x)
    except NoDigits:
        if x.q.dtype == torch.float64 or x.q.device.type == "mps":
            raise
    y, state = run(problem, x.to(torch.float64))
    record(solver="in float64 again", rows=y.shape[:-1].numel())
    return y.to(x.q.dtype), state.to(x.q.dtype)


def wide_dtype(x: Tensor) -> torch.dtype:
    """float64, where the device of x has it."""
    return x.dtype if x.device.type == "mps" else torch.float64


def solve_spd(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric positive definite systems [..., D, D] x = [..., D] in float64 where the device has it.

    Raises:
        ValueError: if a system is singular.
    """
    wide = wide_dtype(matrix)
    try:
        solution = torch.cholesky_solve(right.to(wide)[..., None], torch.linalg.cholesky(matrix.to(wide)))[
            ..., 0
        ]
    except torch.linalg.LinAlgError as error:
        raise NoDigits(SINGULAR) from error
    return solution.to(right.dtype)


def refuse_without_digits(
    norm: Float[Tensor, "*#rows"], solution: Float[Tensor, "*rows F"], right: Float[Tensor, "*rows F"]
) -> None:
    """Refuse A x = b where ``without_digits`` says so of any row.

    Raises:
        NoDigits: if a row has hardly a digit.
    """
    if bool(without_digits(norm, solution, right).any()):
        raise NoDigits(NO_DIGITS)


def without_digits(
    norm: Float[Tensor, "*#rows"], solution: Float[Tensor, "*rows F"], right: Float[Tensor, "*rows F"]
) -> Bool[Tensor, "*rows"]:
    """Where the rounding errors of the moments of A x = b reach the output: their product with x, against b.

    Args:
        norm: ||A||_F.
    """
    lost = torch.finfo(right.dtype).eps * norm * solution.norm(dim=-1)
    return lost > HOPELESS * right.norm(dim=-1)


def require_digits(rho: Float[Tensor, "*rows F"], reach: Float[Tensor, "*#rows"]) -> None:
    """Refuse factors 1 - z.rho of the pairs of a local fit that are rounding errors: those of z.rho are about
    eps |z| |rho|.

    Args:
        reach: a bound of |z|, the distance of a row's pairs from their mean.

    Raises:
        NoDigits: if a row has few correct digits and there is a wider dtype, or hardly one digit.
    """
    lost = torch.finfo(rho.dtype).eps * reach * rho.norm(dim=-1)
    if not bool((lost <= (HOPELESS if rho.dtype == wide_dtype(rho) else POOR)).all()):
        raise NoDigits(NO_DIGITS)
