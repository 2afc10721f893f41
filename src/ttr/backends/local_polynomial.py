"""The local polynomial fit around every query, in query blocks, in the centred form."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttr.backends.attention import grouped_product
from ttr.backends.backend import Backend, shape_of
from ttr.backends.centred_fit import monomials, tilted
from ttr.backends.implicit_solve import ELEMENTS, System, solve
from ttr.backends.position_bias import PairWeights, probabilities
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


class LocalPolynomial(Backend):
    """y_t = sum_i p_i (1 - (k_i - kbar).rho) v_i with p = softmax(logits + log gamma), kbar = sum p k and
    rho = (Cov_p(k) + diag(ridge))^-1 (kbar - q).

    Eliminating the slope from the normal equations of the weighted fit v = b + A (k - q) leaves b in this form, in which
    nothing nearly cancels when the query is far from its keys (arXiv 2510.01450 gives the uncentred one). All rows of a block
    are solved together; memory grows linearly with T. A rho that comes with the call takes the place of the solve. Higher degrees
    write the monomials of a block's displacements out.
    """

    name: ClassVar[str] = "local-polynomial"
    composite: ClassVar[bool] = False

    def __init__(self, block: int = 64) -> None:
        self.block = block

    def small(self) -> LocalPolynomial:
        return LocalPolynomial(block=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if not problem.function.local_degree:
            return f"It fits lines or polynomials around every query, and this function is {shape_of(problem.function.local_degree)}."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        pairs, params = PairWeights.of(problem, x), x.axis_params("function")
        raw_query = x.grouped(x.q)
        raw_keys, values = (torch.cat([x.state[name], new], dim=1) for name, new in (("keys", x.k), ("values", x.v)))
        # A parameter has an entry per head, so with one the heads of a group no longer share their keys.
        raw_keys = x.grouped(raw_keys) if params else raw_keys
        query, keys = problem.function.query(raw_query, params).transpose(1, 2), problem.function.key(raw_keys, params).transpose(1, 2)
        raw_query, raw_keys, values = (tensor.transpose(1, 2) for tensor in (raw_query, raw_keys, values))
        ridge, slope = x.controls.get("ridge"), x.controls["slope"].transpose(1, 2) if problem.solver.amortized else None
        degree, size = problem.function.local_degree, self._tokens(problem, x, keys.shape[2])
        outputs = [query.new_zeros(*query.shape[:2], 0, values.shape[-1])]
        for start in range(0, x.length, size):
            part, raw_part, given = (t if t is None else t[:, :, start : start + size] for t in (query, raw_query, slope))
            arguments = (pairs, start, part, raw_part, keys, raw_keys, values, degree, ridge, given, [])
            recompute = x.wants_grad and x.length > size
            y = checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False) if recompute else _block(*arguments)
            outputs.append(y)
        return torch.cat(outputs, dim=2).transpose(1, 2), pairs.final_state(x)

    def _tokens(self, problem: Problem, x: Inputs, seen: int) -> int:
        """Tokens per block: fewer where the monomials of every displacement are written out, for a bounded memory."""
        if problem.function.local_degree == 1:
            return self.block
        monomials = x.q.shape[0] * x.heads * seen * problem.function.feature_size(x.q.shape[-1])
        return max(min(self.block, ELEMENTS // max(monomials, 1)), 1)


def _block(pairs: PairWeights, start: int, query: Tensor, raw_query: Tensor, keys: Tensor, raw_keys: Tensor, values: Tensor,
           degree: int, ridge: Tensor | None, slope: Tensor | None, known: list[Tensor]) -> Tensor:
    """The read-outs [B,H,C,V] of C tokens from ``start``; ``known`` keeps the solution for a recomputation."""
    stop, sharing = start + query.shape[2], query.shape[1] // raw_keys.shape[1]
    # Only differences of keys and queries matter. Seen from a key of the block, those of keys far from 0 cancel nothing.
    origin = raw_keys[:, :, pairs.past.shape[-1] + start, None].detach()
    raw_query = raw_query - origin.repeat_interleave(sharing, dim=1)
    keys, raw_keys, values = (pairs.seen(x, start, stop) for x in (keys, raw_keys, values))
    p = probabilities(grouped_product(query, keys.mT) + pairs.block(start, stop), pairs.importance is not None)

    if degree > 1:
        offset = (raw_keys - origin).repeat_interleave(sharing, dim=1)[:, :, None] - raw_query[..., None, :]
        return grouped_product(tilted(p, monomials(offset, degree), ridge[:, None]), values)
    weights, raw_query = (x.reshape(-1, sharing * x.shape[2], x.shape[3]) for x in (p, raw_query))  # heads that share keys are stacked
    raw_keys = (raw_keys - origin).flatten(0, 1)
    mean = weights @ raw_keys
    if slope is None:
        ridge = ridge.reshape(-1, sharing, 1, ridge.shape[-1]).expand(-1, -1, 1 if sharing == 1 else query.shape[2], -1).flatten(1, 2)
        rho = solve(System(weights, raw_keys, ridge.repeat(query.shape[0], 1, 1), mean), mean - raw_query, known)
    else:
        rho = slope.reshape(raw_query.shape)
    counts = weights * (1 - (rho @ raw_keys.mT - (rho * mean).sum(-1, keepdim=True)))
    return grouped_product(counts.view_as(p), values)
