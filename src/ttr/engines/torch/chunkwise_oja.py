"""The Oja rule, chunk by chunk: the delta rule with keys and values exchanged, read by its transpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.decay import RESET
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
from ttr.forms import OjaRecurrence
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


@dataclass(frozen=True)
class ChunkwiseOja(Engine):
    """T = S^T learns by the delta rule, T_i = e^{a_i} T_{i-1} + v_i w_i^T, w_i = beta_i (k_i - T_x^T v_i),
    and y_i = T_i q_i, by one triangular system per chunk.

    With b the cumulative log decay of the rows of T, from the T_0 that enters a chunk:

        (I + A) W = beta (K - (V e^b) T_0),     A_ij = beta_i sum_d v_id v_jd e^{b_id - b_jd}  for j < i
        T_C = e^{b_C} T_0 + sum_j (v_j e^{b_C - b_j}) w_j^T
        y_id = e^{b_id} (T_0 q_i)_d + sum_{j<=i} (q_i.w_j) e^{b_id - b_jd} v_jd

    The system is that of a delta rule with a decay per key channel (arXiv 2510.26692). In the last line the
    decay is of the channel that is read, which is no product of matrices; ``_decayed_sums`` makes it some.
    """

    chunk: int = 32

    name: ClassVar[str] = "chunkwise-oja"

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def small(self) -> ChunkwiseOja:
        return ChunkwiseOja(chunk=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not OjaRecurrence:
            return "It runs memories that learn to map values to keys: the Oja rule."
        if problem.weights.retention == "channel":
            return "Its decays are of value channels, and these weights have one per key channel."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form, size = problem.lower(x), chunk_length(self.chunk, x.length)
        linear = form.recurrence
        if linear.memory.numel() == 0:  # without keys, values or sequences the read-out is 0
            y = torch.einsum("bthf,bhfv->bthv", linear.query, linear.memory)
            return form.finish(x, y, linear.memory)
        log_decay = form.value_log_decay.clamp(min=RESET)
        if linear.log_decay is not None:
            log_decay = (log_decay + linear.log_decay[..., None]).clamp(min=RESET)
        step = linear.step[..., None]
        query, key, value, read = (
            split(tensor, size)
            for tensor in (linear.scaled_query, step * linear.key, linear.value, step * linear.value)
        )
        log = cumulative_log_decay(log_decay, linear.value, size)
        whole, order = log[..., -1:, :], torch.arange(size, device=value.device)

        system = scores(read, value, log, log, order, size)
        chunks = (system, key, shrink(read, log), shrink(value, whole - log).mT, whole.mT.to(key.dtype).exp())
        memory, entering, written = linear.memory.mT, [], []
        for matrix, target, read_now, write_now, decay in zip(
            *(tensor.unbind() for tensor in chunks), strict=True
        ):
            entering.append(memory)
            written.append(
                torch.linalg.solve_triangular(
                    matrix, target - read_now @ memory, upper=False, unitriangular=True
                )
            )
            memory = decay * memory + write_now @ written[-1]
        met = query @ torch.stack(written).mT
        y = shrink(query @ torch.stack(entering).mT, log) + _decayed_sums(met, value, log)
        return form.finish(x, join(y, x.length), memory.mT)


def _decayed_sums(
    weights: Float[Tensor, "M B H C C"], value: Float[Tensor, "M B H C V"], log: Float[Tensor, "M ... C V"]
) -> Float[Tensor, "M B H C V"]:
    """sum_{j<=i} weights_ij e^{log_id - log_jd} value_jd for every channel d, without a tensor of C x C x V.

    Between the late and the early half of a block, the decay factors at the border between them, as in
    ``scores``: into one on the values before the product and one on the sums after it, both at most 1."""
    sums = weights.diagonal(dim1=-2, dim2=-1)[..., None] * value
    half = weights.shape[-1] // 2
    while half:
        blocks = weights.unflatten(-1, (-1, 2, half)).unflatten(-4, (-1, 2, half))
        # rows of the late half, columns of the early half, of the same block
        across = blocks[..., 1, :, :, 0, :].diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
        early, log_early = (x.unflatten(-2, (-1, 2, half))[..., 0, :, :] for x in (value, log))
        log_late = log.unflatten(-2, (-1, 2, half))[..., 1, :, :]
        border = log_early[..., -1:, :]
        added = shrink(across @ shrink(early, border - log_early), log_late - border)
        sums = sums + torch.cat([torch.zeros_like(added), added], dim=-2).flatten(-3, -2)
        half //= 2
    return sums
