"""Operations on states beyond continuing: dropping the newest tokens, and combining with the state of the
next segment."""

import dataclasses
import functools

import pytest
import torch

import ttr
from ttr.forms import CorrectedPairs, LinearRecurrence, Pairs, SecondMoments, TransportedPairs
from ttr.functions.linear import Linear
from ttr.functions.local_constant import LocalConstant
from ttr.laws.rows import Sizes, make_case, triples
from ttr.laws.tolerances import FLOAT64, error
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.multi_scale import MultiScale
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

SUMMARIES = [
    problem
    for problem in triples()
    if problem.recurrence is None
    and problem.solver.weights_act_on == "samples"
    and (
        problem.form is SecondMoments
        or issubclass(problem.form, Pairs)
        or problem.form is LinearRecurrence
        and problem.solver.additive
    )
    and problem.form not in (TransportedPairs, CorrectedPairs)
]
OTHERS = [problem for problem in triples() if problem not in SUMMARIES and problem.function.causal]


def end(case, **options):
    return ttr.regress(case.problem, return_state=True, **{**case.arguments(), **options})[1]


def of_weights(case):
    """The params and controls that weights with decay declare."""
    names = case.problem.weights.controls() if case.problem.weights.retention else ()
    return {"params": case.params, **{name: case.controls[name] for name in names}}


def worst(state, reference):
    assert torch.equal(state.position, reference.position) and set(state) == set(reference)
    return max(error(state[name], reference[name]) for name in reference)


@pytest.mark.parametrize("problem", SUMMARIES, ids=repr)
def test_combined_states_of_segments_are_the_state_of_the_whole(problem):
    """Three segments, the middle one longer than the windows of the examples; the combination is associative,
    also with strong decays."""
    case = make_case(problem, strong_gates=True)
    cuts = [case.tokens(slice(*bounds)) for bounds in ((0, 2), (2, 7), (7, 9))]
    a, b, c = (end(part) for part in cuts)
    whole = end(case)
    left = ttr.State.combine(
        problem, ttr.State.combine(problem, a, b, **of_weights(cuts[1])), c, **of_weights(cuts[2])
    )
    right = ttr.State.combine(
        problem,
        a,
        ttr.State.combine(problem, b, c, **of_weights(cuts[2])),
        **of_weights(case.tokens(slice(2, 9))),
    )
    assert worst(left, whole) <= FLOAT64 and worst(right, whole) <= FLOAT64
    assert whole.position.max() == 9 and any(error(a[name], whole[name]) > FLOAT64 for name in whole)


@pytest.mark.parametrize("weights", [Uniform(), MultiScale(2.0), Geometric(), Window(3)], ids=repr)
def test_rows_of_different_length_combine(weights):
    problem = ttr.Problem(weights, LocalConstant(), ExactLocalFit())
    case = make_case(problem)
    lengths = ((1, 5), (5, 1))
    first = ttr.State.cat([end(case.tokens(slice(0, n))).select([row]) for row, (n, _) in enumerate(lengths)])
    second = [case.tokens(slice(n, n + m)) for n, m in lengths]
    rows = [
        ttr.State.combine(
            problem,
            first.select([row]),
            end(part).select([row]),
            **{name: x if name == "params" else x[row : row + 1] for name, x in of_weights(part).items()},
        )
        for row, part in enumerate(second)
    ]
    wholes = [end(case.tokens(slice(0, n + m))).select([row]) for row, (n, m) in enumerate(lengths)]
    assert worst(ttr.State.cat(rows), ttr.State.cat(wholes)) <= FLOAT64
    if not weights.controls():
        joined = ttr.State.combine(
            problem, first, ttr.State.cat([end(part).select([row]) for row, part in enumerate(second)])
        )
        assert worst(joined, ttr.State.cat(wholes)) <= FLOAT64


def test_an_empty_segment_changes_nothing():
    for problem in (
        ttr.Problem(MultiScale(2.0), Linear(), OneStep()),
        ttr.Problem(Uniform(), LocalConstant(), ExactLocalFit()),
    ):
        case = make_case(problem)
        state, empty = end(case), end(case.tokens(slice(0, 0)))
        assert (
            worst(ttr.State.combine(problem, state, empty), state) == 0
            and worst(ttr.State.combine(problem, empty, state), state) == 0
        )


def test_a_combined_state_has_gradients():
    problem = ttr.Problem(Geometric(), Linear(), OneStep())
    case = make_case(problem).differentiable()
    first, second = case.tokens(slice(0, 4)), case.tokens(slice(4, None))
    states = (ttr.State.combine(problem, end(first), end(second), **of_weights(second)), end(case))
    leaves = [case.k, case.v, case.controls["log_decay"]]
    found, expected = (torch.autograd.grad(state["memory"].square().sum(), leaves) for state in states)
    assert max(map(error, found, expected)) <= FLOAT64


@pytest.mark.parametrize("problem", OTHERS, ids=repr)
def test_other_memories_say_what_to_do_instead(problem):
    params = ttr.init_params(problem, heads=2, key_size=3, value_size=4)
    state = ttr.initial_state(problem, 1, 2, 3, 4, params=params)
    with pytest.raises(ValueError, match="Pass the first segment's state to regress"):
        ttr.State.combine(problem, state, state)
    if (
        problem.form is CorrectedPairs
        and problem.weights.window is None
        and not (problem.weights.importance and problem.weights.retention)
    ):
        return  # a corrected value does not change later, so the newest pairs can be dropped
    with pytest.raises(ValueError, match=r"Keep state\.clone\(\)"):
        state.rewind(problem, 0)


def test_states_that_do_not_fit_are_refused():
    problem = ttr.Problem(Geometric(), Linear(), OneStep())
    case = make_case(problem)
    state, log_decay = end(case), case.controls["log_decay"]
    for wrong, words in (
        ({}, "needs the second segment's log_decay, got nothing"),
        ({"log_decay": log_decay[:, :3]}, "exactly its tokens"),
        ({"log_decay": log_decay, "ridge": log_decay}, "got log_decay, ridge"),
    ):
        with pytest.raises(ValueError, match=words):
            ttr.State.combine(problem, state, state, **wrong)
    with pytest.raises(ValueError, match="same sizes"):
        ttr.State.combine(problem, state, state.select([0]), log_decay=log_decay)
    pairs = ttr.Problem(Uniform(), LocalConstant(), ExactLocalFit())
    fixed = ttr.initial_state(pairs, 1, 2, 3, 2, capacity=4)
    with pytest.raises(ValueError, match="fixed capacity"):
        ttr.State.combine(pairs, fixed, fixed)


@pytest.mark.parametrize("capacity", [None, 12])
@pytest.mark.parametrize("weights", [Uniform(), Importance(), MultiScale(2.0), Geometric()], ids=repr)
def test_rewound_is_as_if_the_tokens_had_not_come(weights, capacity):
    problem = ttr.Problem(weights, LocalConstant(), ExactLocalFit())
    case = make_case(problem)
    empty = ttr.initial_state(problem, 2, 2, 3, 2, capacity=capacity, dtype=torch.float64)
    long, short = end(case, state=empty), end(case.tokens(slice(0, 6)), state=empty)
    before = long.clone()
    assert worst(long.rewind(problem, 3), short) <= FLOAT64
    assert worst(long.rewind(problem, 0), long) == 0 and worst(long, before) == 0
    assert worst(long.rewind(problem, 9), end(case.tokens(slice(0, 0)), state=empty)) == 0
    assert error(long["log_weight"], before["log_weight"]) == 0


def test_rows_of_different_length_rewind():
    problem = ttr.Problem(Geometric(), LocalConstant(), ExactLocalFit())
    case = make_case(problem)
    cut = [end(case.tokens(slice(0, n))).select([row]) for row, n in enumerate((2, 7))]
    expected = ttr.State.cat([end(case.tokens(slice(0, n))).select([row]) for row, n in enumerate((0, 5))])
    assert worst(ttr.State.cat(cut).rewind(problem, 2), expected) <= FLOAT64


def test_states_that_cannot_be_rewound_are_refused():
    geometric = ttr.Problem(Geometric(), LocalConstant(), ExactLocalFit())
    case = make_case(geometric)
    reset = dataclasses.replace(
        case, controls={"log_decay": torch.full_like(case.controls["log_decay"], -torch.inf)}
    )
    with pytest.raises(ValueError, match="reset the memory"):
        end(reset).rewind(geometric, 1)
    with pytest.raises(ValueError, match="cannot go back by 10"):
        end(case).rewind(geometric, 10)
    with pytest.raises(ValueError, match="cannot go back by -1"):
        end(case).rewind(geometric, -1)
    tail = end(case).replace(convolution=torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="holds convolution"):
        tail.rewind(geometric, 1)
    for weights, words in ((Window(3), "A window"), (Product((Geometric(), Importance())), "be separated")):
        problem = dataclasses.replace(geometric, weights=weights)
        with pytest.raises(ValueError, match=words):
            end(make_case(problem)).rewind(problem, 1)
    delta = ttr.Problem(Uniform(), Linear(), DeltaRule())
    with pytest.raises(ValueError, match="does not store its pairs"):
        end(make_case(delta)).rewind(delta, 1)


@pytest.mark.parametrize(
    "name", [name for name, entry in ttr.catalogue.items() if entry.problem.function.causal]
)
def test_a_state_made_in_inference_mode_goes_on_outside_it(name):
    case = make_case(ttr.catalogue[name].problem, Sizes(time=6))
    wanted = ttr.regress(case.problem, **case.arguments())[:, 3:]
    with torch.inference_mode():
        state = end(case.tokens(slice(0, 3)))
    rest = dataclasses.replace(case.tokens(slice(3, 6)).differentiable(), state=state)
    for entry in (ttr.regress, ttr.oracle):
        y = entry(case.problem, **rest.arguments())
        assert error(y, wanted) <= FLOAT64
        y.sum().backward()
    for planned in (False, True):
        steps, now = [], state
        for t in range(3):
            at = {
                key: x if key in ("ridge", "params") else x[:, t].detach().contiguous()
                for key, x in rest.arguments().items()
                if key != "state"
            }
            with torch.no_grad():
                run = (
                    ttr.plan(case.problem, state=now, inplace=True, **at)
                    if planned
                    else functools.partial(ttr.step, case.problem, inplace=True)
                )
                y, now = run(**at, state=now)
            steps.append(y)
        assert error(torch.stack(steps, dim=1), wanted) <= FLOAT64
