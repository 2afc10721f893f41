"""The derivative of one super-block of a linear recurrence, in the notation of ``block``.

With Z = [-dU; dY] for the rows, and dS the gradient of the memory that leaves the chunk,

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

import torch
from torch import Tensor

from ttr.engines.torch.linear.block import Block
from ttr.engines.torch.linear.decays import dots, prefix_sums, row_parts, suffix_sums


class BlockDerivative(Block):
    """The super-block, and its backward pass."""

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

    def _scores_again(self, x: Tensor, keys: Tensor) -> Tensor:
        """The scores that the derivative needs: A^q in the last rows, and A^k with erase keys."""
        if self.decay.halving or self.g.keys > self.g.pairs:
            return self._scores(x, keys)
        queries = self.g.tokens
        return (x.flatten(0, 1)[:, -queries:] @ keys.flatten(0, 1).mT).mul_(self.mask[-queries:])

    def _states(self, state: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The memories [M+1,G,F,V] between the chunks, from what each chunk writes."""
        states = self.buffers.states[: self.count + 1]
        states[0].copy_(state)
        for i in range(self.count):
            self._decayed(states[i + 1].copy_(states[i]), i).baddbmm_(keys[i].mT, values[i])
        return states

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
