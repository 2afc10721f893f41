"""Additive memories with few value channels per head, scanned block by block: state spaces and gated
recurrent units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttr.engines.engine import Engine
from ttr.forms import LinearRecurrence
from ttr.forms.sums import lengthened
from ttr.inputs import Inputs, needs_composite
from ttr.problem import Problem
from ttr.state import State


@dataclass(frozen=True)
class ChannelScan(Engine):
    """S_t = D_t S_{t-1} + k_t v_t^T, elementwise in the state: a scan over blocks (the selective scan of
    arXiv 2312.00752).

    Where a head has one or two value channels, the matrix products of the chunkwise form save nothing. A
    block of tokens computes its states, reads them and frees them; the backward pass recomputes them from the
    state that entered the block, so that neither pass holds more than the states of a block. Decays are
    multiplied, never divided.

    Args:
        entries: of the states of all tokens of a block, B x T x H x K.
        run_length: tokens computed one after the other, and runs of tokens in parallel.
    """

    entries: int = 2**21
    run_length: int = 16
    widest: int = 2

    name: ClassVar[str] = "channel-scan"

    def small(self) -> Engine:
        return type(self)(entries=64, run_length=2)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not LinearRecurrence or not problem.solver.additive:
            return (
                "It runs memories that are a sum of pairs, each written once and then only decayed, over "
                "the whole past."
            )
        if torch.compiler.is_compiling():
            return "Its blocks depend on the length of the call, which is not fixed in a compiled call."
        if x is not None and x.v.shape[-1] > self.widest:
            return (
                f"It scans the state elementwise, which is fast for up to {self.widest} value "
                f"channels per head; here there are {x.v.shape[-1]}."
            )
        return None

    def tokens(self, problem: Problem, x: Inputs) -> int:
        """How many tokens a block has."""
        return max(self.run_length, self.entries // max(x.q.shape[0] * x.heads * x.q.shape[-1], 1))

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        outputs, state, block = [], x.state, self.tokens(problem, x)
        keep = not x.wants_grad or x.length <= block or needs_composite()
        for part in x.split(block):
            y, state = (
                self._block(problem, part, state)
                if keep
                else checkpoint(
                    self._block, problem, part, state, use_reentrant=False, preserve_rng_state=False
                )
            )
            outputs.append(y)
        return torch.cat(outputs, dim=1), state

    def _block(self, problem: Problem, x: Inputs, state: State) -> tuple[Tensor, State]:
        x = x.after(state)
        form = self.lower(problem, x)
        return form.finish(x, *self.scan(form, x.wants_grad))

    def lower(self, problem: Problem, x: Inputs) -> LinearRecurrence:
        """The recurrence of a block."""
        return problem.lower(x)

    def scan(self, form: LinearRecurrence, wants_grad: bool) -> tuple[Tensor, Tensor]:
        """y [B,T,H,V] and the final memory [B,H,F,V]."""
        value = form.value if form.step is None else form.value * form.step[..., None]
        log_decay = (
            form.key.new_zeros(1, form.key.shape[1], 1, 1) if form.log_decay is None else form.log_decay
        )
        decay = log_decay.exp().reshape(*log_decay.shape, *(1,) * (5 - log_decay.ndim))
        states, memory = scan(decay, form.key[..., None] * value[..., None, :], form.memory, self.run_length)
        if form.reads_first:
            states = torch.cat([form.memory[:, None], states[:, :-1]], dim=1)
        y = (form.scaled_query[..., None] * states[:, form.pairs - 1 :: form.pairs]).sum(-2)
        return y, memory


def scan(
    decay: Float[Tensor, "#B C #H #F 1"],
    added: Float[Tensor, "B C H F V"],
    start: Float[Tensor, "B H F V"],
    length: int,
) -> tuple[Float[Tensor, "B C H F V"], Float[Tensor, "B H F V"]]:
    """All S_c = kept_c S_{c-1} + added_c, and the last of them.

    Runs of ``length`` tokens are computed in parallel, each from an empty state and with the products of its
    decays; a second, shorter scan computes the state that enters each run, which is decayed and added.
    """
    tokens = added.shape[1]
    if not tokens:
        return added, start
    after = -tokens % length  # padding: tokens without decay that add nothing
    decay, added = (
        lengthened(x, 1, after, fill).unflatten(1, (-1, length)).unbind(2)
        for x, fill in ((decay, 1.0), (added, 0.0))
    )
    states, products = [added[0]], [decay[0]]
    for share, new in zip(decay[1:], added[1:], strict=True):
        states.append(share * states[-1] + new)
        products.append(share * products[-1])
    entering = []
    for share, new in zip(products[-1].unbind(1), states[-1].unbind(1), strict=True):
        entering.append(start)
        start = share * start + new
    before = torch.stack(entering, dim=1)[:, :, None]
    return (torch.stack(states, dim=2) + torch.stack(products, dim=2) * before).flatten(1, 2)[
        :, :tokens
    ], start
