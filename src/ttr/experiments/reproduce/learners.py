"""The memories that the experiments on streams compare, each by a few numbers."""

from __future__ import annotations

import math

import ttr
from ttr import functions, solvers, weights
from ttr.axes import Function, Weights
from ttr.experiments.reproduce.streams import Option

LINEAR = functions.Linear(scale=1.0)


def linear_attention(decay: float | None = None) -> Option:
    """A sum over the pairs, scaled as a mean."""
    kept, controls = _kept(decay)
    return Option(ttr.Problem(kept, LINEAR, solvers.OneStep()), controls, mean=True)


def delta_rule(step_size: float, decay: float | None = None) -> Option:
    """One step of gradient descent for each pair."""
    kept, controls = _kept(decay)
    problem = ttr.Problem(kept, LINEAR, solvers.DeltaRule())
    return Option(problem, controls | {"step_size": step_size})


def least_squares(ridge: float, decay: float | None = None) -> Option:
    """Linear regression on all pairs, exactly: recursive least squares, the mesa layer."""
    kept, controls = _kept(decay)
    return Option(ttr.Problem(kept, LINEAR, solvers.ExactRidge()), controls | {"ridge": ridge})


def softmax(scale: float, unit: bool = False) -> Option:
    """Local constant regression; ``scale`` is one over the squared bandwidth for keys of norm 1."""
    return Option(_local(functions.LocalConstant(scale=scale)), {}, unit=unit)


def local_linear(scale: float, ridge: float) -> Option:
    """Local linear regression."""
    return Option(_local(functions.LocalLinear(scale=scale)), {"ridge": ridge})


def local_quadratic(scale: float, ridge: float) -> Option:
    """Local quadratic regression."""
    return Option(_local(functions.LocalQuadratic(scale=scale)), {"ridge": ridge})


def _local(function: Function) -> ttr.Problem:
    return ttr.Problem(weights.Uniform(), function, solvers.ExactLocalFit())


def _kept(decay: float | None) -> tuple[Weights, dict[str, float]]:
    return (weights.Uniform(), {}) if decay is None else (weights.Geometric(), {"log_decay": math.log(decay)})
