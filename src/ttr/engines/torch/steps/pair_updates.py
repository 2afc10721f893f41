"""Pair updates before a token's own pair is stored: it may transport the older keys, and the older pairs may
correct its value."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ttr.forms import CorrectedPairs, TransportedPairs
from ttr.forms.pair_weights import probabilities
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.slots import pair_index


def updated(problem: Problem, x: Inputs) -> Inputs:
    """The one token of ``x`` and the state after these updates, ready to be stored."""
    if problem.form is TransportedPairs:
        return _transported(x)
    if problem.form is CorrectedPairs:
        return _corrected(problem, x)
    return x


def _transported(x: Inputs) -> Inputs:
    """k <- k - beta w (w.k) for every key of the state."""
    w, step, keys = x.controls["transport_key"], x.controls["step_size"], x.state["keys"]
    along = step[..., None] * (keys * w).sum(-1, keepdim=True)
    return dataclasses.replace(x, state=x.state.replace(keys=keys - along * w))


def _corrected(problem: Problem, x: Inputs) -> Inputs:
    """v <- v - beta m(q), with m fitted to the pairs of the state, without the one that leaves the window
    now."""
    params, window, state = x.axis_params("function"), problem.weights.window, x.state
    if state["keys"].shape[1] == 0:
        return x
    query = problem.function.query(x.grouped(x.q)[:, 0], params)
    keys = problem.function.key(x.grouped(state["keys"]), params)
    logits = state["log_weight"] + (keys * query[:, None]).sum(-1)
    if x.log_decay is not None:  # the same for all pairs, so only a reset matters: it erases them
        logits = logits + x.log_decay
    if window is not None:
        logits = logits.masked_fill(
            (pair_index(state, window) <= state.position[:, None] - window)[..., None], -torch.inf
        )
    return dataclasses.replace(x, v=x.v - x.controls["step_size"][..., None] * _mean(logits, state["values"]))


def _mean(logits: Tensor, values: Tensor) -> Tensor:
    """The mean [B,1,H,V] of values [B,N,H,V] with the weights exp(logits [B,N,H]); 0 where all weights are
    0."""
    return torch.einsum("bhn,bnhv->bhv", probabilities(logits.mT, True), values)[:, None]
