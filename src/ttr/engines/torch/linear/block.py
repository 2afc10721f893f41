"""One super-block of a linear recurrence: the mathematics of a chunk and of its derivative.

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

Derivative. With Z = [-dU; dY] for the rows, and dS the gradient of the memory that leaves the chunk,

    dW = A^q^T dY + E^ dS,   dU = (I + A)^-T dW,   dV' = dU (with erase keys: A^q^T dY + K^ dS - A^k^T dU)
    dS_0 = e^{b_C} dS + X~^T Z,   dX~ = Z S_0^T,   d[A; A^q] = Z W^T,   dE^ = W dS^T

W and (I + A)^-1 are saved, memories recomputed from the one that enters the super-block. As b enters only
through X e^b, E e^-b and e^{b_C},

    db_i = X_i.dX_i - E_i.dE_i,   d log_decay_i = sum_{j>=i} db_j + S.dS    (per channel: without the sum over
        channels)

where j runs to the end of the super-block and S is the memory that leaves it. The same holds with the end of
a chunk or of the sequence; but one S.dS per chunk would cost a tenth of the pass, and sums over a whole
sequence would lose digits by cancellation.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.engines.torch.linear.decays import Decays, Halving, dots, prefix_sums, row_parts, suffix_sums
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

    def _scores_again(self, x: Tensor, keys: Tensor) -> Tensor:
        """The scores that the derivative needs: A^q in the last rows, and A^k with erase keys."""
        if self.decay.halving or self.g.keys > self.g.pairs:
            return self._scores(x, keys)
        queries = self.g.tokens
        return (x.flatten(0, 1)[:, -queries:] @ keys.flatten(0, 1).mT).mul_(self.mask[-queries:])

    def _parts(self) -> Iterator[tuple[slice, slice, Halving]]:
        """For every part of the rows and every kind of keys: both slices, and their halved products."""
        for halving in self.decay.halving:
            for columns in self._kinds_of_keys():
                yield halving.part.rows, columns, halving

    def _kinds_of_keys(self) -> list[slice]:
        """The keys at which corrected values are written and, with erase keys, also those of the values."""
        return [slice(start, start + self.g.pairs) for start in range(0, self.g.keys, self.g.pairs)]

    def _states(self, state: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The memories [M+1,G,F,V] between the chunks, from what each chunk writes."""
        states = self.buffers.states[: self.count + 1]
        states[0].copy_(state)
        for i in range(self.count):
            self._decayed(states[i + 1].copy_(states[i]), i).baddbmm_(keys[i].mT, values[i])
        return states

    # --------------------------------------------------------------------------------------------- derivative
    def backward(
        self,
        state: Tensor,
        grad_state: Tensor,
        grad_y: Tensor,
        gradients: list[Tensor | None],
        written: Tensor,
        inverse: Tensor,
    ) -> None:
        """Write the gradients of this block's tokens; update ``grad_state`` [G,F,V] from the gradient of the
        memory that leaves to that of the one that enters."""
        g, pairs, buffers = self.g, self.g.pairs, self.buffers
        x, keys, values = self._fill()
        x_state, keys_state = self._for_memory(x, keys)
        if self.corrects:
            values[:, :, :pairs] = written
        scores = self._scores_again(x, keys)
        states = self._states(state, keys_state, values)
        z, grad_values = buffers.z[: self.count], buffers.grad_written[: self.count]
        self._product(z[:, :, -g.tokens :], self._load(grad_y, 1), None, None)
        torch.bmm(scores[:, -g.tokens :].mT, z.flatten(0, 1)[:, -g.tokens :], out=grad_values.flatten(0, 1))
        grad_x, grad_keys = buffers.grad_x[: self.count], buffers.grad_keys[: self.count]
        of_states = self._scan_back(
            grad_state, states, x_state, keys_state, values, inverse, z, grad_values, grad_x, grad_keys
        )

        flat_z, flat_values = z.flatten(0, 1), values.flatten(0, 1)
        grad_scores = torch.bmm(
            flat_z, flat_values.mT, out=buffers.grad_scores[: self.count].flatten(0, 1)
        ).mul_(self.mask)
        self._through_products(grad_scores, x, keys, grad_x, grad_keys, gradients[6], of_states)
        if g.keys > pairs:
            through_target = torch.bmm(scores[:, :pairs, pairs:].mT, flat_z[:, :pairs])
            grad_value = grad_values[:, :, pairs:] + through_target.view(self.count, -1, pairs, g.value_size)
        else:
            grad_value = z[:, :, :pairs].neg_() if self.corrects else grad_values
        self._store_gradients(gradients, grad_x, grad_keys, grad_value)

    def _scan_back(
        self,
        grad_state: Tensor,
        states: Tensor,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        inverse: Tensor,
        z: Tensor,
        grad_values: Tensor,
        grad_x: Tensor,
        grad_keys: Tensor,
    ) -> list[Tensor]:
        """Chunk by chunk from the last, while the gradient of the memory is in the cache: dW, the part -dU of
        ``z``, the gradients of rows and keys through the memories, and S.dS of the memories that the log
        decays multiply."""
        pairs, of_states = self.g.pairs, []
        if self.decay.chunk is not None and not self.decay.halving:
            of_states.append(self._of_state(states[self.count], grad_state))
        for i in reversed(range(self.count)):
            grad_values[i].baddbmm_(keys[i], grad_state)
            torch.bmm(values[i], grad_state.mT, out=grad_keys[i])
            if self.corrects:
                torch.neg(
                    torch.bmm(inverse[i].mT, grad_values[i, :, :pairs], out=self.buffers.error),
                    out=z[i, :, :pairs],
                )
            torch.bmm(z[i], states[i].mT, out=grad_x[i])
            self._decayed(grad_state, i)
            if self.decay.halving:
                of_states.insert(0, self._of_state(states[i], grad_state))
            grad_state.baddbmm_(x[i].mT, z[i])
        return of_states

    def _through_products(
        self,
        grad_scores: Tensor,
        x: Tensor,
        keys: Tensor,
        grad_x: Tensor,
        grad_keys: Tensor,
        grad_log_decay: Tensor | None,
        of_states: list[Tensor],
    ) -> None:
        """Add the gradients of rows and keys through the scores to those through the memories; store the
        gradients of the log decays."""
        d = self.decay
        if d.row_to_memory is not None:
            grad_x.mul_(d.row_to_memory)
        if d.key_to_memory is not None:
            grad_keys.mul_(d.key_to_memory)
        if d.halving:
            grad_log = self._log_decay_of_memories(x, keys, grad_x, grad_keys, torch.stack(of_states))
            square = grad_scores.view(self.count, -1, *grad_scores.shape[1:])
            for rows, columns, halving in self._parts():
                halving.add_gradients(
                    square[:, :, rows, columns],
                    x[:, :, rows],
                    keys[:, :, columns],
                    grad_x[:, :, rows],
                    grad_keys[:, :, columns],
                    grad_log,
                )
        else:
            grad_x.flatten(0, 1).baddbmm_(grad_scores, keys.flatten(0, 1))
            grad_keys.flatten(0, 1).baddbmm_(grad_scores.mT, x.flatten(0, 1))
            grad_log = None if d.chunk is None else self._log_decay(x, keys, grad_x, grad_keys, *of_states)
        if grad_log_decay is not None:
            self._store(
                grad_log,
                grad_log_decay if grad_log_decay.ndim == 4 else grad_log_decay[..., None],
                self.r.pairs,
            )

    def _store_gradients(
        self, gradients: list[Tensor | None], grad_x: Tensor, grad_keys: Tensor, grad_value: Tensor
    ) -> None:
        """From the gradients of rows, keys and V' to those of query, key, value, read, erase and step."""
        r, g, d = self.r, self.g, self.decay
        query, key, value, read, erase, step, _ = gradients
        of_pairs, of_queries = (
            (None, None) if d.row is None else (d.row[:, :, : g.pairs], d.row[:, :, -g.tokens :])
        )
        of_keys = None if d.key is None else d.key[:, :, : g.pairs]
        grad_query, correction = grad_x[:, :, -g.tokens :], grad_x[:, :, : g.pairs]
        self._store(grad_query, query, 1, r.scale if of_queries is None else of_queries * r.scale)
        steps = None if self.step is None else self.step.flatten(1, 2)
        if step is not None:
            grad_step = self._dot(grad_value, r.value, None)
            if self.corrects:
                grad_step += self._dot(correction, r.read, of_pairs)
            self._store(grad_step, step[..., None], r.pairs)
        if erase is not None:
            self._store(grad_keys[:, :, : g.pairs], erase, r.pairs, of_keys)
        grad_key = grad_keys[:, :, -g.pairs :]
        if self.corrects:
            of_reads = of_pairs if steps is None else steps if of_pairs is None else of_pairs * steps
            if read is not None:
                self._store(correction, read, r.pairs, of_reads)
            else:
                grad_key = grad_key if of_keys is None else grad_key.mul_(of_keys)
                grad_key, of_keys = (
                    grad_key.add_(correction)
                    if of_reads is None
                    else grad_key.addcmul_(correction, of_reads),
                    None,
                )
        self._store(grad_key, key, r.pairs, of_keys)
        self._store(grad_value, value, r.pairs, steps)

    def _dot(self, x: Tensor, y: Tensor, factor: Tensor | None) -> Tensor:
        """sum_d x_d y_d [M,G,N,1] of chunks x [M,G,N,D], times a factor [M,G,N,1 or D] if there is one, and
        the block's part of y [B,L,H,D]."""
        per_channel = factor is not None and factor.shape[-1] > 1
        x = x * factor if per_channel else x
        dot = torch.linalg.vecdot(
            x.unflatten(1, (y.shape[0], y.shape[2])), self._load(y, self.r.pairs)
        ).flatten(1, 2)[..., None]
        return dot if per_channel or factor is None else dot.mul_(factor)

    def _of_state(self, state: Tensor, grad_state: Tensor) -> Tensor:
        """S.dS of every memory, [G,1,E]."""
        if self.channels:
            return torch.linalg.vecdot(state, grad_state)[:, None]
        return torch.linalg.vecdot(state.flatten(1), grad_state.flatten(1))[:, None, None]

    def _dots(
        self, x: Tensor, keys: Tensor, grad_x: Tensor, grad_keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Three sums of x.dx: over the rows whose decay ends at a pair, [M,G,N,E]; over the keys of that
        pair, [M,G,N,E]; over all rows of a chunk, [M,G,E], including those whose decay ends before the
        chunk."""
        of_rows, of_keys = dots(x, grad_x, self.channels), dots(keys, grad_keys, self.channels)
        parts = [part.on_pairs(of_rows[:, :, part.rows]) for part in row_parts(self.g, self.r)]
        return (
            sum(parts[1:], parts[0]),
            sum(of_keys[:, :, columns] for columns in self._kinds_of_keys()),
            of_rows.sum(2),
        )

    def _log_decay(
        self, x: Tensor, keys: Tensor, grad_x: Tensor, grad_keys: Tensor, of_last: Tensor
    ) -> Tensor:
        """The gradient of the log decay where everything is scaled relative to the start of the chunk: see
        the head of this file."""
        of_rows, of_keys, whole_chunk = self._dots(x, keys, grad_x, grad_keys)
        in_later = suffix_sums((whole_chunk - of_keys.sum(2)).movedim(0, -2)).movedim(-2, 0)[1:]
        log = suffix_sums(of_rows - of_keys).add_(of_last)
        log[:-1] += in_later[:, :, None]
        return log

    def _log_decay_of_memories(
        self, x: Tensor, keys: Tensor, grad_x: Tensor, grad_keys: Tensor, of_states: Tensor
    ) -> Tensor:
        """The part of the log decays' gradient through the memories: rows that read the one that enters, keys
        that write to the one that leaves, and the decay between the two."""
        of_rows, of_keys, _ = self._dots(x, keys, grad_x, grad_keys)
        return suffix_sums(of_rows) + prefix_sums(of_keys) + of_states

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
