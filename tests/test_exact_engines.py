"""The engines of exact fits (ridge in chunks, softmax attention, local linear regression): against the
oracle, and the properties of their solvers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ttr
from tests.compared import all_of
from tests.largest import Largest
from ttr.engines.engine import Engine
from ttr.engines.torch.attention import Attention
from ttr.engines.torch.chunkwise_ridge import ChunkwiseRidge
from ttr.engines.torch.corrected_attention import CorrectedAttention
from ttr.engines.torch.implicit_solve import ACCEPTED
from ttr.engines.torch.kernel_ridge import KernelRidge
from ttr.engines.torch.local_polynomial import LocalPolynomial
from ttr.engines.torch.transported_attention import TransportedAttention
from ttr.forms import KernelPairs
from ttr.functions.features.taylor import Taylor
from ttr.functions.linear import Linear
from ttr.functions.local_constant import LocalConstant
from ttr.functions.local_linear import LocalLinear
from ttr.functions.transported_constant import TransportedConstant
from ttr.laws.rows import Case, Sizes, make_case, triples
from ttr.laws.tolerances import FLOAT64, error, tolerance
from ttr.problem import Problem, refusal
from ttr.solvers.chebyshev import Chebyshev
from ttr.solvers.conjugate_gradient import ConjugateGradient
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.exact_ridge import ExactRidge
from ttr.solvers.functional_delta_rule import FunctionalDeltaRule
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
    (Linear(), ExactRidge()),
    (Linear(Taylor(), scale=0.7), ExactRidge()),
    (LocalConstant(), ExactLocalFit()),
    (LocalConstant(scale=1.7, unit_norm=True, learned_scale=True), ExactLocalFit()),
    (LocalLinear(), ExactLocalFit()),
    (TransportedConstant(), ExactLocalFit()),
    (LocalConstant(), FunctionalDeltaRule()),
    (LocalLinear(scale=1.3, unit_norm=True, learned_scale=True), ExactLocalFit()),
    (Linear(), Chebyshev(iterations=6)),
    (Linear(), ConjugateGradient(iterations=2, damping=0.05)),
    (LocalLinear(), LearnedSlope()),
)
ENGINES = (ChunkwiseRidge, Attention, LocalPolynomial, TransportedAttention, CorrectedAttention)


def _engine(problem: Problem, size: int) -> Engine | None:
    return next((engine(size) for engine in ENGINES if engine().refuses(problem) is None), None)


PROBLEMS = [
    p
    for p in (Problem(w, *fit) for w in WEIGHTS for fit in FITS if refusal(w, *fit) is None)
    if _engine(p, 4)
]
SOLVES = [
    p for p in PROBLEMS if p.function.local_degree != 0 and p.solver.exact and "slope" not in p.controls()
]
"""Solvers whose solution is exact, directly or by iteration."""


def _equals_oracle(case: Case, size: int):
    fast, slow = all_of(ttr.regress, case, engine=_engine(case.problem, size)), all_of(ttr.oracle, case)
    errors = {name: error(fast[name], slow[name]) for name in slow}
    assert max(errors.values()) <= tolerance(case.q.dtype), errors


def test_every_exact_triple_is_served():
    """Except windows of global fits, which moments cannot forget, and kernel ridge regression with decay,
    which has no common factor."""
    exact = [
        p
        for p in triples()
        if p.solver.exact and (p.weights.window is None or p.function.local_degree is not None)
    ]
    exact = [p for p in exact if p.form is not KernelPairs or p.weights.retention is None]
    assert exact and all(_engine(p, 4) or KernelRidge().refuses(p) is None for p in exact)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("strong_gates", (False, True))
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_equals_oracle(problem, strong_gates, dtype):
    _equals_oracle(make_case(problem, Sizes(time=11), strong_gates=strong_gates, past=2, dtype=dtype), size=4)


@pytest.mark.parametrize("heads", ((4, 1, 2), (1, 2, 4), (2, 4, 1)), ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_equals_oracle_with_grouped_heads(problem, heads):
    """Grouped heads of q, k and v; in float32, Attention uses torch's kernels, which group heads
    themselves."""
    sizes = Sizes(
        batch=2,
        time=9,
        heads=4,
        key=2,
        value=3,
        query_heads=heads[0],
        key_heads=heads[1],
        value_heads=heads[2],
    )
    for dtype in (torch.float64, torch.float32):
        _equals_oracle(make_case(problem, sizes, past=2, dtype=dtype), size=4)


@pytest.mark.parametrize("time", (0, 1, 3, 4, 5, 8, 12))
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_equals_oracle_around_the_borders(problem, time):
    """The borders of blocks, and of a window that includes pairs of the state."""
    for past in (0, 3):
        _equals_oracle(make_case(problem, Sizes(batch=1, time=time), past=past), size=4)


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.weights.importance], ids=repr)
def test_pairs_without_weight(problem):
    """Absent pairs, and queries that see no pair at all, whose read-out is 0."""
    for dtype in (torch.float64, torch.float32):
        case = make_case(problem, Sizes(time=11), dtype=dtype)
        absent = torch.rand(case.controls["log_importance"].shape) < 0.3
        absent[:, :3] = True
        importance = case.controls["log_importance"].masked_fill(absent, -torch.inf)
        case = dataclasses.replace(case, controls={**case.controls, "log_importance": importance})
        _equals_oracle(case, size=4)
        y = ttr.regress(problem, engine=_engine(problem, 4), **case.arguments())
        assert torch.equal(y[:, :3], torch.zeros_like(y[:, :3]))


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_equals_oracle_in_float32_with_default_blocks(problem):
    _equals_oracle(
        make_case(problem, Sizes(batch=1, heads=1, time=140), strong_gates=True, past=2, dtype=torch.float32),
        size=_default(problem),
    )


def _default(problem: Problem) -> int:
    engine = type(_engine(problem, 4))()
    return engine.chunk if isinstance(engine, ChunkwiseRidge) else engine.block


@pytest.mark.parametrize("problem", PROBLEMS[:1] + [p for p in PROBLEMS if p.weights == Uniform()], ids=repr)
def test_equal_sizes_of_keys_and_values(problem):
    """In this case Attention is one call of torch's kernel."""
    _equals_oracle(make_case(problem, Sizes(time=11, key=3, value=3), dtype=torch.float32), size=4)


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_future_does_not_reach_the_past(problem):
    """To the last bit, for changes of any size and any number of iterations of later rows; within tolerance
    if the engine is adaptive."""

    def mixed(name, old, new, token):
        # longer keys are refused: no digit would be correct in float32
        size = {"q": 100, "k": 100 if old.dtype == torch.float64 else 10, "v": 100}
        return (
            old
            if name == "ridge" or old.ndim < 3
            else torch.cat([old[:, :token], size.get(name, 1) * new[:, token:]], dim=1)
        )

    for dtype in (torch.float64, torch.float32):
        case, other = (
            make_case(problem, Sizes(time=12), strong_gates=True, dtype=dtype, seed=seed) for seed in (0, 1)
        )
        before = ttr.regress(problem, engine=_engine(problem, 4), **case.arguments())
        for token in range(1, 12):
            leaves = {
                name: mixed(name, old, other.leaves()[name], token) for name, old in case.leaves().items()
            }
            after = ttr.regress(problem, engine=_engine(problem, 4), **case.with_leaves(leaves).arguments())
            if _engine(problem, 4).adaptive:
                assert error(after[:, :token], before[:, :token]) <= tolerance(dtype)
            else:
                assert torch.equal(after[:, :token], before[:, :token])


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_second_derivatives(problem):
    case = make_case(problem, Sizes(batch=1, heads=1, time=5, key=2, value=2), past=1).differentiable()
    names = list(case.leaves())

    def call(*leaves):
        changed = case.with_leaves(dict(zip(names, leaves, strict=True)))
        return ttr.regress(problem, engine=_engine(problem, 2), **changed.arguments())

    assert torch.autograd.gradcheck(call, list(case.leaves().values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, list(case.leaves().values()), fast_mode=True)


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_memory_is_linear(problem):
    """No T x T score matrix, no moments per token; what a graph saves for the backward pass grows with T, not
    with T^2."""
    held = []
    for time in (64, 128):
        case, storages = (
            make_case(problem, Sizes(batch=1, heads=1, time=time, key=6, value=6)).differentiable(),
            {},
        )

        def note(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            y = ttr.regress(problem, engine=_engine(problem, 4), **case.arguments())
        with largest:
            y.sum().backward()
        features = max(problem.function.feature_size(6), 6)
        moments, products = (
            (time // 4 + 1) * (features + 4) * (features + 6),
            (time + 5) * (features * (features + 3) // 2 + 15),
        )
        assert largest.numel <= max(time * 4, moments, time * features, products)
        held.append(sum(storages.values()))
    assert held[1] <= 2.2 * held[0]


# ------------------------------------------------------------------------------------------------- the solves
@pytest.mark.parametrize("problem", SOLVES, ids=repr)
def test_solves_report_their_residual(problem):
    for dtype in (torch.float64, torch.float32):
        case = make_case(problem, Sizes(time=11), dtype=dtype).differentiable()
        with ttr.diagnostics() as reported:
            y = ttr.regress(problem, engine=_engine(problem, 4), **case.arguments())
            forward = len(reported.records)
            y.sum().backward()
        # one solve per block and one for its gradient: recomputation does not iterate
        assert len(reported.records) == 2 * forward > 0
        assert all(
            (record["iterations"] > 0) == (record["solver"] == "conjugate gradient")
            for record in reported.records
        )
        assert all(record["residual"] <= ACCEPTED * torch.finfo(dtype).eps for record in reported.records)


@pytest.mark.parametrize("exponent", (-100, -10, 60))
def test_ridge_is_linear_in_the_query(exponent):
    """Bit for bit where the factor is a power of 2: the stopping rule is relative, and no norm under- or
    overflows."""
    case = make_case(Problem(Geometric("head"), Linear(), ExactRidge()), Sizes(time=20), dtype=torch.float32)
    scaled = dataclasses.replace(case, q=case.q * 2.0**exponent)
    y, other = (ttr.regress(c.problem, engine=ChunkwiseRidge(8), **c.arguments()) for c in (case, scaled))
    assert torch.equal(other, y * 2.0**exponent)


def test_local_fit_does_not_see_the_unit_of_length():
    """Queries and keys 1000 times smaller, with the kernel's scale and the ridge scaled accordingly."""
    case = make_case(Problem(Uniform(), LocalLinear(scale=0.5), ExactLocalFit()), Sizes(time=20))
    small = dataclasses.replace(
        case,
        problem=Problem(Uniform(), LocalLinear(scale=0.5e6), ExactLocalFit()),
        q=case.q * 1e-3,
        k=case.k * 1e-3,
        controls={"ridge": case.controls["ridge"] * 1e-6},
    )
    y, other = (ttr.regress(c.problem, engine=LocalPolynomial(8), **c.arguments()) for c in (case, small))
    assert error(other, y) <= FLOAT64


def test_packed_sequences():
    for problem in PROBLEMS:
        case, bounds = make_case(problem, Sizes(batch=1, time=13)), torch.tensor([0, 5, 5, 13])
        fast, slow = (
            all_of(call, case, cu_seqlens=bounds, **options)
            for call, options in ((ttr.regress, {"engine": _engine(problem, 4)}), (ttr.oracle, {}))
        )
        assert max(error(fast[name], slow[name]) for name in slow) <= FLOAT64


def test_refusals():
    for engine in ENGINES:
        others = [p for p in PROBLEMS if not isinstance(_engine(p, 4), engine)]
        assert others and all(engine().refuses(p).endswith(".") for p in others)
