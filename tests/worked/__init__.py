"""Hand-worked cases, one file per component, mirrored by name: those of ``ttr/weights/geometric.py`` are in
``tests/worked/weights/geometric.py``, as the function ``cases``.

The laws tell that a component is a member of its axis; these numbers tell which. They show a fault that the
definition and the fast paths share.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttr.component import Component
from ttr.functions.linear import Linear
from ttr.layer.part import Part, Streams
from ttr.problem import FeatureMap, Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform

Rows = Sequence[Sequence[int | float]]


@dataclass(frozen=True)
class HandWorked:
    """One memory in the public layout: Dk != Dv, T >= 3, no 0 or 1 that could hide a fault."""

    problem: Problem
    q: Tensor
    k: Tensor
    v: Tensor
    y: Tensor
    controls: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    params: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class HandWorkedPart:
    """One part of a layer: its parameters, its input streams and the streams that it must return."""

    part: Part
    streams: Streams
    expected: Streams
    params: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


def cases(component: type[Component]) -> tuple:
    """The hand-worked cases of a component: one for every mode.

    Raises:
        ModuleNotFoundError: if its file is missing here; the message names it.
    """
    name = component.__module__.removeprefix("ttr.")
    found = importlib.import_module(f"{__name__}.{name}").cases()
    return tuple(case for case in found if not hasattr(case, "part") or type(case.part) is component)


def kernel_case(
    features: FeatureMap,
    q: Rows,
    k: Rows,
    kernel: Rows,
    params: Mapping[str, Tensor],
    tied: bool = True,
) -> HandWorked:
    """One head: the sum of the values v_i of three pairs with the weights kernel_ti = phi(q_t).phi(k_i),
    times a scale of 1/2.

    ``params`` are the features' own, by their names.
    """
    values = [[2, -3, 0.5, 6], [-2, 4, 3, 0.25], [5, -0.5, -4, -7]]
    y = [
        [sum(weight * value[c] for weight, value in zip(row, values)) / 2 for c in range(4)] for row in kernel
    ]
    q, k, v, y = (torch.tensor(rows, dtype=torch.float64)[None, :, None] for rows in (q, k, values, y))
    problem = Problem(Uniform(), Linear(features, scale=0.5, tied=tied), OneStep())
    tensors = {f"function.{name}": tensor.double() for name, tensor in params.items()}
    return HandWorked(problem, q, k, v, y, params=tensors)
