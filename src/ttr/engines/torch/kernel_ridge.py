"""Kernel ridge regression of all prefixes at once: their systems are the leading blocks of one matrix."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ttr.engines.engine import Engine
from ttr.engines.torch.direct_solve import HOPELESS, NO_DIGITS, SINGULAR, NoDigits, wide_dtype
from ttr.forms import KernelPairs
from ttr.inputs import Inputs, needs_composite
from ttr.problem import Problem
from ttr.state import State


class KernelRidge(Engine):
    """y_t = kappa(q_t, K_t) G_t (G_t kappa(K_t, K_t) G_t + ridge)^-1 G_t V_t with G the roots of the weights,
    K_t the first t keys.

    Without decay and window the matrix of token t is the leading block of the last one's, and so is its
    Cholesky factor L: y_t is the product of the first t rows of L^-1 G kappa(K, q_t) and of L^-1 G V. One
    factorisation and two triangular solves, O(T^2) per token where a solve of its own would take O(T^3); that
    for the queries in blocks, each with the rows that its tokens see, a third of all.
    """

    name: ClassVar[str] = "kernel-ridge"

    def __init__(self, block: int = 128) -> None:
        self.block = block

    def small(self) -> KernelRidge:
        return KernelRidge(block=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not KernelPairs:
            return "It solves for one coefficient per pair, and this function has parameters of its own."
        if problem.weights.retention is not None or problem.weights.window is not None:
            return (
                "It extends one factor of growing kernel matrices, and a decay or a window changes all of "
                "their older entries."
            )
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form, wide = problem.lower(x), wide_dtype(x.q)
        query, keys, values = (t.transpose(1, 2).to(wide) for t in (form.query, form.key, form.value))
        # without decay and window every pair has the same weight at the last token as at its own
        log_weight = form.weights.block(x.length - 1, x.length)[:, :, 0, :, None]
        root = (0.5 * log_weight).exp().to(wide)

        identity = torch.eye(keys.shape[-2], dtype=wide, device=keys.device)
        gram = root * form.kernel(keys, keys) * root.mT + form.ridge[..., None].to(wide) * identity
        factor, earlier = _factor(gram), keys.shape[-2] - x.length
        written = torch.linalg.solve_triangular(factor, root * values, upper=False)
        parts = [values[:, :, :0]]
        for start, part in zip(range(earlier, keys.shape[-2], self.block), query.split(self.block, dim=2)):
            stop = start + part.shape[2]
            right = root[:, :, :stop] * form.kernel(keys[:, :, :stop], part)
            read = torch.linalg.solve_triangular(factor[..., :stop, :stop], right, upper=False)
            place = torch.arange(stop, device=keys.device)
            read = read.masked_fill(place[:, None] > place[start:], 0.0)
            parts.append(read.mT @ written[:, :, :stop])
        y = torch.cat(parts, dim=2)
        return form.finish(x, y.transpose(1, 2).to(x.q.dtype))


def _factor(gram: Tensor) -> Tensor:
    """The Cholesky factor.

    Raises:
        ValueError: if the ridge is too small for the rounding errors of the kernel matrix, by eps times its
            condition as the factor shows it.
    """
    try:
        factor = torch.linalg.cholesky(gram)
    except torch.linalg.LinAlgError as error:
        raise NoDigits(SINGULAR) from error
    if gram.shape[-1] and not needs_composite():
        least = factor.diagonal(dim1=-2, dim2=-1).amin(-1).square()
        if not bool((torch.finfo(gram.dtype).eps * gram.norm(dim=(-2, -1)) <= HOPELESS * least).all()):
            raise NoDigits(NO_DIGITS)
    return factor
