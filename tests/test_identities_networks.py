"""Identities between memories trained by gradient steps and linear ones: laws of the definition, checked on
the oracle."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import ttr
from ttr.functions.gated_mlp import GatedMlp
from ttr.functions.linear import Linear
from ttr.functions.mlp import Mlp
from ttr.laws.rows import Case, make_case
from ttr.laws.tolerances import FLOAT64, HALF, error
from ttr.problem import Problem
from ttr.solvers.chunk_descent import ChunkDescent
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.gradient_descent import GradientDescent
from ttr.solvers.losses.huber import Huber
from ttr.solvers.losses.inner_product import InnerProduct
from ttr.solvers.losses.power_error import PowerError
from ttr.solvers.losses.squared_error import SquaredError
from ttr.solvers.maps.newton_schulz import NewtonSchulz
from ttr.solvers.maps.power_norm import PowerNorm
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.uniform import Uniform


def read(case: Case, problem: Problem | None = None, **controls: Tensor) -> Tensor:
    """The oracle's read-outs of a case, with another problem and other controls if given."""
    problem = problem or case.problem
    given = {**case.controls, **controls}
    return ttr.oracle(
        problem,
        case.q,
        case.k,
        case.v,
        params=case.params,
        **{name: given[name] for name in problem.controls()},
    )


@pytest.mark.parametrize("weights", [Uniform(), Geometric()])
def test_chunks_of_one_token_on_a_matrix_are_the_delta_rule_at_the_old_state(weights):
    case = make_case(Problem(weights, Linear(), GradientDescent()))
    assert error(read(case), read(case, Problem(weights, Linear(), DeltaRule("old")))) <= FLOAT64


def test_one_chunk_from_an_empty_matrix_is_linear_attention():
    """The error of an empty memory is the value, so both losses write step_j k_j v_j^T."""
    for loss in (SquaredError(), InnerProduct()):
        case = make_case(Problem(Uniform(), Linear(), GradientDescent(chunk=16, loss=loss)))
        plain = read(
            case, Problem(Importance(), Linear(), OneStep()), log_importance=case.controls["step_size"].log()
        )
        assert error(read(case), plain) <= FLOAT64


def test_robust_losses_and_retentions_meet_the_squared_error():
    plain = make_case(Problem(Geometric(), Mlp(), GradientDescent(chunk=4)))
    reference, far = read(plain), torch.full_like(plain.controls["step_size"], 1e6)
    others = (
        GradientDescent(chunk=4, loss=PowerError(2.0)),
        GradientDescent(chunk=4, loss=Huber()),
        GradientDescent(chunk=4, mirror=PowerNorm(2.0)),
    )
    for solver in others:
        assert (
            error(read(plain, dataclasses.replace(plain.problem, solver=solver), threshold=far), reference)
            <= FLOAT64
        )


def test_no_momentum_and_full_read_steps_change_nothing():
    plain = make_case(Problem(Geometric(), Mlp(), GradientDescent(chunk=4)))
    step = plain.controls["step_size"]
    for solver in (GradientDescent(chunk=4, momentum=True), GradientDescent(chunk=4, read_step=True)):
        same = read(
            plain,
            dataclasses.replace(plain.problem, solver=solver),
            momentum=torch.zeros_like(step),
            read_step=torch.ones_like(step),
        )
        assert error(same, read(plain)) <= FLOAT64


def test_a_chunk_that_moves_once_is_a_chunk_read_at_its_start():
    """Over a full chunk, the steps of every token and the one step of the chunk lead to the same weights."""
    case = make_case(Problem(Uniform(), GatedMlp(), GradientDescent(chunk=4, loss=InnerProduct())))
    once = Problem(Uniform(), GatedMlp(), ChunkDescent(chunk=4, renormalise=False))
    steps = case.controls["step_size"][..., None].expand(*case.controls["step_size"].shape, 3)
    _, every = ttr.oracle(
        case.problem, case.q, case.k, case.v, params=case.params, return_state=True, **case.controls
    )
    y, chunk = ttr.oracle(
        once, case.q, case.k, case.v, params=case.params, return_state=True, step_size=steps
    )
    for name in ("w0", "w1", "w2"):
        assert error(chunk[name], every[name]) <= FLOAT64
    start = ttr.oracle(once, case.q, 0 * case.k, 0 * case.v, params=case.params, step_size=0 * steps)
    assert error(y[:, :4], start[:, :4]) <= FLOAT64
    assert error(y[:, 4:], start[:, 4:]) > HALF


def test_orthogonal_matrices_are_where_newton_schulz_goes():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    # the polynomial that maps 1 to 1 with two derivatives of 0
    sharp = NewtonSchulz(((15 / 8, -10 / 8, 3 / 8),) * 30, eps=1e-300)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert error(sharp(matrix), u @ v) <= FLOAT64
    assert error(sharp(matrix.mT), (u @ v).mT) <= FLOAT64


def test_a_window_of_one_pair_is_none():
    case = make_case(Problem(Geometric(), Mlp(), GradientDescent(chunk=4, momentum=True)))
    wide = dataclasses.replace(case.problem, solver=GradientDescent(chunk=4, momentum=True, window=2))
    assert error(read(case, wide)[:, :1], read(case)[:, :1]) <= FLOAT64
    assert error(read(case, wide), read(case)) > HALF


def test_a_learned_start_needs_its_parameters():
    problem = ttr.catalogue["titans"].problem
    with pytest.raises(ValueError, match=r"starts from its parameters\. Pass params="):
        ttr.initial_state(problem, 1, 2, 3, 3)
    params = ttr.init_params(problem, heads=2, key_size=3, value_size=3)
    state = ttr.initial_state(problem, 1, 2, 3, 3, params=params)
    assert torch.equal(state["w1"][0], params["function.w1"])
