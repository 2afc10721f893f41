"""Softmax attention with positional weights on torch's fused kernel: precision, memory, derivatives of every
kind, states that are partly filled."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ttr
from tests.largest import Largest
from ttr.engines.torch import fused_attention
from ttr.engines.torch.attention import Attention
from ttr.functions.local_constant import LocalConstant
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import FLOAT32_OUTPUTS, FLOAT64, error, tolerance
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.weights.alibi import Alibi
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

GATED = Problem(Geometric("head"), LocalConstant(), ExactLocalFit())
WEIGHTS = (
    Uniform(),
    Geometric("head"),
    Alibi(),
    Window(5),
    Product((Geometric("head"), Window(5))),
    Product((Geometric("head"), Importance())),
)
PROBLEMS = [Problem(weights, LocalConstant(), ExactLocalFit()) for weights in WEIGHTS]


def gradients(case: Case, **options) -> list[torch.Tensor]:
    y = ttr.regress(case.problem, **case.arguments(), **options)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    return list(torch.autograd.grad(y, list(case.leaves().values()), direction))


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_first_and_second_derivatives(problem):
    """Also with respect to the state's weights; some blocks are full, the last is not."""
    case = make_case(
        problem, Sizes(batch=1, heads=2, time=5, key=2, value=3, key_heads=1, value_heads=1), past=2
    ).differentiable()

    def call(*leaves):
        return ttr.regress(
            problem,
            engine=Attention(2),
            **case.with_leaves(dict(zip(case.leaves(), leaves, strict=True))).arguments(),
        )

    assert torch.autograd.gradcheck(call, list(case.leaves().values()))
    assert torch.autograd.gradgradcheck(call, list(case.leaves().values()), fast_mode=True)


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_second_derivatives_in_float32(problem):
    """torch's own attention has none."""

    def second(dtype):
        case = make_case(problem, Sizes(time=9), dtype=dtype).differentiable()
        y = ttr.regress(problem, engine=Attention(4), **case.arguments())
        first = torch.autograd.grad(y.square().sum(), case.q, create_graph=True)[0]
        return torch.autograd.grad(
            first.square().sum(), list(case.leaves().values()), allow_unused=True, materialize_grads=True
        )

    for found, wanted in zip(second(torch.float32), second(torch.float64), strict=True):
        assert error(found, wanted) <= tolerance(torch.float32)


def test_gradients_in_batches():
    case = make_case(GATED, Sizes(time=9)).differentiable()
    leaves = list(case.leaves().values())
    y = ttr.regress(GATED, engine=Attention(4), **case.arguments())
    directions = torch.randn(3, *y.shape, dtype=y.dtype)
    together = torch.autograd.grad(y, leaves, directions, is_grads_batched=True, retain_graph=True)
    for i, direction in enumerate(directions):
        for found, wanted in zip(
            together, torch.autograd.grad(y, leaves, direction, retain_graph=True), strict=True
        ):
            assert error(found[i], wanted) <= FLOAT64


def test_digits_of_long_and_strong_decay():
    """Sums of log decays reach 5,000, where float32 has three decimal places; the differences that matter
    keep full precision."""
    case = make_case(GATED, Sizes(batch=1, heads=2, time=700, key=8, value=8), dtype=torch.float32)
    strong = torch.arange(700) % 256 < 100
    log_decay = (
        -torch.rand(1, 700, 2, generator=torch.Generator().manual_seed(0))
        * torch.where(strong, 40.0, 0.02)[:, None]
    )
    case = dataclasses.replace(case, controls={"log_decay": log_decay})
    assert log_decay.sum(1).max() < -5e3
    assert (
        error(
            ttr.regress(GATED, engine=Attention(), **case.arguments()), ttr.oracle(GATED, **case.arguments())
        )
        <= FLOAT32_OUTPUTS
    )


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_memory_is_linear(problem):
    """No T x T tensor forward or backward; a graph saves inputs, outputs and a few numbers per token."""
    time, size, held = 4096, 8, {}
    case = make_case(
        problem, Sizes(batch=1, heads=1, time=time, key=size, value=size), dtype=torch.float32
    ).differentiable()

    def note(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = ttr.regress(problem, engine=Attention(), **case.arguments())
    with largest:
        y.sum().backward()
    assert largest.numel <= 2 * time * 2 * size  # of 16.8 million pairs
    assert sum(held.values()) <= 4 * time * (4 * size + 10)


@pytest.mark.parametrize("held", (1, 3, 8))
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.weights.window is None], ids=repr)
def test_slots_that_hold_no_pair_do_not_count(problem, held):
    """In a state with a fixed capacity, whose rows need not be equally full."""
    case = make_case(problem, Sizes(batch=2, time=20))
    ends, states = {}, {}
    for capacity in (None, 40):
        state = ttr.initial_state(problem, 2, 2, 3, 2, capacity=capacity, dtype=torch.float64)
        _, state = ttr.regress(problem, return_state=True, **case.tokens(slice(0, held), state).arguments())
        states[capacity] = ttr.State.cat(
            [state.select([0]), ttr.regress(problem, return_state=True, **_row(case, 1, held, state))[1]]
        )
        ends[capacity] = ttr.regress(
            problem, engine=Attention(4), **case.tokens(slice(held + 2, None), states[capacity]).arguments()
        )
    assert states[40].position.tolist() == [held, held + 2]
    assert error(ends[40], ends[None]) <= FLOAT64


def _row(case: Case, row: int, start: int, state: ttr.State) -> dict[str, object]:
    """Two more tokens of one row of the batch."""
    few = case.tokens(slice(start, start + 2), state.select([row]))
    return {
        **few.arguments(),
        **{
            name: x[row : row + 1] for name, x in {"q": few.q, "k": few.k, "v": few.v, **few.controls}.items()
        },
    }


def strong(time=700, scores=1.0, decay=1.0, dtype=torch.float64):
    """Queries and keys whose scores reach ``scores``, and a log decay of about ``decay`` per token."""
    case = make_case(GATED, Sizes(time=time, batch=1, heads=2), dtype=torch.float64)
    size = scores**0.5 * case.q.shape[-1] ** 0.25
    q, k = (size * torch.nn.functional.normalize(x, dim=-1) for x in (case.q, case.k))
    shape, generator = case.controls["log_decay"].shape, torch.Generator().manual_seed(0)
    log_decay = -decay * torch.rand(shape, dtype=torch.float64, generator=generator)
    case = dataclasses.replace(case, q=q, k=k, controls={"log_decay": log_decay}, state=None)
    return case.with_leaves({name: x.to(dtype) for name, x in case.leaves().items()}).differentiable()


def by_definition(case):
    """softmax(q.k / K^(1/2) + c_t - c_i) v in one piece, with the same q, k and v for all heads' groups."""
    heads = case.controls["log_decay"].shape[-1]
    q, k, v = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (case.q, case.k, case.v))
    total = case.controls["log_decay"].cumsum(1).mT
    logits = (
        torch.einsum("bthk,bihk->bhti", q, k) / q.shape[-1] ** 0.5 + total[..., None] - total[..., None, :]
    )
    later = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    return torch.einsum("bhti,bihv->bthv", logits.masked_fill(later, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("scores", "decay"), [(1.0, 0.5), (1.0, 20.0), (80.0, 0.5), (150.0, 1.0)])
def test_pairs_that_are_left_out_change_no_digit(scores, decay, dtype):
    exact, case = strong(scores=scores, decay=decay), strong(scores=scores, decay=decay, dtype=dtype)
    leaves = [[c.q, c.k, c.v, c.controls["log_decay"]] for c in (exact, case)]
    wanted, y = by_definition(exact), ttr.regress(GATED, **case.arguments())
    assert error(y, wanted) <= tolerance(dtype)
    direction = torch.randn(wanted.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for got, expected in zip(
        torch.autograd.grad(y, leaves[1], direction.to(dtype)),
        torch.autograd.grad(wanted, leaves[0], direction),
        strict=True,
    ):
        assert error(got, expected) <= tolerance(dtype)


def watched(monkeypatch, **settings):
    """Numbers of scores, and masks, of the kernel's calls for one sequence."""
    read, masks, flash = [], [], fused_attention.FLASH_ATTENTION

    def seen(query, key, *others, attn_mask=None, **rest):
        read.append(query.shape[2] * key.shape[2])
        masks.append(attn_mask)
        return flash(query, key, *others, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(fused_attention, "FLASH_ATTENTION", seen)
    with torch.no_grad():
        ttr.regress(GATED, **strong(dtype=torch.float32, **settings).arguments())
    return sum(read), masks


def test_pairs_that_do_not_count_are_not_read(monkeypatch):
    few, _ = watched(monkeypatch, time=2048, decay=1.0)
    all_of_them, _ = watched(monkeypatch, time=2048, decay=1e-4)
    assert 3 * few < all_of_them and all_of_them >= 2048 * 2048 / 2


def test_no_log_weight_lies_where_numbers_are_denormal(monkeypatch):
    _, masks = watched(monkeypatch, decay=1.0)
    assert masks
    for mask in masks:
        assert not ((mask < -50) & (mask > fused_attention.FLOOR)).any()
