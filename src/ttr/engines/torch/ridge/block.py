"""The chunks of a block of tokens: their weights, the moments between them, and the derivative of both."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ttr.engines.torch.ridge.solve import Report, solve
from ttr.engines.torch.ridge.system import System
from ttr.forms.pair_weights import CumulativeDecay


def cut(x: Float[Tensor, "B L H *rest"], size: int) -> Float[Tensor, "N R C *rest"]:
    """N chunks of ``size`` tokens for R = B H rows, the last padded with zeros: pairs that write nothing,
    without decay."""
    x = pad(x, (0, 0) * (x.ndim - 2) + (0, -x.shape[1] % size)) if x.shape[1] % size else x
    return x.unflatten(1, (-1, size)).movedim((1, 3), (0, 2)).flatten(1, 2).contiguous()


def join(x: Float[Tensor, "N R C *rest"], out: Float[Tensor, "B L H *rest"]) -> None:
    """Undo ``cut``."""
    out.copy_(x.unflatten(1, (out.shape[0], -1)).movedim((0, 2), (1, 3)).flatten(1, 2)[:, : out.shape[1]])


def factors(
    log_decay: Float[Tensor, "*lead C"], log_importance: Float[Tensor, "*lead C"]
) -> tuple[Float[Tensor, "*lead C C"], Float[Tensor, "*lead C"], Float[Tensor, "*lead C"]]:
    """W_ti = w_i times the decay from pair i to token t of the same chunk, a_t, the decay up to token t of
    what came before the chunk, and e_i w_i with the decay e_i from pair i to the end."""
    decay, whole = CumulativeDecay.of(log_decay), slice(None)
    future = torch.ones(2 * log_decay.shape[-1:], dtype=torch.bool, device=log_decay.device).triu(1)
    inside = decay.between(whole, whole).to(log_importance) + log_importance[..., None, :]
    to_end = decay.to_end().to(log_importance) + log_importance
    return (
        inside.masked_fill(future, -torch.inf).exp(),
        decay.since_start().to(log_importance).exp(),
        to_end.exp(),
    )


class Block:
    """N chunks of C tokens for R rows, from the moments [H U] [R,F,D] before them, as G = N R independent
    systems and

        y_t = a_t U_0^T x_t + sum_{i<=t} W_ti (x_t.k_i) v_i,        A_t x_t = q_t,

    where H_0 and U_0 are the moments that enter the token's chunk, a_t is their decay up to token t, and W_ti
    is w_i times the decay from pair i to token t. Then U_C = a_C U_0 + sum_i e_i w_i k_i v_i^T, and H_C
    likewise, with e_i the decay from pair i to the end of the chunk.
    """

    def __init__(
        self,
        key: Float[Tensor, "N R C F"],
        value: Float[Tensor, "N R C V"],
        log_decay: Float[Tensor, "N R C"],
        log_importance: Float[Tensor, "N R C"],
        ridge: Float[Tensor, "R F"],
        start: Float[Tensor, "R F D"],
    ) -> None:
        self.count, self.rows = key.shape[:2]
        self.size, self.features = key.shape[2:]
        everything, decay = slice(None), CumulativeDecay.of(log_decay)
        importance = log_importance[..., None].exp()
        future = torch.ones(self.size, self.size, dtype=torch.bool, device=key.device).triu(1)
        weights = (
            decay.between(everything, everything)
            .masked_fill_(future, -torch.inf)
            .to(key)
            .exp_()
            .mul_(importance.mT)
        )
        since_start = decay.since_start()
        self.to_end = decay.to_end().to(key).exp_()[..., None].mul_(importance).flatten(0, 1)
        self.last = since_start[..., -1:, None].to(key).exp()

        pairs = key.new_empty(self.count, self.rows, self.size + self.features, start.shape[-1])
        pairs[:, :, : self.size, : self.features] = key
        pairs[:, :, : self.size, self.features :] = value
        entering, self.end = pairs[:, :, self.size :], torch.empty_like(start)
        entering[0] = start
        written = self._unfold((self.to_end * key.flatten(0, 1)).mT @ pairs.flatten(0, 1)[:, : self.size])
        for i in range(self.count):
            torch.addcmul(
                written[i], self.last[i], entering[i], out=entering[i + 1] if i + 1 < self.count else self.end
            )
        self.system = System(
            pairs.flatten(0, 1),
            weights.flatten(0, 1),
            since_start.to(key).exp()[..., None].flatten(0, 1),
            since_start.flatten(0, 1),
            ridge[:, None].expand(self.count, -1, -1, -1).flatten(0, 1),
        )

    def forward(self, query: Float[Tensor, "N R C F"], report: Report) -> tuple[Tensor, Tensor, Tensor]:
        """The read-outs [N,R,C,V], and what the derivative needs: the solutions and the preconditioner's
        factors."""
        solution, factors = solve(self.system, query.flatten(0, 1), None, report)
        return self._unfold(self.system.read(solution)), solution, factors

    def backward(
        self,
        solution: Tensor,
        factors: Tensor,
        grad_y: Float[Tensor, "N R C V"],
        grad_state: Float[Tensor, "R F D"],
        report: Report,
    ) -> tuple[Tensor, ...]:
        """Gradients of query, key, value, log decay, log importance (as they were given), ridge [R,F] and the
        moments before.

        With g_t = dL/dy_t, the implicit function theorem gives dq_t = z_t, A_t z_t = U_t g_t, and all else is
        the gradient of sum_t x_t^T U_t g_t - x_t^T A_t z_t at fixed x and z, in which W_ti multiplies
        (x_t.k_i) (v_i.g_t - k_i.z_t).
        """
        s, grad_y = self.system, grad_y.flatten(0, 1)
        both, moments = s.pairs[:, : self.size], s.pairs[:, self.size :]
        value_scores = grad_y @ s.values.mT
        right = ((s.decay * grad_y) @ s.memory.mT).baddbmm_(s.weights * value_scores, s.keys)
        adjoint, _ = solve(s, right, factors, report)

        met = solution @ s.keys.mT
        error = value_scores.baddbmm_(adjoint, s.keys.mT, alpha=-1).mul_(s.weights)
        log_weights, seen = error * met, met.mul_(s.weights)
        grad_key = (error.mT @ solution).baddbmm_(seen.mT, adjoint, alpha=-1)
        grad_value = seen.mT @ grad_y
        aim, held = torch.cat([-adjoint, grad_y], dim=-1), s.decay * solution
        log_moments = torch.linalg.vecdot(held @ moments, aim)

        own, ends = self._unfold(held.mT @ aim), grad_state.new_empty(self.count, *grad_state.shape)
        for i in reversed(range(self.count)):
            ends[i] = grad_state
            grad_state = torch.addcmul(own[i], self.last[i], grad_state)
        log_last = self.last[..., 0, 0] * (self._unfold(moments) * ends).sum((-2, -1))
        ends = ends.flatten(0, 1)
        carried = s.keys @ ends
        log_to_end = self.to_end[..., 0] * torch.linalg.vecdot(carried, both)
        carried.mul_(self.to_end)
        grad_key.add_(carried[..., : self.features]).addcmul_(self.to_end, both @ ends.mT)
        grad_value.add_(carried[..., self.features :])

        # Sums of the same numbers, in float64 where the device has it, so that those which cancel leave no
        # error.
        wide = log_weights.dtype if log_weights.device.type == "mps" else torch.float64
        written = log_weights.sum(-2, dtype=wide) + log_to_end
        decay_sums = log_weights.sum(-1, dtype=wide) + log_moments - written
        decay_sums[:, -1] += log_to_end.sum(-1, dtype=wide) + log_last.flatten()
        grad_decay = (
            decay_sums @ torch.ones(self.size, self.size, dtype=wide, device=decay_sums.device).tril()
        )
        grad_ridge = self._unfold((adjoint * solution).sum(-2)).sum(0).neg_()
        found = (adjoint, grad_key, grad_value, grad_decay.to(grad_key), written.to(grad_key))
        return *(self._unfold(x) for x in found), grad_ridge, grad_state

    def _unfold(self, x: Float[Tensor, "G ..."]) -> Float[Tensor, "N R ..."]:
        return x.unflatten(0, (self.count, self.rows))
