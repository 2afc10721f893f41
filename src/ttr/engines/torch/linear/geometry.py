"""Sizes of a super-block, and the buffers that all super-blocks of a call share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.forms.linear_recurrence import LinearRecurrence

BLOCK_TOKENS = 256
"""Tokens of a super-block: its tensors stay in the cache, and one memory per super-block is saved for the
backward pass."""


@dataclass(frozen=True)
class Geometry:
    """Sizes: G memories (batch x heads), C tokens and N pairs per chunk, J keys per chunk, R rows, M chunks
    per super-block."""

    states: int
    time: int
    tokens: int
    pairs: int
    keys: int
    rows: int
    per_block: int
    key_size: int
    value_size: int

    @classmethod
    def of(cls, r: LinearRecurrence, chunk: int) -> Geometry:
        batch, time, heads, key_size = r.query.shape
        tokens = min(chunk, 1 << max(time - 1, 0).bit_length())
        pairs = tokens * r.pairs
        keys = pairs if r.erase is None else 2 * pairs
        rows = tokens if r.read is None else tokens + pairs
        per_block = max(1, min(BLOCK_TOKENS // tokens, -(-time // tokens)))
        return cls(batch * heads, time, tokens, pairs, keys, rows, per_block, key_size, r.value.shape[-1])

    @property
    def chunks(self) -> int:
        return -(-self.time // self.tokens)

    @property
    def blocks(self) -> int:
        return -(-self.chunks // self.per_block)


class Buffers:
    """The tensors that all super-blocks of a call write to, allocated once: M chunks, G memories."""

    def __init__(self, g: Geometry, r: LinearRecurrence, backward: bool = False) -> None:
        self.geometry = g
        lead, like = (g.per_block, g.states), r.query

        def empty(*shape: int) -> Tensor:
            return like.new_empty(*shape)

        self.x, self.keys = empty(*lead, g.rows, g.key_size), empty(*lead, g.keys, g.key_size)
        self.written = empty(*lead, g.keys, g.value_size)
        self.scores = empty(*lead, g.rows, g.keys)
        self.inverse = empty(*lead, g.pairs, g.pairs)
        self.error = empty(g.states, g.pairs, g.value_size)
        self.read_out = empty(*lead, g.rows, g.value_size)
        if backward:
            self.states = empty(g.per_block + 1, g.states, g.key_size, g.value_size)
            self.grad_x, self.grad_keys = torch.empty_like(self.x), torch.empty_like(self.keys)
            self.grad_written, self.z = torch.empty_like(self.written), empty(*lead, g.rows, g.value_size)
            self.grad_scores = torch.empty_like(self.scores)
        self.mask = _mask(g, r)


def _mask(g: Geometry, r: LinearRecurrence) -> Tensor:
    """[R,J]: 1 where a row sees a key. Rows of P see the pairs before their own, queries those up to the last
    of their token."""
    pair = torch.arange(g.pairs, device=r.query.device)
    token = torch.arange(r.pairs - 1, g.pairs, r.pairs, device=r.query.device)
    queries = pair < token[:, None] + (0 if r.reads_first else 1)
    mask = queries if r.read is None else torch.cat([pair < pair[:, None], queries])
    return mask.repeat(1, g.keys // g.pairs).to(r.query.dtype)
