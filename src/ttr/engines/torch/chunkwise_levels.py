"""Sums of pairs weighted by their level in a Fenwick tree, chunk by chunk: log-linear attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.engines.engine import Engine
from ttr.engines.torch.chunks import (
    check_chunk,
    chunk_length,
    cumulative_log_decay,
    join,
    scores,
    shrink,
    split,
)
from ttr.forms import FenwickRecurrence
from ttr.forms.fenwick import later, level, regrouped
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


@dataclass(frozen=True)
class ChunkwiseLevels(Engine):
    """y_t = sum_{i<=t} w_t[level(t, i)] exp(c_t - c_i) (q_t.k_i) v_i with products of matrices (arXiv
    2506.04761), in O(T log T).

    With b the cumulative log decay of a chunk, s the token before it, e its last, and S^l the memory of level
    l at s,

        y_t = sum_l w_t[max(l, level(t, s))] (S^l)^T q_t e^{b_t}
              + sum_i w_t[level(t, i)] (q_t.k_i) e^{b_t - b_i} v_i
        S'^m = e^{b_C} sum_{l: max(l, level(e, s)) = m} S^l + sum_{i: level(e, i) = m} e^{b_C - b_i} k_i v_i^T

    so queries and keys with one copy of their channels per level make it linear attention. The levels come
    from the positions of each row, and chunks need not be aligned with the tree.
    """

    chunk: int = 64

    name: ClassVar[str] = "chunkwise-levels"

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def small(self) -> ChunkwiseLevels:
        return ChunkwiseLevels(chunk=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not FenwickRecurrence:
            return "It runs memories with one matrix per level of a Fenwick tree."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form = problem.lower(x)
        linear, levels, size = form.recurrence, form.levels, chunk_length(self.chunk, x.length)
        query, key, value, weight = (
            split(tensor, size)
            for tensor in (linear.scaled_query, linear.key, linear.value, form.level_weight)
        )
        log = cumulative_log_decay(linear.log_decay, linear.key, size)
        whole = log[..., -1:, :]

        start = x.state.position
        place = torch.arange(len(query) * size, device=start.device).unflatten(0, (-1, 1, size))
        # [M,B,C]; padding takes the last token
        token = torch.minimum(start[:, None] + place, (start + x.length - 1)[:, None])
        before, last = start + place[..., 0] - 1, token[..., -1]

        written = level(last[..., None], token, levels)[..., None] == torch.arange(
            levels, device=start.device
        )
        keys = _per_level(shrink(key, whole - log), written[:, :, None].to(key))
        memory, entering = form.memory, []
        for decay, new, since in zip(
            whole[..., None].to(key.dtype).exp(), keys.mT @ value, level(last, before, levels), strict=True
        ):
            entering.append(memory.flatten(2, 3))
            memory = decay * regrouped(memory, since) + new.unflatten(2, (levels, -1))

        queries = _per_level(
            shrink(query, log), _at(weight, later(level(token, before[..., None], levels), levels))
        )
        inside = _at(weight, level(token[..., None], token[..., None, :], levels))
        visible = torch.arange(1, size + 1, device=start.device)
        y = queries @ torch.stack(entering) + (inside * scores(query, key, log, log, visible, size)) @ value
        return form.finish(x, join(y, x.length), memory)


def _at(weight: Tensor, level: Tensor) -> Tensor:
    """The weights [M,B,H,C,L] of the levels [M,B,C,N] -> [M,B,H,C,N]."""
    return weight.gather(-1, level[:, :, None].expand(-1, -1, weight.shape[2], -1, -1))


def _per_level(x: Tensor, weight: Tensor) -> Tensor:
    """A copy of the channels [M,B,H,C,F] for every level, times its weight [M,B,#H,C,L] -> [M,B,H,C,L F]."""
    return (weight[..., None] * x[..., None, :]).flatten(-2)
