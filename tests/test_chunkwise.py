"""The chunkwise engines against the oracle on everything they declare to run, and the further properties of
their forms."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ttr
from ttr.engines.torch.chunks import scores
from ttr.engines.torch.chunkwise_additive import ChunkwiseAdditive
from ttr.engines.torch.chunkwise_delta import ChunkwiseDelta
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.taylor import Taylor
from ttr.functions.linear import Linear
from ttr.functions.local_constant import LocalConstant
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import FLOAT64, error, tolerance
from ttr.problem import Problem, refusal
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.exact_ridge import ExactRidge
from ttr.solvers.implicit_delta_rule import ImplicitDeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.multi_scale import MultiScale
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

RETENTIONS = (Uniform(), Geometric("head"), Geometric("channel"))
WEIGHTS = (
    *RETENTIONS,
    MultiScale(first=1.0),
    Product((Geometric("head"), Importance())),
    Product((Geometric("channel"), Importance())),
)
FUNCTIONS = (Linear(), Linear(EluPlusOne(), normalized=True), Linear(Taylor(), scale=0.7))
DELTA_RULES = tuple(
    DeltaRule(*options) for options in itertools.product(("decayed", "old"), (False, True), (1, 2, 3))
)


def _problems(weights, functions, solvers):
    return [
        Problem(*parts) for parts in itertools.product(weights, functions, solvers) if refusal(*parts) is None
    ]


ADDITIVE = _problems(WEIGHTS, FUNCTIONS, (OneStep(),))
DELTA = _problems(WEIGHTS[:3] + WEIGHTS[-1:], FUNCTIONS[:1], (*DELTA_RULES, ImplicitDeltaRule()))
DELTA += _problems(RETENTIONS, FUNCTIONS[2:], (DeltaRule(),))
PLAIN = _problems(
    RETENTIONS, (Linear(),), (OneStep(), DeltaRule("old", separate_read=True, pairs_per_token=2))
)


def _engine(problem: Problem, chunk: int):
    return ChunkwiseAdditive(chunk) if problem.solver.additive else ChunkwiseDelta(chunk)


def _all_of(call, case: Case, **options) -> dict[str, torch.Tensor]:
    """Outputs, final state, and gradients of a fixed random functional of both."""
    case = case.differentiable()
    y, state = call(case.problem, return_state=True, **{**case.arguments(), **options})
    generator = torch.Generator().manual_seed(2)
    total = sum(
        (x.double() * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum()
        for x in (y, *state.tensors.values())
    )
    gradients = torch.autograd.grad(
        total, list(case.leaves().values()), allow_unused=True, materialize_grads=True
    )
    return {"y": y, **state.tensors, "position": state.position} | {
        f"gradient of {n}": g for n, g in zip(case.leaves(), gradients, strict=True)
    }


def _equals_oracle(case: Case, chunk: int):
    fast, slow = _all_of(ttr.regress, case, engine=_engine(case.problem, chunk)), _all_of(ttr.oracle, case)
    errors = {name: error(fast[name], slow[name]) for name in slow}
    assert max(errors.values()) <= tolerance(case.q.dtype), errors


@pytest.mark.parametrize("problem", ADDITIVE + DELTA, ids=repr)
def test_equals_oracle(problem):
    _equals_oracle(make_case(problem, Sizes(time=11), past=2), chunk=4)


@pytest.mark.parametrize("problem", [p for p in ADDITIVE + DELTA if "log_decay" in p.controls()], ids=repr)
def test_equals_oracle_with_strong_gates(problem):
    _equals_oracle(make_case(problem, Sizes(time=11), strong_gates=True, past=2), chunk=4)


@pytest.mark.parametrize("time", (0, 1, 2, 7, 8, 9, 16, 24))
@pytest.mark.parametrize("problem", PLAIN, ids=repr)
def test_equals_oracle_around_the_borders(problem, time):
    _equals_oracle(make_case(problem, Sizes(batch=1, time=time), past=3), chunk=8)


@pytest.mark.parametrize("problem", PLAIN, ids=repr)
def test_equals_oracle_in_float32_with_the_default_chunk(problem):
    engine = _engine(problem, 4)
    _equals_oracle(
        make_case(problem, Sizes(batch=1, time=70), strong_gates=True, past=2, dtype=torch.float32),
        chunk=type(engine)().chunk,
    )


@pytest.mark.parametrize("problem", PLAIN[2:], ids=repr)
def test_weak_decay_after_a_strong_one_keeps_its_digits(problem):
    """In float32 a sum of 2000 would absorb log decays of 1e-4, which here change every output by far more
    than the tolerance."""
    case = make_case(problem, Sizes(batch=1, time=64), dtype=torch.float32)
    log_decay = torch.full_like(case.controls["log_decay"], -1e-3)
    log_decay[:, :25] = -79.0
    _equals_oracle(dataclasses.replace(case, controls={**case.controls, "log_decay": log_decay}), chunk=64)


@pytest.mark.parametrize("rows_per_token, keys_per_token", ((1, 1), (1, 3), (3, 3)))
@pytest.mark.parametrize("channels", (1, 5))
def test_scores_equal_their_definition(channels, rows_per_token, keys_per_token):
    tokens, features = 8, 5
    rows, keys = (
        torch.randn(2, 1, 2, tokens * count, features, dtype=torch.float64)
        for count in (rows_per_token, keys_per_token)
    )
    log = -torch.rand(2, 1, 2, tokens, channels, dtype=torch.float64).cumsum(-2)
    log_rows, log_keys = (log.repeat_interleave(count, -2) for count in (rows_per_token, keys_per_token))
    visible = torch.arange(tokens * rows_per_token) * keys_per_token // rows_per_token + 1
    decay = (log_rows[..., :, None, :] - log_keys[..., None, :, :]).exp()
    expected = (rows[..., :, None, :] * keys[..., None, :, :] * decay).sum(-1)
    expected = torch.where(torch.arange(tokens * keys_per_token) < visible[:, None], expected, 0.0)
    found = scores(rows, keys, log_rows, log_keys, visible, tokens)
    assert error(found, expected) <= FLOAT64
    assert torch.equal(found == 0, expected == 0)


@pytest.mark.parametrize("problem", PLAIN, ids=repr)
def test_future_does_not_reach_the_past(problem):
    """To the last bit, for changes of any size, inside a chunk and across its border."""
    case = make_case(problem, Sizes(time=12), strong_gates=True)
    other = make_case(problem, Sizes(time=12), seed=1)
    before = ttr.regress(problem, engine=_engine(problem, 4), **case.arguments())
    for token in range(1, 12):
        mixed = {
            name: torch.cat([x[:, :token], 100 * other.leaves()[name][:, token:]], dim=1)
            for name, x in case.leaves().items()
        }
        after = ttr.regress(problem, engine=_engine(problem, 4), **case.with_leaves(mixed).arguments())
        assert torch.equal(after[:, :token], before[:, :token])


class _Watch(TorchDispatchMode):
    """Records the largest argument of any exponential, the largest tensor, and the total of numbers
    written."""

    def __init__(self):
        super().__init__()
        self.exponent, self.largest, self.written = -torch.inf, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten.exp and args[0].numel():
            self.exponent = max(self.exponent, args[0].max().item())
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
                self.written += 0 if func.is_view else tensor.numel()
        return result


def _watch(problem: Problem, time: int, chunk: int, size: int = 3) -> _Watch:
    case = make_case(
        problem, Sizes(batch=1, heads=1, time=time, key=size, value=size), strong_gates=True
    ).differentiable()
    with ttr.checks(values=False), _Watch() as watch:
        ttr.regress(problem, engine=_engine(problem, chunk), **case.arguments()).sum().backward()
    return watch


@pytest.mark.parametrize("problem", PLAIN, ids=repr)
def test_no_exponential_grows(problem):
    """Except by the rounding of the sums whose difference it is."""
    assert _watch(problem, time=40, chunk=16).exponent <= FLOAT64


@pytest.mark.parametrize("problem", PLAIN, ids=repr)
def test_memory_and_work_are_linear(problem):
    """No tensor of T F V or T C F numbers, forward or backward; twice the tokens need twice the numbers
    written."""
    pairs, time, chunk, size = problem.solver.pairs_per_token, 128, 16, 16
    once, twice = (_watch(problem, t, chunk, size) for t in (time, 2 * time))
    assert once.largest <= time * pairs * max(size, chunk * pairs)
    assert twice.written <= 2.01 * once.written


@pytest.mark.parametrize("problem", PLAIN, ids=repr)
def test_second_derivatives(problem):
    case = make_case(problem, Sizes(batch=1, heads=1, time=5, key=2, value=2), past=1).differentiable()
    names = list(case.leaves())

    def call(*leaves):
        changed = case.with_leaves(dict(zip(names, leaves, strict=True)))
        y, state = ttr.regress(problem, engine=_engine(problem, 2), return_state=True, **changed.arguments())
        return y, state["memory"]

    assert torch.autograd.gradcheck(call, list(case.leaves().values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, list(case.leaves().values()), fast_mode=True)


def test_refusals():
    others = _problems((Uniform(), Window(4)), (Linear(), LocalConstant()), (ExactRidge(), ExactLocalFit()))
    others += _problems((Window(4),), FUNCTIONS, (OneStep(),))
    for engine, served, refused in (
        (ChunkwiseAdditive(), ADDITIVE, DELTA),
        (ChunkwiseDelta(), DELTA, ADDITIVE),
    ):
        assert all(engine.refuses(problem) is None for problem in served)
        assert all(engine.refuses(problem).endswith(".") for problem in refused + others)


@pytest.mark.parametrize("chunk", (0, 3, 48))
@pytest.mark.parametrize("engine", (ChunkwiseAdditive, ChunkwiseDelta))
def test_chunk_is_a_power_of_two(engine, chunk):
    with pytest.raises(ValueError, match="power of two"):
        engine(chunk)
