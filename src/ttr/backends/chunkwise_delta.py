"""Chunk by chunk, memories that correct themselves at a key: the delta rule and its gated forms."""

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
class ChunkwiseDelta(Backend):
    """S_j = D_j S_{j-1} + k_j w_j^T, w_j = beta_j (v_j - S_x^T p_j), by one triangular system per chunk (the chunkwise form of
    DeltaNet, arXiv 2406.06484, Gated DeltaNet, 2412.06464, and KDA, 2510.26692).

    Let b_i be the cumulative log decay in a chunk, S_0 the memory that enters it, and c_i = b_i where the error is measured
    at the decayed memory, b_{i-1} at the old one. Given all w, the memory is a decayed sum of the pairs (k_j, w_j), hence

        w_i = beta_i (v_i - S_0^T (p_i e^{c_i})) - sum_{j<i} A_ij w_j,     A_ij = beta_i sum_d p_id k_jd e^{c_id - b_jd}

    which is a unit lower triangular system, (I + A) W = beta (V - (P e^c) S_0), solved by substitution. What follows is the
    additive form with w for v. Several pairs per token are a sequence of pairs, read at the last of each token.

    Where an erase key e takes off what p reads, S_j = D_j S_{j-1} - beta_j e_j (S_x^T p_j)^T + beta_j k_j v_j^T, a diagonal plus
    low rank (RWKV-7, arXiv 2503.14456), the pairs (k_j, beta_j v_j) are known and the corrections w_j = -beta_j S_x^T p_j are
    written at e_j: the system has e for k, and -A V in the keys for beta V.
    """

    chunk: int = 32

    name: ClassVar[str] = "chunkwise-delta"

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def small(self) -> ChunkwiseDelta:
        return ChunkwiseDelta(chunk=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.memory != "matrix" or problem.solver.gradient_at is None:
            return "It runs memories that each pair corrects by a step at a key: the delta rule and its kin."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form = linear_form(problem, x)
        tokens = chunk_length(self.chunk, x.length)
        size = tokens * form.pairs
        step = 1 if form.step is None else form.step[..., None]
        key, read, value = (split(tensor, size) for tensor in (form.key, step * form.read, step * form.value))
        query = split(form.query, tokens)
        eraser = key if form.erase is None else split(form.erase, size)
        log = cumulative_log_decay(form, size)
        log_query = log[..., form.pairs - 1 :: form.pairs, :]
        log_read = log if form.gradient_at == "decayed" else pad(log, (0, 0, 1, -1))
        whole = log[..., -1:, :]

        order = torch.arange(size, device=key.device)
        visible = order[form.pairs - 1 :: form.pairs] + 1
        system = scores(read, eraser, log_read, log, order, tokens)
        target, known, outputs = value, torch.zeros_like(value[:, :, :, :1]), 0
        if form.erase is not None:
            target = -(scores(read, key, log_read, log, order, tokens) @ value)
            known = shrink(key, whole - log).mT @ value
            outputs = scores(query, key, log_query, log, visible, tokens) @ value
        chunks = (system, target, known, shrink(read, log_read), shrink(eraser, whole - log).mT, whole.mT.to(key.dtype).exp())
        memory, entering, written = widen_state(problem, x), [], []
        for matrix, wanted, sums, reader, writer, kept in zip(*(tensor.unbind() for tensor in chunks), strict=True):
            entering.append(memory)
            written.append(torch.linalg.solve_triangular(matrix, wanted - reader @ memory, upper=False, unitriangular=True))
            memory = kept * memory + sums + writer @ written[-1]
        outputs = outputs + scores(query, eraser, log_query, log, visible, tokens) @ torch.stack(written)
        y = shrink(query, log_query) @ torch.stack(entering) + outputs
        return finish(problem, x, join(y, x.length), memory, form)
