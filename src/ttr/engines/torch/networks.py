"""Shared by the steps and engines of networks: the update of every matrix by a batch of pairs, without
gradients of its size.

The gradient of one pair in a matrix W with outputs z = x W + b is the outer product of its inputs x and the
slope dl/dz: a pair is stored as (x, slope) for every matrix, and the gradient in b is the slope. Letters: C
tokens, I inputs and O outputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from ttr.component import Component
from ttr.diagnostics import collecting, record
from ttr.forms import Network
from ttr.problem import Function

Inner = dict[str, tuple[Tensor, Tensor]]
"""Name of a matrix -> inputs [B,C,H,I] and slopes [B,C,H,O] of every token."""


def inner_pairs(
    function: Function,
    loss: Component,
    chunk: Network,
    weights: Mapping[str, Tensor],
    controls: Mapping[str, Tensor],
) -> Inner:
    """Inputs and slopes of every matrix at the pairs of a chunk: one pass forward, one backward through the
    network.

    Pairs of step 0 are padding and are left out of the diagnostics."""

    inputs, outputs = {}, {}

    def affine(name: str, x: Tensor) -> Tensor:
        inputs[name], outputs[name] = x, apply(weights, name, x)
        return outputs[name]

    prediction = function.forward(affine, chunk.key, chunk.params)
    if collecting():
        _report(loss(prediction, chunk.value, controls), weights, chunk.step)
    slopes = function.slopes(
        lambda name, x: (x.transpose(1, 2) @ weights[name].mT).transpose(1, 2),
        inputs,
        outputs,
        loss.slope(prediction, chunk.value, controls),
        chunk.params,
    )
    return {name: (inputs[name], slopes[name]) for name in chunk.matrices}


def _report(losses: Tensor, weights: Mapping[str, Tensor], steps: Tensor) -> None:
    """Record the mean loss [B,H] of the pairs of a step, before it is taken, and the norms [B,H] of the
    weights."""
    counted = (steps if steps.ndim == 3 else steps.abs().amax(-1)) != 0
    pairs = counted.sum(1)
    mean = (losses.detach() * counted).sum(1) / pairs.clamp(min=1)
    record(
        solver="gradient descent",
        loss=mean,
        norms={name: x.detach().flatten(2).norm(dim=-1) for name, x in weights.items()},
        pairs=pairs,
    )


def apply(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """x W + b for inputs [B,C,H,I], weights [B,H,I,O]."""
    y = (x.transpose(1, 2) @ weights[name]).transpose(1, 2)
    return y + weights[f"{name}_bias"][:, None] if f"{name}_bias" in weights else y


def predict(
    function: Function, weights: Mapping[str, Tensor], query: Tensor, params: Mapping[str, Tensor]
) -> Tensor:
    """m(q) for queries [B,C,H,F] that share their weights [B,H,...]."""
    return function.forward(lambda name, x: apply(weights, name, x), query, params)


def descent(inner: Inner, steps: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """-sum_j step_j grad l_j in every tensor of ``like`` [B,H,...], for steps [B,C,H] by the name of the
    matrix."""
    moves = {}
    for name, (inputs, slopes) in inner.items():
        scaled = -steps[name][..., None] * slopes
        moves[name] = inputs.permute(0, 2, 3, 1) @ scaled.transpose(1, 2)
        if f"{name}_bias" in like:
            moves[f"{name}_bias"] = scaled.sum(1)
    return moves


def mapped(
    change: Component | None, tensors: Mapping[str, Tensor], names: Iterable[str]
) -> dict[str, Tensor]:
    """The tensors, those of ``names`` after ``change``, if there is one."""
    return {name: change(x) if change is not None and name in names else x for name, x in tensors.items()}


def spread(x: Tensor, like: Tensor) -> Tensor:
    """[B] or [B,H] with axes of size 1 up to those of ``like``."""
    return x[(...,) + (None,) * (like.ndim - x.ndim)]
