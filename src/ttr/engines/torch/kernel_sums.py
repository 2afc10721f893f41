"""Linear memories of wide features whose dot product is a function of a short one: pairs weighted by that
kernel, block by block, instead of a memory of all features."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import threshold
from torch.utils.checkpoint import checkpoint

from ttr.decay import RESET
from ttr.engines.engine import Engine
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.forms.pair_weights import CumulativeDecay
from ttr.functions.features.identity import Identity
from ttr.inputs import Inputs, needs_composite
from ttr.problem import Function, Problem
from ttr.state import State

TOKENS_PER_FEATURE, SHORT = 4, 512
"""A token costs T (K + V) / 2 multiplications as a sum over pairs, and 2 F V through features: sequences of
more tokens than so many for each feature are left to the features, unless they are short."""


class KernelSums(Engine):
    """y_t = s sum_{i<=t} e^{c_t - c_i} kappa(z_t.z_i) v_i with kappa(z_q.z_k) = phi(q).phi(k), ``block``
    queries at a time: for a polynomial of degree 2 the features phi of 64 channels are 2,145 numbers. Only a
    state that is not empty, or is wanted, needs them."""

    name: ClassVar[str] = "kernel-sums"

    def __init__(self, block: int = 256) -> None:
        self.block = block

    def small(self) -> KernelSums:
        return KernelSums(block=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        function, solver = problem.function, problem.solver
        if not function.kernelised:
            return "It needs features whose dot product is a function of that of shorter vectors (Taylor)."
        if problem.form is not LinearRecurrence or not solver.additive or solver.controls():
            return "It sums pairs, and this memory corrects or stores them otherwise."
        if problem.recurrence is not None or problem.weights.retention == "channel":
            return "It weights whole pairs, and these weights are of channels or change what is written."
        if x is not None and isinstance(x.length, torch.SymInt):
            return "Its number of blocks depends on that of tokens, which this exported graph leaves open."
        features = function.feature_size(1 if x is None else x.k.shape[-1])
        if x is not None and x.length > max(SHORT, TOKENS_PER_FEATURE * features):
            return f"A sequence of {x.length} tokens is faster through its {features} features."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        function, params = problem.function, x.axis_params("function")
        plain = dataclasses.replace(problem, function=dataclasses.replace(function, features=Identity()))
        query, key = (
            function.features.inner(given, function.of_side(side, params))
            for side, given in (("query", x.grouped(x.q)), ("key", x.grouped(x.k)))
        )
        r = plain.lower(dataclasses.replace(x, q=query, k=key))
        value = r.value if r.step is None else r.step[..., None] * r.value
        decay = None if x.log_decay is None else CumulativeDecay.of(x.log_decay.mT)
        query, key, value = (t.transpose(1, 2) for t in (r.query, r.key, value))
        recompute = x.wants_grad and x.length > self.block and not needs_composite()
        parts = [value[:, :, :0]]
        for start in range(0, x.length, self.block):
            arguments = (function, query[:, :, start : start + self.block], key, value, decay, start)
            parts.append(
                checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False)
                if recompute
                else _block(*arguments)
            )
        y, memory = torch.cat(parts, dim=2), r.memory
        if needs_composite() or memory.requires_grad or bool(memory.any()):
            features = function.features(x.grouped(x.q), function.of_side("query", params)).transpose(1, 2)
            read = features @ memory
            y = y + (read if decay is None else decay.since_start().exp()[..., None].to(read) * read)
        if x.wants_state:
            memory = _learned(function, x, value, decay, memory)
        return r.finish(x, r.scale * y.transpose(1, 2), memory)


def _block(
    function: Function, query: Tensor, key: Tensor, value: Tensor, decay: CumulativeDecay | None, start: int
) -> Tensor:
    """The sums at the queries [B,H,C,R] of the tokens from ``start`` on, over keys and values [B,H,T,.]."""
    stop = start + query.shape[2]
    weights = function.features.kernel(query @ key[:, :, :stop].mT)
    order = torch.arange(stop, device=query.device)
    later = order > order[start:, None]
    if decay is None:
        return weights.masked_fill(later, 0.0) @ value[:, :, :stop]
    log_decay = decay.between(slice(0, stop), slice(start, stop)).to(weights).masked_fill(later, -torch.inf)
    # the exponential of a reset is 0, and what comes before it would be denormal
    return (weights * threshold(log_decay, RESET, -torch.inf).exp()) @ value[:, :, :stop]


def _learned(
    function: Function, x: Inputs, value: Tensor, decay: CumulativeDecay | None, memory: Tensor
) -> Tensor:
    """The memory [B,H,F,V] of all features after the call."""
    features = function.key(x.grouped(x.k), x.axis_params("function")).transpose(1, 2)
    if decay is None or x.length == 0:
        return memory + features.mT @ value
    kept = decay.since_start()[..., -1, None, None].exp().to(memory)
    return kept * memory + features.mT @ (decay.to_end().exp().to(value)[..., None] * value)
