"""A parity case: an entry of the catalogue, an original, and tensors on which the two must agree, gradients
included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import ttr
from ttr.laws.tolerances import error
from ttr.problem import Problem

from .originals import in_float64

B, T, H, K, V = 2, 13, 2, 5, 3

Tensors = tuple[Tensor, ...]
Build = Callable[["Draw"], tuple[Mapping[str, Tensor], Callable[..., Tensors], Callable[..., Tensors]]]


@dataclass(frozen=True)
class Case:
    """``build(draw)`` returns the tensors by name and two functions of them, the oracle's and the original's,
    which return outputs and final states in one layout."""

    entry: str
    original: str
    build: Build

    def __str__(self) -> str:
        return f"{self.entry} = {self.original}"


CASES: list[Case] = []


def parity(entry: str, original: str) -> Callable[[Build], Build]:
    """Register the decorated ``build`` as a case; ``original`` names what the oracle is compared with."""

    def register(build: Build) -> Build:
        CASES.append(Case(entry, original, build))
        return build

    return register


class Draw:
    """Random float64 tensors in the public layout, of sizes that cannot be mistaken for one another."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def unit(self, *shape: int) -> Tensor:
        """Vectors of norm 1 along the last axis."""
        return torch.nn.functional.normalize(self.normal(*shape), dim=-1)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def log_decay(self, *shape: int) -> Tensor:
        return -self.between(0.02, 1.2, *shape)

    def qkv(self, heads: tuple[int, int, int] = (H, H, H), value_size: int = V) -> dict[str, Tensor]:
        """q, k (unit norm) and v with the given numbers of heads."""
        return {
            "q": self.normal(B, T, heads[0], K),
            "k": self.unit(B, T, heads[1], K),
            "v": self.normal(B, T, heads[2], value_size),
        }


def problem(entry: str) -> Problem:
    return ttr.catalogue[entry].problem


def fold(
    problem: Problem, q: Tensor, k: Tensor, v: Tensor, controls: Mapping[str, Tensor], **state: Tensor
) -> Tensors:
    """The oracle's outputs and final state tensors, continuing from the given ones, in their order."""
    heads = max(x.shape[-2] for x in (q, k, v))
    start = ttr.initial_state(
        problem, B, (heads, k.shape[-2], v.shape[-2]), K, v.shape[-1], dtype=torch.float64
    )
    if state:
        start = start.replace(**state)
    y, end = ttr.oracle(problem, q, k, v, state=start, return_state=True, **controls)
    return (y, *(end[name] for name in state))


def measure(case: Case) -> dict[str, float]:
    """The relative errors of outputs, states and gradients of every input."""
    tensors, ours, theirs = case.build(Draw())
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    mine = ours(**leaves)
    with in_float64():
        reference = theirs(**leaves)
    assert all(x.dtype == torch.float64 for x in reference), "The original was not raised to float64."
    outputs = zip(("output", *(f"state {i}" for i in range(1, len(mine)))), mine, reference, strict=True)
    gradients = zip(
        (f"gradient of {name}" for name in leaves),
        _gradients(mine, leaves),
        _gradients(reference, leaves),
        strict=True,
    )
    return {quantity: error(a, b) for quantity, a, b in (*outputs, *gradients)}


def _gradients(outputs: Tensors, leaves: Mapping[str, Tensor]) -> Tensors:
    """Gradients of one random linear functional of all outputs, the same for both sides."""
    draw = Draw(1)
    total = sum((draw.normal(*x.shape) * x).sum() for x in outputs)
    return torch.autograd.grad(total, list(leaves.values()), materialize_grads=True, allow_unused=True)
