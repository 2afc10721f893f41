"""A kernel made of torch's matrix products: chunks in cache-sized super-blocks, buffers allocated once, and a
backward pass of its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ttr.engines.torch.linear.block import Block
from ttr.engines.torch.linear.derivative import BlockDerivative
from ttr.engines.torch.linear.geometry import BLOCK_TOKENS, Buffers, Geometry
from ttr.forms.linear_recurrence import LinearRecurrence

ROWS = 16
"""Memories (batch x heads) at a time, so that what a super-block writes stays in the cache."""


class SuperblockKernel:
    """Runs a recurrence in super-blocks of chunks; see ``block`` and ``derivative`` for the mathematics."""

    def saved_sizes(self, r: LinearRecurrence, chunk: int) -> tuple[int | torch.SymInt, ...]:
        batch, time, heads, key_size = r.query.shape
        chunks, pairs, value_size = -(-time // chunk), chunk * r.pairs, r.value.shape[-1]
        blocks = -(-chunks // max(1, BLOCK_TOKENS // chunk))
        corrections = chunks * pairs * batch * heads if r.read is not None else 0
        return (blocks * batch * heads * key_size * value_size, corrections * value_size, corrections * pairs)

    def forward(
        self, r: LinearRecurrence, chunk: int, save: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        batch, time, heads = r.query.shape[:3]
        y = r.query.new_empty(batch, time, heads, r.value.shape[-1])
        memory = r.memory.clone(memory_format=torch.contiguous_format)
        saved = tuple(r.query.new_empty(size if save else 0) for size in self.saved_sizes(r, chunk))
        buffers = None
        for part, y_part, memory_part, saved_part in _groups(r, chunk, y, memory, saved):
            geometry = Geometry.of(part, chunk)
            buffers = (
                buffers if buffers is not None and buffers.geometry == geometry else Buffers(geometry, part)
            )
            state = memory_part.flatten(0, 1).clone(memory_format=torch.contiguous_format)
            for index in range(geometry.blocks):
                block = Block(buffers, part, index)
                if save:
                    saved_part[0][index].copy_(state)
                block.forward(state, y_part, *(x[block.chunks] for x in saved_part[1:]))
            memory_part.copy_(state.view(memory_part.shape))
        return y, memory, saved

    def backward(
        self, r: LinearRecurrence, chunk: int, saved: tuple[Tensor, ...], grad_y: Tensor, grad_memory: Tensor
    ) -> tuple[Tensor | None, ...]:
        inputs = (r.query, r.key, r.value, r.read, r.erase, r.step, r.log_decay)
        shared = r.read is r.key
        gradients = [None if x is None else x.new_empty(x.shape) for x in inputs]
        gradients[3] = None if shared else gradients[3]
        first = grad_memory.clone(memory_format=torch.contiguous_format)
        buffers = None
        for part, grad_y_part, first_part, saved_part, *parts in _groups(
            r, chunk, grad_y, first, saved, *gradients
        ):
            geometry = Geometry.of(part, chunk)
            buffers = (
                buffers
                if buffers is not None and buffers.geometry == geometry
                else Buffers(geometry, part, backward=True)
            )
            grad_state = first_part.flatten(0, 1).clone(memory_format=torch.contiguous_format)
            for index in reversed(range(geometry.blocks)):
                block = BlockDerivative(buffers, part, index)
                block.backward(
                    saved_part[0][index],
                    grad_state,
                    grad_y_part,
                    parts,
                    *(x[block.chunks] for x in saved_part[1:]),
                )
            first_part.copy_(grad_state.view(first_part.shape))
        return *gradients, first


def _groups(
    r: LinearRecurrence,
    chunk: int,
    y: Tensor,
    memory: Tensor,
    saved: tuple[Tensor, ...],
    *others: Tensor | None,
) -> Iterator[tuple]:
    """The recurrence of at most ``ROWS`` memories at a time, with the same part of y, memory, the saved
    tensors and any other tensors [B,T,H,...]."""
    batch, heads = r.query.shape[0], r.query.shape[2]
    head_step = min(heads, ROWS)
    batch_step = max(1, ROWS // heads)
    g = Geometry.of(r, chunk)
    shapes = (
        (g.blocks, g.key_size, g.value_size),
        (g.chunks, g.pairs, g.value_size),
        (g.chunks, g.pairs, g.pairs),
    )
    offsets = [0, 0, 0]
    for first in range(0, batch, batch_step):
        for head in range(0, heads, head_step):
            rows, columns = slice(first, first + batch_step), slice(head, head + head_step)

            def cut(x: Tensor | None, rows=rows, columns=columns) -> Tensor | None:
                return None if x is None else x[rows, :, columns]

            part = LinearRecurrence(*map(cut, r[:7]), r.memory[rows, columns], *r[8:])
            if r.read is r.key:
                part = part._replace(read=part.key)
            count = part.memory.shape[0] * part.memory.shape[1]
            pieces = []
            for i, (x, (blocks, *shape)) in enumerate(zip(saved, shapes)):
                size = blocks * count * shape[0] * shape[1] if x.numel() else 0
                pieces.append(x[offsets[i] : offsets[i] + size].view(blocks if size else 0, count, *shape))
                offsets[i] += size
            yield part, cut(y), memory[rows, columns], tuple(pieces), *map(cut, others)
