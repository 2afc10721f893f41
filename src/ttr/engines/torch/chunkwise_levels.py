"""Sums of pairs weighted by their level in a Fenwick tree, chunk by chunk: log-linear attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
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
from ttr.inputs import Inputs, needs_composite
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
        form, size = problem.lower(x), chunk_length(self.chunk, x.length)
        if not needs_composite() and x.length:
            starts = set(x.state.position.tolist())
            if len(starts) == 1 and min(starts) % size == 0:
                return form.finish(x, *_aligned(form, size, x.length, min(starts)))
        return form.finish(x, *_anywhere(form, size, x.length, x.state.position))


def _anywhere(
    form: FenwickRecurrence, size: int, length: int, start: Int[Tensor, " B"]
) -> tuple[Tensor, Tensor]:
    """Read-outs and memory of a call whose rows start at any token."""
    linear, levels = form.recurrence, form.levels
    query, key, value, weight, log = _split(form, size)
    whole = log[..., -1:, :]
    place = torch.arange(len(query) * size, device=start.device).unflatten(0, (-1, 1, size))
    # [M,B,C]; padding takes the last token
    token = torch.minimum(start[:, None] + place, (start + length - 1)[:, None])
    before, last = start + place[..., 0] - 1, token[..., -1]

    written = level(last[..., None], token, levels)[..., None] == torch.arange(levels, device=start.device)
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
    return join(y, linear.query.shape[1]), memory


def _aligned(form: FenwickRecurrence, size: int, length: int, start: int) -> tuple[Tensor, Tensor]:
    """The same where every row starts at token ``start``, a multiple of the chunk's size. Then all pairs of a
    chunk have one level for any later chunk, and a chunk meets only the levels of the digits 1 of its number:
    a few, at most log2 T, instead of all."""
    levels = form.levels
    query, key, value, weight, log = _split(form, size)
    whole = log[..., -1:, :]
    sums = shrink(key, whole - log).mT @ value
    held = {
        each: memory
        for each, memory in enumerate(form.memory.unbind(2))
        if form.memory.requires_grad or bool(memory.any())
    }
    entering: list[dict[int, Tensor]] = []
    for chunk, (decay, new) in enumerate(zip(whole.to(key.dtype).exp(), sums)):
        token = start + chunk * size
        since = min((token ^ (token - 1)).bit_length(), levels - 1) if token else 0
        met = [memory for each, memory in held.items() if each <= since]
        held = {each: memory for each, memory in held.items() if each > since}
        held |= {since: sum(met)} if met else {}
        entering.append(held)
        held = {each: decay * memory for each, memory in held.items()}
        held[0] = held[0] + new if 0 in held else new  # for any token of a later chunk they have one level

    index, memories = _met(entering, form.memory[:, :, 0])
    weights = weight.gather(-1, index[:, None, None, None].expand(*weight.shape[:-1], -1))
    token = torch.arange(size, device=key.device)
    inside = level(token[:, None], token, levels).expand(*weight.shape[:-1], -1)
    y = _per_level(shrink(query, log), weights) @ memories
    y = y + (weight.gather(-1, inside) * scores(query, key, log, log, token + 1, size)) @ value

    last = (length - 1) % size
    written = level(token[last], token.clamp(max=last), levels)[:, None]
    written = written == torch.arange(levels, device=key.device)
    keys = _per_level(shrink(key[-1], whole[-1] - log[-1]), written.to(key))
    own = (keys.mT @ value[-1]).unflatten(2, (levels, -1))
    decay = whole[-1].to(key.dtype).exp()
    memory = [own[:, :, each] for each in range(levels)]
    for each, held in entering[-1].items():
        memory[each] = memory[each] + decay * held
    return join(y, length), torch.stack(memory, dim=2)


def _met(
    entering: list[dict[int, Tensor]], like: Float[Tensor, "B H F V"]
) -> tuple[Int[Tensor, "M P"], Float[Tensor, "M B H PF V"]]:
    """The levels that each chunk meets and their memories, side by side; filled up with zeros to as many for
    every chunk."""
    most, nothing = max(1, *map(len, entering)), torch.zeros_like(like)
    index = [[*each, *(0,) * (most - len(each))] for each in entering]
    memories = [torch.cat([*each.values(), *(nothing,) * (most - len(each))], dim=-2) for each in entering]
    return torch.tensor(index, device=like.device), torch.stack(memories)


def _split(form: FenwickRecurrence, size: int) -> list[Tensor]:
    """Queries, keys, values, level weights and the cumulative log decay of every chunk."""
    linear = form.recurrence
    tensors = (linear.scaled_query, linear.key, linear.value, form.level_weight)
    log = cumulative_log_decay(linear.log_decay, linear.key, size)
    return [*(split(tensor, size) for tensor in tensors), log]


def _at(weight: Tensor, level: Tensor) -> Tensor:
    """The weights [M,B,H,C,L] of the levels [M,B,C,N] -> [M,B,H,C,N]."""
    return weight.gather(-1, level[:, :, None].expand(-1, -1, weight.shape[2], -1, -1))


def _per_level(x: Tensor, weight: Tensor) -> Tensor:
    """A copy of the channels [M,B,H,C,F] for every level, times its weight [M,B,#H,C,L] -> [M,B,H,C,L F]."""
    return (weight[..., None] * x[..., None, :]).flatten(-2)
