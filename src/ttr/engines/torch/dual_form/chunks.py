"""Whole chunks of a network in mini-batches: the tensors of the call, the weights from chunk to chunk, and
the read-outs.

With W the weights that enter a chunk, Z their momentum, x_j and s_j the inputs and slopes that its pairs have
at W in a matrix,

    h_i W_i = kept_i h_i W + moved_i h_i Z - sum_{j<=i} P_ij (h_i.x_j + 1) s_j
    W' = kept_C W + moved_C Z - sum_j P_Cj x_j s_j^T
    Z' = momentum_kept Z + sum_j momentum_pairs_j x_j s_j^T

where the 1 is for a bias, which is also added at W and Z. The weights depend on pairs alone. So they are
computed first, chunk after chunk, and the queries of many chunks then read together. With a mirror, W are the
accumulated gradients: pairs see their map, and token i reads with the map of its own, which are formed.
Letters: M chunks, in blocks of N, C tokens, G = B H memories; I inputs and O outputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ttr.component import Component
from ttr.engines.torch.networks import mapped, spread
from ttr.problem import Function

Tensors = Mapping[str, Tensor]
Named = dict[str, Tensor]


@dataclass(frozen=True)
class Chunks:
    """The arguments that are not tensors: the function, the loss, the mirror, the names of the matrices, the
    chunks of a block."""

    function: Function
    loss: Component
    mirror: Component | None
    matrices: tuple[str, ...]
    block: int


class Weights(NamedTuple):
    """For every matrix and bias, by name, [G,...] or for several chunks [N,G,...]: the weights, and their
    momentum; empty without one."""

    now: Named
    momentum: Named


class Pairs(NamedTuple):
    """For every matrix, by name: inputs [N,G,C,I] and slopes [N,G,C,O] of the pairs."""

    inputs: Named
    slopes: Named


def under(kind: str, x: Tensors) -> Named:
    """The tensors of that kind: of "weight.w1" and "weight.w2" under "weight", w1 and w2."""
    return {
        name.removeprefix(f"{kind}."): tensor for name, tensor in x.items() if name.startswith(f"{kind}.")
    }


def affine(weights: Tensors, name: str, x: Tensor) -> Tensor:
    """x W + b for inputs [...,C,I], weights [...,I,O]."""
    flat, matrix = x.reshape(-1, *x.shape[-2:]), weights[name].reshape(-1, *weights[name].shape[-2:])
    if f"{name}_bias" not in weights:
        return torch.bmm(flat, matrix).view(*x.shape[:-1], -1)
    return torch.baddbmm(weights[f"{name}_bias"].reshape(-1, 1, matrix.shape[-1]), flat, matrix).view(
        *x.shape[:-1], -1
    )


def pairs_at(
    plan: Chunks, weights: Tensors, key: Tensor, value: Tensor, controls: Tensors, params: Tensors
) -> Pairs:
    """Inputs and slopes of pairs [G,C,.] at weights [G,...]."""
    inputs, outputs, weights = {}, {}, mapped(plan.mirror, weights, plan.matrices)

    def through(name: str, x: Tensor) -> Tensor:
        inputs[name], outputs[name] = x, affine(weights, name, x)
        return outputs[name]

    prediction = plan.function.forward(through, key, params)
    slopes = plan.function.slopes(
        lambda name, x: x @ weights[name].mT,
        inputs,
        outputs,
        plan.loss.slope(prediction, value, controls),
        params,
    )
    return Pairs(inputs, slopes)


def advance(weights: Weights, pairs: Pairs, x: Tensors) -> Weights:
    """The weights after a chunk."""
    now, momentum = {}, {}
    for name, start in weights.now.items():
        inputs, slopes, bias = (
            pairs.inputs[name.removesuffix("_bias")],
            pairs.slopes[name.removesuffix("_bias")],
            name.endswith("_bias"),
        )
        start = start[:, None] if bias else start
        last = x["pairs"][:, -1, :, None] * slopes
        if "kept" in x:
            start = x["kept"][:, -1, None, None] * start
        if weights.momentum:
            past = weights.momentum[name][:, None] if bias else weights.momentum[name]
            start = torch.addcmul(start, x["moved"][:, -1, None, None], past)
            added, past = x["momentum_pairs"][..., None] * slopes, x["momentum_kept"][:, None, None] * past
            momentum[name] = (
                (past + added.sum(1, keepdim=True))[:, 0] if bias else torch.baddbmm(past, inputs.mT, added)
            )
        now[name] = (
            (start - last.sum(1, keepdim=True))[:, 0]
            if bias
            else torch.baddbmm(start, inputs.mT, last, alpha=-1)
        )
    return Weights(now, momentum)


def read(plan: Chunks, weights: Weights, pairs: Pairs, x: Tensors, name: str, h: Tensor) -> Tensor:
    """h_i W_i for inputs h [N,G,C,I] of all queries."""
    if plan.mirror is not None:
        tokens = range(h.shape[-2])
        reads = (
            affine(_mapped(plan, weights, pairs, x, name, i), name, h[..., i : i + 1, :]) for i in tokens
        )
        return torch.cat(list(reads), dim=-2)
    scores = h @ pairs.inputs[name].mT
    if f"{name}_bias" in weights.now:
        scores = scores + 1
    start = affine(weights.now, name, h)
    if "kept" in x:
        start = x["kept"][..., None] * start
    if weights.momentum:
        start = start + x["moved"][..., None] * affine(weights.momentum, name, h)
    return start - (scores * x["pairs"]) @ pairs.slopes[name]


def _mapped(plan: Chunks, weights: Weights, pairs: Pairs, x: Tensors, name: str, i: int) -> Named:
    """The map of the matrix with which token i of every chunk reads, and its bias, [N,G,...] by name."""
    found, last = {}, x["pairs"][..., i, :, None] * pairs.slopes[name]
    for own in (own for own in (name, f"{name}_bias") if own in weights.now):
        start = weights.now[own]
        earlier = pairs.inputs[name].mT @ last if own == name else last.sum(-2)
        if "kept" in x:
            start = spread(x["kept"][..., i], start) * start
        if weights.momentum:
            start = start + spread(x["moved"][..., i], start) * weights.momentum[own]
        found[own] = start - earlier
    return mapped(plan.mirror, found, (name,))
