"""Derivatives of the operators in all of torch's modes: second, batched, forward, checkpointed, inside
autocast."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import ttr
from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.engines.linear import OperatorEngine
from ttr.engines.native import library
from ttr.laws import Setting
from ttr.laws.law import outcome
from ttr.laws.rows import Sizes, make_case
from ttr.laws.tolerances import FLOAT64, error
from ttr.operators.rms_norm import rms_norm
from ttr.operators.short_convolution import short_convolution

PRESENT = tuple(
    engine for engine in ENGINES if isinstance(engine, OperatorEngine) and engine.missing() is None
)
PROBLEM = ttr.catalogue["gated-deltanet"].problem
NAMES = (
    "linear-attention",
    "gla",
    "rwkv6",
    "gated-deltanet",
    "rwkv7",
    "comba",
    "longhorn",
    "longhorn-exact",
    "precond-kda",
    "gated-deltanet2",
)


def call(
    tokens: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(tokens)
    q, k, v = torch.randn(3, 1, tokens, 2, 4, generator=generator, dtype=dtype).unbind()
    controls = {
        "log_decay": -torch.rand(1, tokens, 2, generator=generator, dtype=dtype),
        "step_size": torch.rand(1, tokens, 2, generator=generator, dtype=dtype),
    }
    return {"q": q, "k": k / 2, "v": v}, controls


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_first_derivatives_do_not_depend_on_whether_second_ones_are_wanted(engine, name):
    """Here some inputs of the recurrence are computed from others: those computations must be differentiated
    once."""
    torch.manual_seed(0)
    mixer = ttr.nn.Mixer(8, ttr.catalogue[name], heads=2, engine=engine).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64, requires_grad=True)
    leaves = [x, *mixer.parameters()]
    plain, again = (
        torch.autograd.grad(
            mixer(x).square().sum(), leaves, create_graph=wanted, allow_unused=True, materialize_grads=True
        )
        for wanted in (False, True)
    )
    assert max(error(b, a) for a, b in zip(plain, again)) <= FLOAT64


def test_the_operators_around_a_memory_count_every_way_once():
    x = torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for y in (
        short_convolution(x, x[:, :2] * 2, weight, silu=True),
        rms_norm(x, 1e-5, gain=weight[0], gate=x * 3),
    ):
        plain = torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0]
        again = torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
        assert error(again, plain) <= FLOAT64


@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_batched_gradients(engine):
    tensors, controls = call()
    q = tensors["q"].requires_grad_()
    y = ttr.regress(PROBLEM, **tensors, engine=engine, **controls)
    directions = torch.randn(3, *y.shape, dtype=y.dtype)
    together = torch.autograd.grad(y, q, directions, is_grads_batched=True, retain_graph=True)[0]
    for found, direction in zip(together, directions):
        assert error(found, torch.autograd.grad(y, q, direction, retain_graph=True)[0]) <= FLOAT64


@pytest.mark.parametrize("name", ttr.catalogue)
def test_batched_gradients_of_every_layer(name):
    """As in ``jacobian(vectorize=True)``: several gradients at once, of outputs or of states, equal those one
    by one on every engine."""
    problem = ttr.catalogue[name].problem
    case = make_case(problem, Sizes(batch=1, time=5), past=2).differentiable()
    leaves = list(case.leaves().values())
    for engine in (engine for engine in ENGINES if refusal(engine, problem) is None):
        y, state = outcome(Setting(engine.small()).run, case)
        for ends in filter(None, ([y], [x for x in state.tensors.values() if x.requires_grad])):
            grads = [torch.randn(2, *x.shape, dtype=x.dtype) for x in ends]
            together, *alone = (
                torch.autograd.grad(
                    ends, leaves, each, retain_graph=True, is_grads_batched=batched, allow_unused=True
                )
                for each, batched in ((grads, True), *((each, False) for each in zip(*grads)))
            )
            for found, *expected in zip(together, *alone):
                assert (
                    found is None
                    and expected == [None, None]
                    or error(found, torch.stack(expected)) <= FLOAT64
                ), engine.name


def test_forward_mode():
    tensors, controls = call()
    tangent = torch.randn_like(tensors["q"])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(tensors["q"], tangent)
        y = ttr.regress(PROBLEM, dual, tensors["k"], tensors["v"], **controls)
        found = torch.autograd.forward_ad.unpack_dual(y).tangent
    expected = ttr.regress(PROBLEM, tangent, tensors["k"], tensors["v"], **controls)  # y is linear in q
    assert error(found, expected) <= FLOAT64


@pytest.fixture(params=["all tiers", "torch alone"])
def tiers(request):
    """ "auto" chooses among the kernels that are available."""
    with contextlib.nullcontext() if request.param == "all tiers" else library.left_out():
        assert request.param == "all tiers" or not library.available()
        yield


@pytest.mark.parametrize("name", ["linear-attention", "gla", "gated-deltanet", "kda"])
def test_functorch_goes_through_the_public_calls(name, tiers):
    """vmap, grad, vmap of grad and jvp of a whole sequence, over the query, a control and the state, equal
    plain calls."""
    problem = ttr.catalogue[name].problem
    rows = [make_case(problem, Sizes(time=5), seed=seed) for seed in range(3)]
    case, names = rows[0], ("q", "k", "v", *rows[0].controls)
    given = {each: torch.stack([row.arguments()[each] for row in rows]) for each in names}
    memories = torch.stack(
        [
            torch.randn_like(ttr.regress(problem, **case.arguments(), return_state=True)[1]["memory"])
            for _ in rows
        ]
    )

    def call(memory, *tensors):
        state = ttr.State({"memory": memory}, torch.zeros(memory.shape[0], dtype=torch.int64))
        return ttr.regress(problem, **dict(zip(names, tensors)), state=state)

    def loss(*tensors):
        return call(*tensors).square().sum()

    calls = [(memories[i], *(given[each][i] for each in names)) for i in range(3)]
    assert (
        error(torch.func.vmap(call)(memories, *given.values()), torch.stack([call(*each) for each in calls]))
        <= FLOAT64
    )
    leaves = [[x.clone().requires_grad_() for x in each] for each in calls]
    wanted = [torch.autograd.grad(loss(*each), each) for each in leaves]
    everything = tuple(range(1 + len(names)))
    assert max(map(error, torch.func.grad(loss, everything)(*calls[0]), wanted[0])) <= FLOAT64
    together = torch.func.vmap(torch.func.grad(loss, everything))(memories, *given.values())
    assert max(error(found[i], one) for i in range(3) for found, one in zip(together, wanted[i])) <= FLOAT64
    tangents = tuple(map(torch.randn_like, calls[0]))
    _, slope = torch.func.jvp(loss, calls[0], tangents)
    assert error(slope, sum((g * t).sum() for g, t in zip(wanted[0], tangents))) <= FLOAT64


def test_functorch_goes_through_single_tokens(tiers):
    (q, k, v), controls, state = token()
    for _ in range(2):  # the second call is bound
        y, _ = ttr.step(PROBLEM, q, k, v, state, **controls)
    found = torch.func.vmap(lambda q: ttr.step(PROBLEM, q, k, v, state, **controls)[0])(
        torch.stack([q, 2 * q])
    )
    assert error(found, torch.stack([y, 2 * y])) <= FLOAT64  # y is linear in q
    _, slope = torch.func.jvp(lambda q: ttr.step(PROBLEM, q, k, v, state, **controls)[0], (q,), (3 * q,))
    assert error(slope, 3 * y) <= FLOAT64


@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_an_engine_that_functorch_cannot_trace_is_refused(engine):
    tensors, controls = call()
    with pytest.raises(ValueError, match="functorch transforms need"):
        torch.func.vmap(
            lambda q: ttr.regress(PROBLEM, q, tensors["k"], tensors["v"], engine=engine, **controls)
        )(torch.stack([tensors["q"]] * 2))


@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_activation_checkpointing(engine):
    tensors, controls = call()
    q = tensors["q"].requires_grad_()

    def run(q: torch.Tensor) -> torch.Tensor:
        return ttr.regress(PROBLEM, q, tensors["k"], tensors["v"], engine=engine, **controls)

    plain, again = (
        torch.autograd.grad(y.square().sum(), q)[0] for y in (run(q), checkpoint(run, q, use_reentrant=False))
    )
    assert torch.equal(plain, again)


@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_a_backward_pass_inside_autocast_keeps_its_digits(engine):
    tensors, controls = call(dtype=torch.float32)
    q = tensors["q"].requires_grad_()
    gradients = []
    for narrow in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            y = ttr.regress(PROBLEM, **tensors, engine=engine, **controls)
            gradients += torch.autograd.grad(y.square().sum(), q)
    assert torch.equal(*gradients)


def token(
    dtype: torch.dtype = torch.float64,
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor], ttr.State]:
    tensors, controls = call(3, dtype)
    rows = [x[:, 0].contiguous() for x in tensors.values()]
    _, state = ttr.regress(PROBLEM, **tensors, return_state=True, **controls)
    return rows, {name: x[:, 0].contiguous() for name, x in controls.items()}, state


def test_an_update_in_place_is_seen_by_graphs_that_hold_the_state():
    (q, k, v), controls, state = token()
    for _ in range(2):  # the second call is bound
        ttr.step(PROBLEM, q, k, v, state, inplace=True, **controls)
    y, _ = ttr.step(PROBLEM, q, k.requires_grad_(), v, state, **controls)
    ttr.step(PROBLEM, q, k.detach(), v, state, inplace=True, **controls)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), k)


@pytest.mark.parametrize("apart", [0, 1], ids=["expanded", "windows"])
def test_a_state_that_overlaps_itself_is_left_alone_in_place(apart):
    (q, k, v), controls, state = token()
    size = state["memory"].numel()
    rows_of_memory = torch.cat([state["memory"].flatten(), state["memory"].flatten()[:1]]).as_strided(
        (2, size), (apart, 1)
    )
    rows, controls = (
        [x.expand(2, -1, -1) for x in (q, k, v)],
        {name: x.expand(2, -1) for name, x in controls.items()},
    )
    shared = ttr.State(
        {"memory": rows_of_memory.unflatten(1, state["memory"].shape[1:])}, torch.tensor([3, 3])
    )
    before = shared.clone()
    y, after = ttr.step(PROBLEM, *rows, shared, inplace=True, **controls)
    assert torch.equal(shared["memory"], before["memory"]) and torch.equal(shared.position, before.position)
    assert error(
        y, ttr.step(PROBLEM, *rows, before, **controls)[0]
    ) <= FLOAT64 and after.position.tolist() == [4, 4]


def test_the_convolution_refuses_what_does_not_fit():
    x, tail, weight = torch.randn(2, 5, 3), torch.randn(2, 2, 3), torch.randn(3, 3)
    for wrong in (
        (x, tail[:1], weight),
        (x, tail[:, :1], weight),
        (x, tail, weight[:, :2]),
        (x, tail, weight, torch.randn(2)),
    ):
        with pytest.raises(ValueError, match=r"takes x .* Give all"):
            short_convolution(*wrong, silu=True)
