"""Short sequences of plain linear memories: from the second call on, the caller's tensors are passed to the
kernel directly, with the same results."""

import pytest
import torch

import ttr
from tests.tiers import TIERS, tier
from ttr import dispatch
from ttr.engines.native import library
from ttr.laws.rows import Sizes, make_case
from ttr.laws.tolerances import error, tolerance
from ttr.torch_internals import negated_lazily

BOUND = ("linear-attention", "retnet", "gla", "mamba2", "deltanet", "gated-deltanet", "kda", "comba", "rwkv7")
SIZES = Sizes(batch=2, time=9, heads=3, key=5, value=7)

needs_kernels = pytest.mark.skipif(not library.available(), reason=str(library.reason()))


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(dispatch, "_SEQUENCES", dispatch.Bound())


def call(name, dtype=torch.float64, past=0):
    case = make_case(ttr.catalogue[name].problem, SIZES, past=past, dtype=dtype)
    return case, {name: x for name, x in case.arguments().items() if name not in ("problem",)}


def bound(name):
    return next(iter(dispatch._SEQUENCES.values()))


@needs_kernels
@pytest.mark.parametrize("past", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", BOUND)
@pytest.mark.parametrize("kind", [each for each in TIERS if each != "torch"])
def test_a_short_call_is_what_the_definition_says(kind, name, dtype, past):
    case, arguments = call(name, dtype, past)
    expected, end = ttr.oracle(case.problem, **arguments, return_state=True)
    before = None if case.state is None else case.state.clone()
    with tier(kind):
        for _ in range(2):
            y, state = ttr.regress(case.problem, **arguments, return_state=True)
        assert bound(name) is not None
        assert torch.equal(y, ttr.regress(case.problem, **arguments))
        assert torch.equal(y, ttr.plan(case.problem, **arguments)(**arguments))
    assert error(y, expected) <= tolerance(dtype)
    assert torch.equal(state.position, end.position)
    assert all(error(state[part], end[part]) <= tolerance(dtype) for part in end)
    if before is not None:
        assert all(torch.equal(case.state[part], before[part]) for part in before)


@needs_kernels
@pytest.mark.parametrize("name", ["gated-deltanet", "kda"])
def test_a_short_call_takes_resets(name, monkeypatch):
    case, arguments = call(name)
    arguments["log_decay"] = arguments["log_decay"].clone()
    arguments["log_decay"][:, 3] = -torch.inf
    arguments["log_decay"][:, 5] = -200.0
    run = ttr.plan(case.problem, **arguments)
    monkeypatch.setattr(dispatch, "prepare", None)  # the general path
    y = run(**arguments)
    assert error(y, ttr.oracle(case.problem, **arguments)) <= tolerance(torch.float64)


def spoiled(arguments):
    """Invalid calls, each with a part of the message that the general path gives."""

    def put(name, value):
        x = arguments[name].clone()
        x.view(-1)[1] = value
        return {**arguments, name: x}

    yield put("q", torch.nan), "q holds NaN"
    yield put("k", torch.inf), "k holds NaN or infinite"
    yield put("v", torch.nan), "v holds NaN"
    yield put("log_decay", 0.5), "'log_decay'"
    yield put("log_decay", torch.nan), "'log_decay' holds NaN"
    yield put("step_size", -0.5), "'step_size'"
    yield {**arguments, "step_size": arguments["step_size"][:1]}, "'step_size' must have shape"
    yield {**arguments, "momentum": arguments["step_size"]}, "no control 'momentum'"
    yield {name: x for name, x in arguments.items() if name != "step_size"}, "'step_size' is missing"
    yield {**arguments, "params": {"function.w1": arguments["q"]}}, "no parameter"
    yield {**arguments, "state": {}}, "must be a ttr.State"


def test_what_is_wrong_is_refused_by_the_second_call_too():
    case, arguments = call("gated-deltanet")
    run = ttr.plan(case.problem, **arguments)
    ttr.regress(case.problem, **arguments)
    for wrong, words in spoiled(arguments):
        for attempt in (lambda: ttr.regress(case.problem, **wrong), lambda: run(**wrong)):
            with pytest.raises(ValueError, match=words):
                attempt()


def test_other_calls_of_the_same_sizes_go_the_long_way():
    """Layouts, gradients, autocast, functorch and packed rows take the general path after a call was
    bound."""
    case, arguments = call("gated-deltanet")
    problem = case.problem
    expected = ttr.regress(problem, **arguments)

    def same(y):
        return error(y, expected) <= tolerance(torch.float64)

    for name in ("q", "k", "v"):
        turned = arguments[name].transpose(1, 2).contiguous().transpose(1, 2)
        assert same(ttr.regress(problem, **{**arguments, name: turned}))
        negated = negated_lazily(-arguments[name])
        assert negated.is_neg() and same(ttr.regress(problem, **{**arguments, name: negated}))
    leaf = arguments["v"].clone().requires_grad_()
    y = ttr.regress(problem, **{**arguments, "v": leaf})
    assert y.requires_grad and same(y)
    with torch.no_grad():
        assert same(ttr.regress(problem, **{**arguments, "v": leaf}))
    with torch.autocast("cpu"):
        assert same(ttr.regress(problem, **arguments))
    mapped = torch.vmap(lambda v: ttr.regress(problem, **{**arguments, "v": v}))(arguments["v"][None])
    assert same(mapped[0])
    packed = {name: x.flatten(0, 1)[None] for name, x in arguments.items() if isinstance(x, torch.Tensor)}
    y = ttr.regress(problem, **packed, cu_seqlens=torch.tensor([0, 9, 18]))
    assert same(y.view_as(expected))
    with library.left_out():
        assert same(ttr.regress(problem, **arguments))
    with ttr.checks(values=False):
        nan = {**arguments, "q": torch.full_like(arguments["q"], torch.nan)}
        assert ttr.regress(problem, **nan).isnan().all()


def test_what_is_bound_stays_few():
    case, arguments = call("linear-attention")
    for time in range(1, dispatch.Bound.most + 4):
        q, k, v = (torch.randn(1, min(time, 64), 1 + time // 64, 2) for _ in "qkv")
        ttr.regress(case.problem, q, k, v)
    assert 1 <= len(dispatch._SEQUENCES) <= dispatch.Bound.most


@pytest.mark.parametrize("name", ["mamba2", "gated-deltanet"])
def test_a_call_saves_for_its_gradient_what_its_repetition_saves(name):
    """Which checkpoints compare."""
    case, _ = call(name)
    arguments = {name: x for name, x in case.differentiable().arguments().items() if name != "problem"}
    saved = []
    for _ in range(2):
        shapes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, to=shapes: to.append(x.shape) or x, lambda x: x
        ):
            ttr.regress(case.problem, **arguments)
        saved.append(shapes)
    assert saved[0] == saved[1]
