"""Chunk by chunk, memories that are decayed sums of pairs: linear attention and its gated forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.backends.backend import Backend
from ttr.backends.chunks import check_chunk, chunk_length, cumulative_log_decay, join, scores, shrink, split
from ttr.backends.lowering import finish, linear_form, widen_state
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


@dataclass(frozen=True)
class ChunkwiseAdditive(Backend):
    """S_t = D_t S_{t-1} + k_t v_t^T with products of matrices (the chunkwise form of GLA, arXiv 2312.06635).

    Let b_i be the cumulative log decay in a chunk and S_0 the memory that enters it. Unrolled,

        y_i = S_0^T (q_i e^{b_i}) + sum_{j<=i} A_ij v_j,     A_ij = sum_d q_id k_jd e^{b_id - b_jd}
        S_C = e^{b_C} S_0 + sum_j (k_j e^{b_C - b_j}) v_j^T

    and all is done for all chunks at once but the scan that the last line is. Read before write, y_i takes b_{i-1} for b_i and j < i,
    and adds its own pair times the bonus. Several pairs per token are a sequence of pairs, read at the last of each token.
    """

    chunk: int = 32

    name: ClassVar[str] = "chunkwise-additive"

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def small(self) -> ChunkwiseAdditive:
        return ChunkwiseAdditive(chunk=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.memory != "matrix" or not problem.solver.additive:
            return "It runs memories that are a sum of pairs, each written once and then only decayed, over the whole past."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form = linear_form(problem, x)
        tokens = chunk_length(self.chunk, x.length)
        size = tokens * form.pairs
        step = 1 if form.step is None else form.step[..., None]
        key, value = (split(tensor, size) for tensor in (form.key, step * form.value))
        query = split(form.query, tokens)
        log = cumulative_log_decay(form, size)
        log_query, whole = log[..., form.pairs - 1 :: form.pairs, :], log[..., -1:, :]
        visible = torch.arange(form.pairs, size + 1, form.pairs, device=key.device)
        if form.bonus is not None:  # what a token reads is what the token before it left
            log_query, visible = pad(log, (0, 0, 1, -1)), visible - 1

        memory, entering = widen_state(problem, x), []
        added = shrink(key, whole - log).mT @ value
        for kept, new in zip(whole.mT.to(key.dtype).exp().unbind(), added.unbind(), strict=True):
            entering.append(memory)
            memory = kept * memory + new
        y = shrink(query, log_query) @ torch.stack(entering) + scores(query, key, log_query, log, visible, tokens) @ value
        if form.bonus is not None:
            y = y + (query * form.bonus[:, None] * key).sum(-1, keepdim=True) * value
        return finish(problem, x, join(y, x.length), memory, form)
