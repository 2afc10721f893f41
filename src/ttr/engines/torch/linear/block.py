"""One super-block of a linear recurrence: the mathematics of a chunk.

Let b_i be the cumulative log decay inside a chunk, S_0 the memory that enters it, P = step read and V' = step
value. The corrected values W, written at the keys E (``erase``, or the key itself), solve a unit lower
triangular system (the UT form of the delta rule: DeltaNet, arXiv 2406.06484; Gated DeltaNet, 2412.06464; KDA,
2510.26692),

    U = V' - P~ S_0,   (I + A) W = U,        A_ij = P_i.E_j e^{c_i - b_j}, j < i;   c = b, or b of the pair
                       before (``old``)
    y = Q~ S_0 + A^q W,                      A^q_ij = Q_i.E_j e^{b_i - b_j} over the pairs that token i sees
    S_C = e^{b_C} S_0 + E^^T W               P~ = P e^c,  Q~ = Q e^b,  E^ = E e^{b_C - b}

An additive memory has W = V'. With erase keys, the pairs (K, V') are written beside (E, W): E becomes [E; K],
W becomes [W; V'] and U = -A^k V' - P~ S_0. P and Q are stacked to the rows X = [P; Q], so that one product
serves both.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.engines.torch.linear.decays import Decays, Halving
from ttr.engines.torch.linear.geometry import Buffers
from ttr.engines.torch.linear.triangle import unit_lower_inverse
from ttr.forms.linear_recurrence import LinearRecurrence


class Block:
    """Super-block number ``index`` of a recurrence, computed in ``buffers`` of its sizes."""

    def __init__(self, buffers: Buffers, r: LinearRecurrence, index: int) -> None:
        self.r, self.g, self.mask = r, buffers.geometry, buffers.mask
        size = self.g.per_block * self.g.tokens
        self.first, self.last = index * size, min(self.g.time, (index + 1) * size)
        self.count = -(-(self.last - self.first) // self.g.tokens)
        self.chunks = slice(index * self.g.per_block, index * self.g.per_block + self.count)
        self.buffers = buffers
        self.corrects, self.channels = r.read is not None, r.log_decay is not None and r.log_decay.ndim == 4
        self.step = None if r.step is None else self._load(r.step[..., None], r.pairs)
        log = (
            None
            if r.log_decay is None
            else self._load(
                r.log_decay if r.log_decay.ndim == 4 else r.log_decay[..., None], r.pairs
            ).flatten(1, 2)
        )
        self.decay = Decays(self.g, r, log, r.query.dtype)

    def forward(self, state: Tensor, y: Tensor, written: Tensor, inverse: Tensor) -> None:
        """Write the read-outs to ``y`` [B,T,H,V], update ``state`` [G,F,V] to the memory that leaves, and
        save W and the inverse to ``written`` and ``inverse`` unless these are empty."""
        x, keys, values = self._fill()
        x_state, keys_state = self._for_memory(x, keys)
        scores, corrected, tokens = self._scores(x, keys), self.g.pairs, self.g.tokens
        read_out = self.buffers.read_out[: self.count]
        if self.corrects:
            matrix = self.buffers.inverse[: self.count]
            unit_lower_inverse(scores[:, :corrected, :corrected], matrix.flatten(0, 1))
            self._scan(state, x_state, keys_state, values, read_out, matrix, self._target(scores, values))
            if written.numel():
                written.copy_(values[:, :, :corrected])
                inverse.copy_(matrix)
        else:
            self._scan(state, x_state, keys_state, values, read_out)
        read_out.flatten(0, 1)[:, -tokens:].baddbmm_(scores[:, -tokens:], values.flatten(0, 1))
        self._store(read_out[:, :, -tokens:], y, 1)

    def _scan(
        self,
        state: Tensor,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        read_out: Tensor,
        inverse: Tensor | None = None,
        target: Tensor | None = None,
    ) -> None:
        """Chunk by chunk, while the memory is in the cache: compute the read-outs of the rows, the corrected
        values (``inverse`` times ``target``, into the first rows of ``values``), and the update of
        ``state``."""
        pairs, error, apart = self.g.pairs, self.buffers.error, self.g.keys > self.g.pairs
        for i in range(self.count):
            torch.bmm(x[i], state, out=read_out[i])
            if inverse is not None:
                torch.sub(target[i], read_out[i, :, :pairs], out=error)
                if apart:
                    values[i, :, :pairs] = torch.bmm(inverse[i], error)
                else:
                    torch.bmm(inverse[i], error, out=values[i])
            self._decayed(state, i).baddbmm_(keys[i].mT, values[i])

    def _decayed(self, state: Tensor, chunk: int) -> Tensor:
        """A memory, or its gradient, times its decay over a chunk, in place."""
        return state if self.decay.chunk is None else state.mul_(self.decay.chunk[chunk])

    def _target(self, scores: Tensor, values: Tensor) -> Tensor:
        """U without the term of the memory, -P~ S_0."""
        pairs = self.g.pairs
        if self.g.keys == pairs:
            return values
        target = torch.bmm(scores[:, :pairs, pairs:], values[:, :, pairs:].flatten(0, 1)).neg_()
        return target.view(self.count, -1, *target.shape[1:])

    def _fill(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and keys scaled for their products, and the values V', which follow the space for corrected
        values if there is one."""
        r, g, d = self.r, self.g, self.decay
        x, keys, values = (
            buffer[: self.count] for buffer in (self.buffers.x, self.buffers.keys, self.buffers.written)
        )
        rows, key = d.row, d.key
        if self.corrects:
            self._product(
                x[:, :, : g.pairs],
                self._load(r.read, r.pairs),
                self.step,
                None if rows is None else rows[:, :, : g.pairs],
            )
        self._product(
            x[:, :, -g.tokens :],
            self._load(r.query, 1),
            r.scale,
            None if rows is None else rows[:, :, -g.tokens :],
        )
        if r.erase is not None:
            self._product(
                keys[:, :, : g.pairs],
                self._load(r.erase, r.pairs),
                None,
                None if key is None else key[:, :, : g.pairs],
            )
        self._product(
            keys[:, :, -g.pairs :],
            self._load(r.key, r.pairs),
            None,
            None if key is None else key[:, :, -g.pairs :],
        )
        self._product(values[:, :, -g.pairs :], self._load(r.value, r.pairs), self.step, None)
        return x, keys, values

    def _product(self, out: Tensor, x: Tensor, step: Tensor | float | None, factor: Tensor | None) -> None:
        """``out`` [M,G,.,D] = x [M,B,H,.,D] times ``step`` [M,B,H,.,1] or a number, and times ``factor``
        [M,G,.,1 or D], unless these are None."""
        out = out.unflatten(1, x.shape[1:3])
        factor = None if factor is None else factor.unflatten(1, x.shape[1:3])
        if step is not None and factor is not None and factor.shape[-1] == 1:
            step, factor = step * factor, None
        first, second = (factor, step) if step is None else (step, factor)
        if first is None:
            out.copy_(x)
            return
        torch.mul(x, first, out=out)
        if second is not None:
            out.mul_(second)

    def _for_memory(self, x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The rows scaled to read the memory that enters, the keys scaled to write to the one that leaves."""
        d = self.decay
        return (
            x if d.row_to_memory is None else x * d.row_to_memory,
            keys if d.key_to_memory is None else keys * d.key_to_memory,
        )

    def _scores(self, x: Tensor, keys: Tensor) -> Tensor:
        """[A; A^q], masked: [MG,R,J]."""
        scores = self.buffers.scores[: self.count]
        if self.decay.halving:
            for rows, columns, halving in self._parts():
                halving.products(x[:, :, rows], keys[:, :, columns], scores[:, :, rows, columns])
            return scores.flatten(0, 1).masked_fill_(self.mask == 0, 0.0)
        return torch.bmm(x.flatten(0, 1), keys.flatten(0, 1).mT, out=scores.flatten(0, 1)).mul_(self.mask)

    def _parts(self) -> Iterator[tuple[slice, slice, Halving]]:
        """For every part of the rows and every kind of keys: both slices, and their halved products."""
        for halving in self.decay.halving:
            for columns in self._kinds_of_keys():
                yield halving.part.rows, columns, halving

    def _kinds_of_keys(self) -> list[slice]:
        """The keys at which corrected values are written and, with erase keys, also those of the values."""
        return [slice(start, start + self.g.pairs) for start in range(0, self.g.keys, self.g.pairs)]

    # ------------------------------------------------------------------------------------------------- layout
    def _load(self, x: Tensor, per_token: int) -> Tensor:
        """The block's part of x [B,L,H,D] as chunks [M,B,H,N,D]: a view, or a copy where zeros must follow
        the last token."""
        x = x[:, self.first * per_token : self.last * per_token]
        size = self.g.tokens * per_token
        if x.shape[1] < self.count * size:
            x = pad(x, (0, 0, 0, 0, 0, self.count * size - x.shape[1]))
        return x.unflatten(1, (self.count, size)).permute(1, 0, 3, 2, 4)

    def _store(self, x: Tensor, target: Tensor, per_token: int, factor: Tensor | float | None = None) -> None:
        """Write chunks x [M,G,N,D], times a number or a factor [M,G,N,1 or D] if there is one, to the block's
        part of target [B,L,H,D]."""
        x, factor = (
            t.unflatten(1, (target.shape[0], target.shape[2])) if isinstance(t, Tensor) else t
            for t in (x, factor)
        )
        target = target[:, self.first * per_token : self.last * per_token]
        size = self.g.tokens * per_token
        whole, rest = divmod(target.shape[1], size)
        targets = (
            target[:, : whole * size].unflatten(1, (whole, size)).permute(1, 0, 3, 2, 4),
            target[:, whole * size :].transpose(1, 2),
        )
        for place, part in zip(targets, (lambda t: t[:whole], lambda t: t[whole, :, :, :rest])):
            if place.numel() and factor is None:
                place.copy_(part(x))
            elif place.numel():
                torch.mul(part(x), part(factor) if isinstance(factor, Tensor) else factor, out=place)
