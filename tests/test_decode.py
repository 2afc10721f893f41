"""Decode steps: the compiled kernel and torch's operations against the oracle; specialised, in place, and on
the general path."""

import inspect
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import ttr
from ttr import dispatch
from ttr.engines.native import library
from ttr.engines.native import step as native
from ttr.engines.torch.steps import matrix
from ttr.functions.linear import Linear
from ttr.laws.tolerances import FLOAT64, error, tolerance
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.bonus import Bonus
from ttr.weights.geometric import Geometric
from ttr.weights.multi_scale import MultiScale
from ttr.weights.uniform import Uniform

TIERS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(not library.available(), reason=library.reason() or "")),
]
RULES = (
    OneStep(),
    DeltaRule(),
    DeltaRule("old"),
    DeltaRule("old", separate_read=True),
    DeltaRule(separate_read=True, separate_erase=True),
    DeltaRule("old", separate_read=True, separate_erase=True, unit_step=True),
    DeltaRule(separate_read=True, gated_write=True),
)
PROBLEMS = {
    f"{weights!r}, {solver!r}": ttr.Problem(weights, Linear(), solver)
    for weights, solver in itertools.product(
        (Uniform(), Geometric(), Geometric("channel"), MultiScale()), RULES
    )
}
PROBLEMS["bonus"] = ttr.Problem(Bonus(), Linear(), OneStep())
DELTA = ttr.catalogue["gated-deltanet"].problem


@pytest.fixture(params=TIERS)
def tier(request, monkeypatch):
    """Runs a test with torch's operations and with the kernel."""
    if request.param == "torch":
        monkeypatch.setattr(native, "usable", lambda x: False)
    monkeypatch.setattr("ttr.dispatch._STEPS", dispatch.Bound())
    return request.param


def token(problem, batch=2, heads=(4, 4, 4), key_size=5, value_size=7, dtype=torch.float64):
    """The arguments of one token, with a state that is not empty."""
    H = max(heads)
    sizes = {"B": batch, "H": H, "K": key_size, "V": value_size}

    def draw(name, axes):
        x = torch.randn([sizes[a] for a in axes if a != "T"], dtype=dtype)
        return -x.abs() if name == "log_decay" else x.abs() / 2 if name == "step_size" else x / 2

    q, k, v = (
        torch.randn(batch, h, size, dtype=dtype) for h, size in zip(heads, (key_size, key_size, value_size))
    )
    controls = {name: draw(name, axes) for name, axes in problem.controls().items()}
    params = {
        name: x.to(dtype)
        for name, x in ttr.init_params(problem, heads=H, key_size=key_size, value_size=value_size).items()
    }
    state = ttr.initial_state(problem, batch, (H, *heads[1:]), key_size, value_size, dtype=dtype)
    return (
        {"q": q, "k": torch.nn.functional.normalize(k, dim=-1), "v": v, **controls},
        state.map(torch.randn_like),
        params or None,
    )


def expected(problem, arguments, state, params):
    y, after = ttr.oracle(
        problem,
        **{name: x[:, None] for name, x in arguments.items()},
        state=state,
        params=params,
        return_state=True,
    )
    return y[:, 0], after


def agrees(done, wanted, dtype):
    return (
        error(done[0], wanted[0]) <= tolerance(dtype)
        and torch.equal(done[1].position, wanted[1].position)
        and all(error(done[1][name], wanted[1][name]) <= tolerance(dtype) for name in wanted[1])
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_one_token_is_that_of_the_oracle(problem, dtype, tier):
    for sizes in (
        {},
        {"key_size": 9, "value_size": 37},
        {"key_size": 8, "value_size": 64},
        {"key_size": 3, "value_size": 1},
    ):
        arguments, state, params = token(problem, dtype=dtype, **sizes)
        wanted = expected(problem, arguments, state, params)
        kept = state.clone()
        assert agrees(ttr.step(problem, **arguments, state=state, params=params), wanted, dtype)
        assert all(torch.equal(state[name], kept[name]) for name in state) and torch.equal(
            state.position, kept.position
        )
        y, same = ttr.step(problem, **arguments, state=kept, params=params, inplace=True)
        assert same is kept and agrees((y, kept), wanted, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_a_planned_token_is_that_of_the_oracle(problem, inplace, dtype, tier):
    arguments, state, params = token(problem, dtype=dtype)
    run = ttr.plan(problem, **arguments, params=params, inplace=inplace)
    for _ in range(3):
        wanted = expected(problem, arguments, state, params)
        y, after = run(**arguments, state=state, **({"params": params} if params else {}))
        assert (after is state) == inplace and agrees((y, after), wanted, dtype)
        arguments, _, _ = token(problem, dtype=dtype)
        state = after


def bound(run) -> object:
    """The specialised step of a planned call, which runs before the checks of ``step``; None if there is
    none."""
    run = inspect.unwrap(run)  # of the tests' shape checks
    return dict(zip(run.__code__.co_freevars, (cell.cell_contents for cell in run.__closure__)))["bound"]


@pytest.mark.parametrize(
    "name",
    ["linear-attention", "retnet", "gla", "mamba2", "deltanet", "gated-deltanet", "kda", "comba", "rwkv7"],
)
def test_plain_memories_are_bound(name, tier):
    problem = ttr.catalogue[name].problem
    arguments, _, params = token(problem)
    assert bound(ttr.plan(problem, **arguments, params=params)) is not None


class Slow(dispatch.Bound):
    """A cache that lets other threads run between reading its size and acting on it, and records its largest
    size."""

    most, largest = 3, 0

    def __len__(self):
        size = super().__len__()
        time.sleep(0.002)
        return size

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        self.largest = max(self.largest, super().__len__())


def test_what_is_bound_stays_few_whoever_steps(monkeypatch):
    kept = Slow()
    monkeypatch.setattr("ttr.dispatch._STEPS", kept)

    def steps(first):
        for batch in range(first, first + 6):
            arguments, state, _ = token(DELTA, batch)
            ttr.step(DELTA, **arguments, state=state)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(steps, (1, 11, 21, 31)))
    assert 1 <= kept.largest <= 3


@pytest.mark.parametrize(
    "name", ["linear-attention-normalized", "deltaproduct", "mesanet", "softmax-attention"]
)
def test_others_are_recorded(name, tier):
    problem = ttr.catalogue[name].problem
    case = ttr.laws.rows.make_case(problem, ttr.laws.rows.Sizes(time=1)).arguments()
    arguments = {n: x[:, 0] for n, x in case.items() if isinstance(x, torch.Tensor) and n != "ridge"}
    rest = {"ridge": case["ridge"]} if "ridge" in case else {}
    params = {"params": case["params"]} if case.get("params") else {}
    run = ttr.plan(problem, **arguments, **rest, **params)
    assert bound(run) is not None
    state = None
    for _ in range(3):
        y, after = run(**arguments, **rest, **params, state=state)
        wanted, _ = ttr.step(problem, **arguments, **rest, **params, state=state, engine="recurrent")
        assert error(y, wanted) <= tolerance(y.dtype)
        state = after


@pytest.mark.parametrize("heads", [(4, 4, 4), (4, 2, 2), (4, 1, 4), (2, 2, 6)])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_and_grouped_heads(batch, heads, tier):
    arguments, state, _ = token(DELTA, batch, heads)
    wanted = expected(DELTA, arguments, state, None)
    run = ttr.plan(DELTA, **arguments, inplace=True)
    assert bound(run) is not None and agrees(run(**arguments, state=state), wanted, torch.float64)


def test_steps_are_the_sequence(tier):
    arguments, state, _ = token(DELTA)
    sequence = {
        name: torch.stack([x, x.flip(0), x * 0.5, x.roll(1, 1)], dim=1) for name, x in arguments.items()
    }
    y, wanted = ttr.regress(DELTA, **sequence, state=state, return_state=True)
    run, mine = ttr.plan(DELTA, **arguments, inplace=True), state.clone()
    for t in range(4):
        one, mine = run(**{name: x[:, t].contiguous() for name, x in sequence.items()}, state=mine)
        assert error(one, y[:, t]) <= tolerance(torch.float64)
    assert agrees((one, mine), (y[:, -1], wanted), torch.float64)


def test_what_is_not_as_planned_is_still_right(tier):
    arguments, state, _ = token(DELTA)
    run = ttr.plan(DELTA, **arguments)
    for change in ({"batch": 3}, {"dtype": torch.float32}, {"value_size": 3}):
        other, start, _ = token(DELTA, **change)
        assert agrees(run(**other, state=start), expected(DELTA, other, start, None), other["q"].dtype)
    strided = {name: x[..., None].expand(*x.shape, 2)[..., 0] for name, x in arguments.items()}
    assert agrees(run(**strided, state=state), expected(DELTA, arguments, state, None), torch.float64)
    assert run(**arguments, state=None)[0].shape == (2, 4, 7)
    leaf = arguments["v"].clone().requires_grad_()
    y, _ = run(**{**arguments, "v": leaf}, state=state)
    assert torch.autograd.grad(y.sum(), leaf)[0].abs().sum() > 0
    with torch.inference_mode():
        assert agrees(run(**arguments, state=state), expected(DELTA, arguments, state, None), torch.float64)


@pytest.mark.parametrize(
    "name, value",
    [
        ("v", torch.nan),
        ("q", torch.inf),
        ("log_decay", 0.5),
        ("log_decay", torch.nan),
        ("step_size", -1.0),
        ("step_size", torch.inf),
    ],
)
def test_bad_numbers_leave_the_state_untouched(name, value, tier):
    arguments, state, _ = token(DELTA)
    # the second call is specialised, and still refuses these
    ttr.step(DELTA, **arguments, state=state.clone(), inplace=True)
    kept = state.clone()
    arguments[name].view(-1)[-1] = value
    with pytest.raises(ValueError, match=name):
        ttr.step(DELTA, **arguments, state=state, inplace=True)
    with pytest.raises(ValueError, match=name):
        ttr.plan(DELTA, **token(DELTA)[0], inplace=True)(**arguments, state=state)
    assert torch.equal(state["memory"], kept["memory"]) and torch.equal(state.position, kept.position)


def test_a_reset_forgets_everything(tier):
    arguments, state, _ = token(DELTA)
    arguments["log_decay"].view(-1)[::3] = -torch.inf
    assert agrees(
        ttr.plan(DELTA, **arguments)(**arguments, state=state),
        expected(DELTA, arguments, state, None),
        torch.float64,
    )


@pytest.mark.skipif(not library.available(), reason=library.reason() or "")
def test_threads_change_no_bit(monkeypatch):
    arguments, state, _ = token(DELTA, batch=5)
    one = ttr.plan(DELTA, **arguments)(**arguments, state=state)
    monkeypatch.setattr(native, "THREADED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    several = ttr.plan(DELTA, **arguments)(**arguments, state=state)
    assert torch.equal(one[0], several[0]) and torch.equal(one[1]["memory"], several[1]["memory"])


def test_the_eager_update_in_place_makes_no_second_memory():
    pair = matrix.Pair(*torch.randn(2, 2, 4, 6, dtype=torch.float64).unbind(), None, None, None, None)
    memory = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    assert (
        matrix.changed(
            pair, matrix.change_by(pair, memory, False, matrix.read_memory), memory, True
        ).data_ptr()
        == memory.data_ptr()
    )


@pytest.mark.skipif(
    os.environ.get("TTR_TEST_TYPES", "1") == "1",
    reason="torch.compile cannot look through the shape checks",
)
@pytest.mark.parametrize("name", ["retnet", "deltanet", "kda", "comba", "rwkv7"])
def test_a_compiled_plan_is_in_place_and_that_of_the_oracle(name, tier):
    """Not through ``step``, whose checks would become guards of every compiled call."""
    problem = ttr.catalogue[name].problem
    arguments, state, params = token(problem)
    run, graphs = ttr.plan(problem, **arguments, params=params, inplace=True), []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend=keep)
    for _ in range(2):
        wanted = expected(problem, arguments, state, params)
        y, after = compiled(**arguments, state=state, **({"params": params} if params else {}))
        assert after is state and agrees((y, after), wanted, torch.float64)
        arguments, _, _ = token(problem)
    assert len(graphs) == 1 and any(node.target == "addcmul_" for node in graphs[0].graph.nodes)


def test_plan_in_place_is_for_single_tokens():
    arguments, _, _ = token(DELTA)
    with pytest.raises(ValueError, match="inplace is for single tokens"):
        ttr.plan(DELTA, **{name: x[:, None] for name, x in arguments.items()}, inplace=True)


def test_gradients_are_asked_for_at_every_call():
    """A call with gradients, or in functorch, takes the general path although a call without them was
    bound."""
    problem = ttr.catalogue["gated-deltanet"].problem
    q, k, v = torch.randn(3, 1, 2, 4, dtype=torch.float64).unbind()
    call = {
        "log_decay": -torch.rand(1, 2, dtype=torch.float64),
        "step_size": torch.rand(1, 2, dtype=torch.float64),
    }
    state = ttr.initial_state(problem, 1, 2, 4, 4, dtype=torch.float64)
    planned = ttr.plan(problem, q, k / 4, v, state=state, **call)
    for run in (planned, lambda *args, **controls: ttr.step(problem, *args, **controls)):
        with torch.no_grad():
            run(q.requires_grad_(), k / 4, v, state, **call)
            run(q, k / 4, v, state, **call)
        y, _ = run(q, k / 4, v, state, **call)
        expected = torch.autograd.grad(y.sum(), q)[0]
        found = torch.func.grad(lambda q: run(q, k / 4, v, state, **call)[0].sum())(q.detach())
        assert error(found, expected) <= FLOAT64


def test_what_is_no_tensor_is_refused_in_a_sentence():
    problem = ttr.catalogue["linear-attention"].problem
    q = torch.randn(1, 2, 4)
    for wrong in ((None, q, q), (q, None, q), (q, q, [1.0])):
        with pytest.raises(ValueError, match=r"must be a floating-point tensor, got .*\.$"):
            ttr.step(problem, *wrong, None)
