"""Packed sequences, computed in batches: as each sequence alone, whatever their lengths and states."""

import pytest
import torch

import ttr
from ttr import dispatch
from ttr.laws.rows import Sizes, make_case
from ttr.laws.tolerances import error, tolerance

LENGTHS = {
    "alike": (6, 6, 6, 6),
    "about alike": (16, 13, 15, 12, 16),
    "one, none, many": (1, 0, 9, 0, 1, 30, 2),
    "none": (0, 0),
    "one": (7,),
}
NAMES = ("gated-deltanet", "softmax-attention", "local-linear-rank8", "mesa", "ttt-linear", "titans", "lact")


def packed(name, lengths):
    problem = ttr.catalogue[name].problem
    case = make_case(problem, Sizes(batch=1, time=sum(lengths)), dtype=torch.float64)
    bounds = torch.tensor((0, *lengths)).cumsum(0)
    return problem, case, bounds


def alone(case, bounds, states, **options):
    """Every sequence as a call of its own."""
    outputs = []
    for row, (start, stop) in enumerate(zip(bounds, bounds[1:])):
        own = case.tokens(slice(start, stop), None if states is None else states.select([row]))
        outputs.append(ttr.regress(case.problem, **own.arguments(), **options))
    return outputs


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("name", NAMES)
def test_packed_sequences_are_those_alone(name, lengths):
    problem, case, bounds = packed(name, lengths)
    leaves = case.differentiable()
    given = {n: x for n, x in leaves.arguments().items() if n != "state"}
    y, state = ttr.regress(problem, **given, cu_seqlens=bounds, return_state=True)
    padded = ttr.regress(problem, **given, cu_seqlens=bounds)  # whose state nobody wants
    each = alone(leaves, bounds.tolist(), None, return_state=True)
    wanted = torch.cat([y for y, _ in each], dim=1)
    assert error(y, wanted) <= tolerance(torch.float64) >= error(padded, wanted)
    assert state.position.tolist() == list(lengths)
    for row, (_, own) in enumerate(each):
        one = ttr.slots.single(state, row, problem.weights.window)
        assert all(error(one[key], own[key]) <= tolerance(torch.float64) for key in own)
    if wanted.numel():
        tensors = [x for x in (leaves.q, leaves.k, leaves.v, *leaves.controls.values()) if x.ndim > 2]
        direction = torch.randn(wanted.shape, dtype=wanted.dtype)
        by = [
            torch.autograd.grad(made, tensors, direction, retain_graph=True) for made in (wanted, padded, y)
        ]
        for found in by[1:]:
            for got, expected in zip(found, by[0], strict=True):
                assert error(got, expected) <= tolerance(torch.float64)


@pytest.mark.parametrize("then", [(3, 4, 3, 4), (4, 4, 4, 4)])
@pytest.mark.parametrize("name", NAMES)
def test_packed_sequences_go_on_from_their_own_states(name, then):
    problem, first, bounds = packed(name, (5, 2, 9, 5))
    given = {n: x for n, x in first.arguments().items() if n != "state"}
    _, state = ttr.regress(problem, **given, cu_seqlens=bounds, return_state=True)
    before = state.clone()
    _, second, bounds = packed(name, then)
    given = {n: x for n, x in second.arguments().items() if n != "state"}
    y, after = ttr.regress(problem, **given, state=state, cu_seqlens=bounds, return_state=True)
    singles = [ttr.slots.single(state, row, problem.weights.window) for row in range(4)]
    for row, (start, stop) in enumerate(zip(bounds.tolist(), bounds.tolist()[1:])):
        wanted, end = ttr.regress(
            problem, **second.tokens(slice(start, stop), singles[row]).arguments(), return_state=True
        )
        assert error(y[:, start:stop], wanted) <= tolerance(torch.float64)
        one = ttr.slots.single(after, row, problem.weights.window)
        assert all(error(one[key], end[key]) <= tolerance(torch.float64) for key in end)
    assert all(torch.equal(state[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("lengths", "state", "calls"),
    [((8,) * 30, True, 1), ((8, 9, 7, 8) * 8, False, 1), ((8, 9) * 8, True, 2), ((64, 8) * 4, False, 2)],
)
def test_sequences_share_calls(lengths, state, calls, monkeypatch):
    problem, case, bounds = packed("gated-deltanet", lengths)
    chosen, seen = dispatch.choose, []

    def choose(*arguments):
        engine = chosen(*arguments)
        run = type(engine).run
        monkeypatch.setattr(type(engine), "run", lambda *a: seen.append(1) or run(*a))
        return engine

    monkeypatch.setattr(dispatch, "choose", choose)
    given = {n: x for n, x in case.arguments().items() if n != "state"}
    ttr.regress(problem, **given, cu_seqlens=bounds, return_state=state)
    assert len(seen) == calls


def test_what_fills_up_a_sequence_cannot_be_refused(monkeypatch):
    """Zeros, which no system of equations notices, not another copy of a token."""
    problem, case, bounds = packed("mesa", (8, 6))
    seen, run = [], ttr.packed.run

    def watched(take, *arguments):
        return run(lambda problem, x: seen.append(x) or take(problem, x), *arguments)

    monkeypatch.setattr("ttr.packed.run", watched)
    ttr.regress(problem, **{n: x for n, x in case.arguments().items() if n != "state"}, cu_seqlens=bounds)
    assert all((x[1, 6:] == 0).all() and (x[0] != 0).any() for x in (seen[0].q, seen[0].k, seen[0].v))
