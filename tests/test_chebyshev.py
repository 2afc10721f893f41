"""Ridge regression by Chebyshev iteration on every tier: by the kernels of each instruction set, and by torch
alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ttr
from tests.compared import all_of
from tests.tiers import TIERS, tier
from ttr.engines.torch.chunkwise_ridge import ChunkwiseRidge
from ttr.functions.linear import Linear
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import FLOAT64, error, tolerance
from ttr.problem import Problem
from ttr.solvers.chebyshev import Chebyshev
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform

KALMANET = ttr.catalogue["gated-kalmanet"].problem
GATED = Product((Geometric("head"), Importance()))
PROBLEMS = {
    "thirty steps": KALMANET,
    "one step": Problem(GATED, Linear(scale=0.7), Chebyshev(iterations=1, ratio=0.5)),
    "without decay": Problem(Uniform(), Linear(), Chebyshev(iterations=7, ratio=0.1)),
}
SIZES = {
    "small": (Sizes(time=11), 4),
    "more channels than the unit of the kernels": (Sizes(batch=1, time=37, key=19, value=5), 32),
    "more values than keys": (Sizes(batch=2, time=33, heads=1, key=2, value=21), 16),
    "one token": (Sizes(time=1), 16),
}
DTYPES = pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)


def _equals_oracle_on_every_tier(case: Case, chunk: int) -> None:
    slow = all_of(ttr.oracle, case)
    for name in TIERS:
        with tier(name):
            fast = all_of(ttr.regress, case, engine=ChunkwiseRidge(chunk))
        errors = {tensor: error(fast[tensor], slow[tensor]) for tensor in slow}
        assert max(errors.values()) <= tolerance(case.q.dtype), (name, errors)


@DTYPES
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_chebyshev_equals_the_oracle(problem, sizes, dtype):
    shape, chunk = SIZES[sizes]
    _equals_oracle_on_every_tier(make_case(PROBLEMS[problem], shape, past=2, dtype=dtype), chunk)


@DTYPES
def test_chebyshev_with_resets(dtype):
    case = make_case(KALMANET, Sizes(time=21), strong_gates=True, past=2, dtype=dtype)
    log_decay = case.controls["log_decay"].clone()
    log_decay[:, ::6] = -torch.inf
    case = dataclasses.replace(case, controls={**case.controls, "log_decay": log_decay})
    _equals_oracle_on_every_tier(case, 16)


@pytest.mark.parametrize("size", (1e-12, 1e12))
def test_chebyshev_of_keys_whose_squares_leave_the_range_of_float32(size):
    """x is inversely proportional to H, so that values as large as the keys give outputs of unit size."""
    case = make_case(KALMANET, Sizes(batch=1, time=20, key=5), dtype=torch.float32)
    controls = {**case.controls, "mix": torch.ones_like(case.controls["mix"])}
    case = dataclasses.replace(case, controls=controls)
    scaled = dataclasses.replace(case, k=case.k * size, v=case.v * size)
    plain = ttr.oracle(case.problem, **case.arguments())
    for name in TIERS:
        with tier(name):
            found = ttr.regress(case.problem, engine=ChunkwiseRidge(16), **scaled.arguments())
        assert error(found, plain) <= tolerance(torch.float32), name


def test_a_reader_before_the_first_pair_reads_nothing():
    """The norm of moments without pairs is 0, and neither the output nor a gradient may be NaN."""
    case = make_case(KALMANET, Sizes(time=20), dtype=torch.float64)
    importance = case.controls["log_importance"].clone()
    importance[:, :5] = -torch.inf
    case = dataclasses.replace(case, controls={**case.controls, "log_importance": importance})
    for name in TIERS:
        with tier(name):
            found = all_of(ttr.regress, case, engine=ChunkwiseRidge(16))
        assert all(x.isfinite().all() for x in found.values()), name


@pytest.mark.parametrize("chunk", (1, 2, 16))
def test_moments_that_decay_out_of_the_range_of_float32(chunk):
    """A unit key, then zero keys that multiply the moments by e^-30 each: the square of 1 / ||H||_F leaves
    the range of float32, which changes nothing, then 1 / ||H||_F, where y becomes 0."""
    case = make_case(KALMANET, Sizes(batch=1, time=6))
    k = torch.nn.functional.normalize(case.k, dim=-1)
    k[:, 1:] = 0
    controls = {**case.controls, "log_decay": torch.full_like(case.controls["log_decay"], -30.0)}
    case = dataclasses.replace(case, k=k, controls={**controls, "mix": torch.ones_like(controls["mix"])})

    def found(dtype: torch.dtype, engine: str | ChunkwiseRidge, tokens: int) -> list[torch.Tensor]:
        given = {"q": case.q, "k": case.k, "v": case.v, **case.controls}
        leaves = {name: x.to(dtype).requires_grad_() for name, x in given.items()}
        y = ttr.regress(case.problem, engine=engine, **leaves)
        return [y[:, :tokens], y[:, 3:], *torch.autograd.grad(y[:, :tokens].sum(), list(leaves.values()))]

    expected, _, *grads = found(torch.float64, "recurrent", 3)
    for name in TIERS:
        with tier(name):
            for engine in (ChunkwiseRidge(chunk), "recurrent"):
                y, rest, *others = found(torch.float32, engine, 3)
                assert error(y, expected) <= tolerance(torch.float32), name
                assert rest.abs().max() <= torch.finfo(torch.float32).tiny, name
                assert max(map(error, others, grads)) <= tolerance(torch.float32), name
                assert all(x.isfinite().all() for x in found(torch.float32, engine, 6)), name


def test_digits_in_float32():
    """Eight tokens of 64 channels: outputs are small differences of directions without pairs. Clenshaw's
    recurrence loses 1.4e-5, this one 3e-6."""
    case = make_case(KALMANET, Sizes(batch=4, time=8, key=64, value=16))
    case = dataclasses.replace(case, k=torch.nn.functional.normalize(case.k, dim=-1))
    expected = ttr.oracle(case.problem, **case.arguments())
    given = {"q": case.q, "k": case.k, "v": case.v, **case.controls}
    given = {name: x.float() for name, x in given.items()}
    for name in TIERS:
        with tier(name):
            lost = ttr.regress(case.problem, engine=ChunkwiseRidge(16), **given) - expected
        assert lost.norm() <= 60 * torch.finfo(torch.float32).eps * expected.norm(), name


def test_chebyshev_of_expanded_gradients():
    """The gradient of a sum is one number for all entries."""
    found = []
    for name in TIERS:
        case = make_case(KALMANET, Sizes(time=20)).differentiable()
        with tier(name):
            y = ttr.regress(case.problem, engine=ChunkwiseRidge(16), **case.arguments())
            found.append(torch.autograd.grad(y.sum(), list(case.leaves().values())))
    assert all(error(*pair) <= FLOAT64 for other in found[1:] for pair in zip(found[0], other))
