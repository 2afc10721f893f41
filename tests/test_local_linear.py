"""Local linear regression on every tier: by the kernels of each instruction set, and by torch alone."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from unittest import mock

import pytest
import torch

import ttr
from tests.compared import all_of
from tests.tiers import ISAS, TIERS, tier
from ttr.engines.native import library, local_linear
from ttr.engines.torch import direct_solve
from ttr.engines.torch.covariance_solve import ACCEPTED, FEW_CHANNELS, TARGET
from ttr.engines.torch.local_polynomial import LocalPolynomial
from ttr.functions.local_linear import LocalLinear
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import error, ill_conditioned, tolerance
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.learned_slope import LearnedSlope
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

WEIGHTS = (
    Uniform(),
    Geometric("head"),
    Product((Geometric("head"), Importance())),
    Product((Geometric("head"), Importance(), Window(5))),
)
FITS = (
    (LocalLinear(), ExactLocalFit()),
    (LocalLinear(scale=1.3, unit_norm=True, learned_scale=True), ExactLocalFit()),
    (LocalLinear(rank=3), ExactLocalFit()),
    (LocalLinear(), LearnedSlope()),
)
PROBLEMS = [Problem(weights, *fit) for weights in WEIGHTS for fit in FITS]
SOLVED = [problem for problem in PROBLEMS if "slope" not in problem.controls()]
MANY = FEW_CHANNELS + 2
"""A number of channels for which fits are iterative, or by Cholesky where a query has seen few pairs."""

compiled = pytest.mark.skipif(not ISAS, reason="the library of compiled kernels was not built")
DTYPES = pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)


def _equals_oracle_on_every_tier(case: Case, size: int, slack: float = 1.0) -> None:
    slow, engine = all_of(ttr.oracle, case), LocalPolynomial(size)
    for name in TIERS:
        with tier(name):
            fast = all_of(ttr.regress, case, engine=engine)
        errors = {tensor: error(fast[tensor], slow[tensor]) for tensor in slow}
        assert max(errors.values()) <= slack * tolerance(case.q.dtype), (name, errors)


@DTYPES
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_local_linear_few_channels(problem, dtype):
    """No token, one token, whole and partial blocks; groups of heads; windows that begin in the state."""
    _equals_oracle_on_every_tier(
        make_case(problem, Sizes(time=11), strong_gates=True, past=2, dtype=dtype), size=4
    )
    sizes = Sizes(batch=2, time=9, heads=4, key=4, value=3, query_heads=4, key_heads=1, value_heads=2)
    _equals_oracle_on_every_tier(make_case(problem, sizes, past=3, dtype=dtype), size=5)
    for time in (0, 1, 4):
        _equals_oracle_on_every_tier(
            make_case(problem, Sizes(batch=1, time=time), past=time % 3, dtype=dtype), size=4
        )


@DTYPES
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_local_linear_many_channels(problem, dtype):
    """Rows that are solved directly or iteratively, in blocks of one kind or of both; more pairs and rows
    than fit a tile."""
    for sizes in (
        Sizes(batch=1, heads=1, time=130, key=MANY, value=3),
        Sizes(heads=4, time=80, key=MANY, value=2, key_heads=2, value_heads=2),
    ):
        # In float32 the gradient of a scale that all tokens share is a sum of iterative solutions, which
        # cancel.
        _equals_oracle_on_every_tier(
            make_case(problem, sizes, past=3, dtype=dtype), size=40, slack=1 if dtype == torch.float64 else 2
        )


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize(
    "problem", [p for p in SOLVED if p.weights.window is None and p.function.rank is None], ids=repr
)
def test_local_linear_many_channels_report_residuals(problem, name):
    for dtype in (torch.float64, torch.float32):
        case = make_case(problem, Sizes(batch=1, heads=2, time=130, key=MANY), dtype=dtype).differentiable()
        with ttr.diagnostics() as reported, tier(name):
            ttr.regress(problem, engine=LocalPolynomial(32), **case.arguments()).sum().backward()
        assert len(reported.records) == 10 and all(
            0 < record["residual"] <= ACCEPTED * TARGET[dtype] for record in reported.records
        )
        assert [record["direct_rows"] for record in reported.records[:5]] == [
            64,
            2 * (2 * MANY - 1 - 32),
            0,
            0,
            0,
        ]
        assert [record["rows"] for record in reported.records[:5]] == [64, 64, 64, 64, 4]
        assert all(record["iterations"] > 0 for record in reported.records[2:5])


@pytest.mark.parametrize("name", TIERS)
def test_local_linear_many_channels_differentiate_twice(name):
    problem = Problem(Geometric("head"), LocalLinear(), ExactLocalFit())
    case = make_case(problem, Sizes(batch=1, heads=1, time=4, key=MANY, value=2), past=1).differentiable()
    leaves = case.leaves()

    def call(*tensors):
        return ttr.regress(
            problem,
            engine=LocalPolynomial(2),
            **case.with_leaves(dict(zip(leaves, tensors, strict=True))).arguments(),
        )

    with tier(name):
        assert torch.autograd.gradcheck(call, list(leaves.values()), fast_mode=True)
        assert torch.autograd.gradgradcheck(call, list(leaves.values()), fast_mode=True)


def _spread_keys(case: Case, decades: float) -> Case:
    """Keys whose principal directions have sizes from 1 to 10^-decades, rotated at random so that no diagonal
    preconditioner helps."""
    size = case.k.shape[-1]
    turn = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]
    spread = (turn * torch.logspace(0, -decades, size, dtype=torch.float64)) @ turn.T
    return dataclasses.replace(case, k=(case.k.double() @ spread).to(case.k))


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize(
    "dtype, ridge, decades", ((torch.float64, 1e-7, 2.5), (torch.float32, 1e-4, 2.0)), ids=str
)
def test_elimination_without_digits_is_repeated(dtype, ridge, decades, name):
    problem = Problem(Uniform(), LocalLinear(), ExactLocalFit())
    case = _spread_keys(
        make_case(problem, Sizes(batch=1, time=90, heads=1, key=FEW_CHANNELS, value=2), dtype=dtype), decades
    )
    _ill_conditioned(case, ridge, name, at_least=1)


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize("dtype, ridge", ((torch.float64, 1e-4), (torch.float32, 1e-3)), ids=str)
def test_iteration_without_convergence_is_repeated(dtype, ridge, name):
    """Resets leave rows with few pairs, for which the average of the block is a poor preconditioner."""
    problem = Problem(Geometric("head"), LocalLinear(), ExactLocalFit())
    case = make_case(
        problem, Sizes(batch=1, heads=1, time=120, key=MANY, value=2), strong_gates=True, dtype=dtype
    )
    _ill_conditioned(case, ridge, name, at_least=2 * MANY)


def _ill_conditioned(case: Case, ridge: float, name: str, at_least: int) -> None:
    """The fast solvers fail for some rows of the case and report it; the result is as accurate as its
    condition allows, even where it is not computed again in float64."""
    case = dataclasses.replace(
        case, controls={**case.controls, "ridge": torch.full_like(case.controls["ridge"], ridge)}
    )
    # Every weighted covariance lies below the plain sum of k k^T, every matrix above the ridge.
    largest = torch.linalg.matrix_norm(case.k[0, :, 0].double().mT @ case.k[0, :, 0].double(), 2).item()
    with (
        ttr.diagnostics() as reported,
        tier(name),
        mock.patch.object(direct_solve, "POOR", direct_solve.HOPELESS),
    ):
        y = ttr.regress(case.problem, engine=LocalPolynomial(32), **case.arguments())
    assert at_least <= sum(record["direct_rows"] for record in reported.records) < case.q.shape[1]
    bound = min(ill_conditioned(1 + largest / ridge, case.q.dtype), tolerance(case.q.dtype) * 1e2)
    assert error(y, ttr.oracle(case.problem, **case.arguments())) <= bound


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize("key", (4, MANY))
def test_queries_far_from_the_origin(key, name):
    """Only differences of keys and queries enter the fit: common offsets must not cost digits."""
    case = make_case(
        Problem(Uniform(), LocalLinear(scale=1e-5), ExactLocalFit()),
        Sizes(time=60, key=key),
        dtype=torch.float32,
    )
    case = dataclasses.replace(case, q=case.q + 300, k=case.k + 300)
    with tier(name):
        y = ttr.regress(case.problem, engine=LocalPolynomial(16), **case.arguments())
    assert error(y, ttr.oracle(case.problem, **case.arguments())) <= tolerance(torch.float32)


@pytest.mark.parametrize("key", (4, MANY))
def test_sharp_scores(key):
    """Logits of several hundreds, whose exponentials no dtype holds: weights are relative to the largest."""
    case = make_case(Problem(Uniform(), LocalLinear(scale=200.0), ExactLocalFit()), Sizes(time=70, key=key))
    _equals_oracle_on_every_tier(case, size=16)


@pytest.mark.parametrize("name", TIERS)
@pytest.mark.parametrize("key", (4, MANY))
def test_singular_fits_are_refused(key, name):
    """There is no fit to a pair that is NaN."""
    case = make_case(Problem(Uniform(), LocalLinear(), ExactLocalFit()), Sizes(batch=1, time=6, key=key))
    case.k[:, 3] = torch.nan
    with (
        tier(name),
        ttr.checks(values=False),
        pytest.raises(ValueError, match=("regression is singular.*Use a larger ridge")),
    ):
        ttr.regress(case.problem, engine=LocalPolynomial(2), **case.arguments())


@compiled
def test_the_kernel_reads_the_struct_that_is_passed():
    for dtype in (torch.float32, torch.float64):
        assert library.function("local_linear_size", dtype)() == ctypes.sizeof(local_linear._Arguments)


@compiled
@pytest.mark.parametrize("key", (4, MANY))
def test_threads_change_no_bit(key):
    case, found = make_case(PROBLEMS[4], Sizes(time=70, key=key), dtype=torch.float32), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            found.append(all_of(ttr.regress, case, engine=LocalPolynomial(16)))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])


@compiled
def test_the_kernels_serve_plain_tensors(monkeypatch):
    """Plain tensors of one dtype on the CPU; without the library torch computes everything."""
    kernel = local_linear.Kernel
    monkeypatch.setattr(
        local_linear, "Kernel", lambda *args, **kwargs: called.append(1) or kernel(*args, **kwargs)
    )
    for served, context in ((True, functools.partial(tier, ISAS[0])), (False, library.left_out)):
        called = []
        with context():
            case = make_case(PROBLEMS[0], Sizes(time=5)).differentiable()
            ttr.regress(case.problem, engine="local-polynomial", **case.arguments()).sum().backward()
        assert len(called) == 2 * served
