"""Every member of an axis by its hand-worked cases: the laws show that it is a valid member, these numbers
that it is the right one."""

import dataclasses
import json
import typing

import pytest
import torch

from tests.worked import cases
from ttr import registry
from ttr.component import Component
from ttr.dispatch import refusal, regress
from ttr.engines import ENGINES
from ttr.forms import CorrectedPairs
from ttr.laws.tolerances import FLOAT64, error
from ttr.memorize import local_fit
from ttr.oracle import oracle
from ttr.prepare import prepare
from ttr.problem import Solver
from ttr.retrieve import displacement_features

KINDS = ("weights", "feature", "function", "solver")
MEMBERS = [cls for kind in KINDS for cls in registry.members(kind)]
CASES = [
    pytest.param(cls, case, id=f"{cls.__name__}-{i}") for cls in MEMBERS for i, case in enumerate(cases(cls))
]
SOLVED = [
    pytest.param(case, id=f"{cls.__name__}-{i}")
    for cls in registry.members("solver")
    if cls.objective is not Solver.objective
    for i, case in enumerate(cases(cls))
]
"""Cases of the solvers that have an objective."""


def call(case, **changes):
    """The case as keyword arguments of oracle and regress."""
    return {"q": case.q, "k": case.k, "v": case.v, "params": case.params, **case.controls, **changes}


def until(case, time):
    """The arguments of the case, restricted to its first tokens."""
    tokens = {name: x if name == "ridge" else x[:, :time] for name, x in case.controls.items()}
    return call(case, q=case.q[:, :time], k=case.k[:, :time], v=case.v[:, :time], **tokens)


def parts(component):
    """A component and all components in its fields."""
    yield component
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Component):
                yield from parts(item)


def components(case):
    return [
        part
        for axis in (case.problem.weights, case.problem.function, case.problem.solver)
        for part in parts(axis)
    ]


def modes(cls):
    """What the instances of a class must cover together: every value of its Literal and bool fields."""
    hints = typing.get_type_hints(cls)
    values = {
        f.name: (False, True) if hints[f.name] is bool else typing.get_args(hints[f.name])
        for f in dataclasses.fields(cls)
        if hints[f.name] is bool or typing.get_origin(hints[f.name]) is typing.Literal
    }
    return {(name, value) for name, allowed in values.items() for value in allowed}


def covered(instances):
    return {
        (f.name, getattr(x, f.name))
        for x in instances
        for f in dataclasses.fields(x)
        if isinstance(getattr(x, f.name), bool | str)
    }


# ---------------------------------------------------------------------------------------------------- numbers
@pytest.mark.parametrize(("cls", "case"), CASES)
def test_oracle_gives_the_numbers_worked_by_hand(cls, case):
    assert error(oracle(case.problem, **call(case)), case.y) <= FLOAT64


@pytest.mark.parametrize(("cls", "case"), CASES)
def test_engines_give_the_numbers_worked_by_hand(cls, case):
    x = prepare(case.problem, case.q, case.k, case.v, case.params, None, None, case.controls)
    for engine in {b for fast in ENGINES for b in (fast, fast.small())}:
        if refusal(engine, case.problem, x) is None:
            assert error(regress(case.problem, engine=engine, **call(case)), case.y) <= FLOAT64, engine.name


@pytest.mark.parametrize(("cls", "case"), CASES)
def test_no_number_of_a_worked_case_hides_a_fault(cls, case):
    assert any(type(part) is cls for part in components(case)), "the case is about another class"
    for part in components(case):
        numbers = [
            value for f in dataclasses.fields(part) if isinstance(value := getattr(part, f.name), float)
        ]
        assert not {0.0, 1.0} & {abs(x) for x in numbers}, f"{part!r} holds a 0 or a 1"
    for name, x in {
        "q": case.q,
        "k": case.k,
        "v": case.v,
        "y": case.y,
        **case.controls,
        **case.params,
    }.items():
        assert x.dtype == torch.float64
        assert not torch.isin(x.abs(), torch.tensor([0.0, 1.0], dtype=x.dtype)).any(), (
            f"{name} holds a 0 or a 1"
        )
    batch, time = case.q.shape[:2]
    assert batch == 1
    assert time >= 3
    assert case.problem.weights.window is None or 1 < case.problem.weights.window < time
    assert case.q.shape[-1] != case.v.shape[-1]
    for name, x in {"q": case.q, "k": case.k, "v": case.v}.items():
        tokens = x.flatten(1, -3)
        assert len(tokens[0].unique(dim=0)) == tokens.shape[1], f"two tokens have the same {name}"


@pytest.mark.parametrize("cls", MEMBERS, ids=lambda cls: cls.__name__)
def test_worked_cases_reach_every_mode(cls):
    worked = [part for case in cases(cls) for part in components(case) if type(part) is cls]
    assert modes(cls) <= covered(worked), (
        f"add worked cases of {cls.__name__} with {modes(cls) - covered(worked)}"
    )


# --------------------------------------------------------------------------------------------------- examples
@pytest.mark.parametrize("cls", MEMBERS, ids=lambda cls: cls.__name__)
def test_examples_are_instances_that_reach_every_mode(cls):
    examples = cls.examples()
    assert examples and all(type(example) is cls for example in examples)
    assert len(set(examples)) == len(examples)
    assert modes(cls) <= covered(examples), (
        f"add examples of {cls.__name__} with {modes(cls) - covered(examples)}"
    )


@pytest.mark.parametrize("cls", MEMBERS, ids=lambda cls: cls.__name__)
def test_examples_survive_json(cls):
    worked = [part for case in cases(cls) for part in components(case)]
    for component in (*cls.examples(), *worked):
        again = Component.from_dict(json.loads(json.dumps(component.to_dict())))
        assert again == component and hash(again) == hash(component) and repr(again) == repr(component)


# ------------------------------------------------------------------------------------------------- objectives
def predict(memory, key):
    """S^T k, independently of the package."""
    return (memory * key[..., None]).sum(-2)


def gradient(objective, memory):
    """The gradient by central differences, which are exact for a quadratic for any step."""
    slopes = torch.empty(memory.numel(), dtype=memory.dtype)
    for i in range(memory.numel()):
        direction = torch.zeros_like(memory).flatten()
        direction[i] = 0.5
        slopes[i] = objective(memory + direction.view_as(memory)) - objective(
            memory - direction.view_as(memory)
        )
    return slopes.view_as(memory)


def hessian(objective, memory):
    """The Hessian [N, N] for a memory of N numbers, from differences of the gradient."""
    units = torch.eye(memory.numel(), dtype=memory.dtype)
    return torch.stack(
        [
            (gradient(objective, memory + unit.view_as(memory)) - gradient(objective, memory)).flatten()
            for unit in units
        ]
    )


def is_minimum(objective, memory):
    scale = gradient(objective, torch.zeros_like(memory)).abs().max()
    assert scale > FLOAT64, "the objective is flat"
    assert error(gradient(objective, memory) / scale, torch.zeros_like(memory)) <= FLOAT64
    assert torch.linalg.eigvalsh(hessian(objective, memory)).min() > FLOAT64


def single_heads(case):
    """For each head, the case with that head alone; the controls with the shapes that the problem
    declares."""
    assert not case.params, "work a solver's cases without parameters"
    x = prepare(case.problem, case.q, case.k, case.v, None, None, None, case.controls)
    axes = case.problem.controls()
    for head in range(x.heads):
        q, k, v = (x.grouped(tensor)[..., head : head + 1, :] for tensor in (x.q, x.k, x.v))
        controls = {
            name: x.controls[name].narrow(letters.index("H"), head, 1) for name, letters in axes.items()
        }
        yield dataclasses.replace(case, q=q, k=k, v=v, y=case.y[:, :, head : head + 1], controls=controls)


def retained(case, first, last):
    """The decay over the tokens first+1..last, multiplied out: a number, or one per channel."""
    share = torch.ones(1, dtype=torch.float64)
    for t in range(first + 1, last + 1):
        share = share * case.controls["log_decay"][0, t, 0].exp() if "log_decay" in case.controls else share
    return share


def weight(case, pair, token):
    """gamma of a pair at a token, from the meaning of the weights in the solvers' cases."""
    window = case.problem.weights.window
    if window is not None and token - pair >= window:
        return torch.zeros((), dtype=torch.float64)
    importance = (
        case.controls["log_importance"][0, pair, 0].exp() if "log_importance" in case.controls else 1.0
    )
    return importance * retained(case, pair, token).squeeze()


def probed(case, time):
    """The memory [K,V] of a plain Linear after ``time`` tokens, read from the oracle with unit queries."""
    given, rows = until(case, time), []
    for unit in torch.eye(case.q.shape[-1], dtype=torch.float64):
        q = torch.cat([given["q"][:, :-1], unit.expand(1, 1, 1, -1)], dim=1)
        rows.append(oracle(case.problem, **{**given, "q": q})[0, -1, 0] / case.problem.function.scale)
    return torch.stack(rows)


@pytest.mark.parametrize(
    "case",
    [
        p
        for p in SOLVED
        if p.values[0].problem.solver.weights_act_on == "samples"
        and p.values[0].problem.form is not CorrectedPairs
    ],
)
def test_the_memory_minimises_the_objective_the_solver_states(case):
    function, solver = case.problem.function, case.problem.solver
    for one in single_heads(case):
        for t in range(one.q.shape[1]):
            keys, values, query = one.k[0, : t + 1, 0], one.v[0, : t + 1, 0], one.q[0, t, 0]
            weights = torch.stack([weight(one, i, t) for i in range(t + 1)])
            ridge = [one.controls["ridge"][0]] if solver.exact else []
            if function.local_degree is None:
                memory = probed(one, t + 1)
            else:
                weights = weights * torch.exp(keys @ function.query(query, {}))
                features = displacement_features(function, keys[None, None], query[None, None])
                memory = local_fit(features, values[None, None], weights.log()[None, None], ridge[0][None])[
                    0, 0
                ]
                assert error(memory[0], oracle(one.problem, **until(one, t + 1))[0, t, 0]) <= FLOAT64
                keys, weights = features[0, 0], weights / weights.sum()
            is_minimum(
                lambda s, data=(keys, values, weights, *ridge): solver.objective(predict, s, *data), memory
            )


DESCENDING = [
    p
    for p in SOLVED
    if p.values[0].problem.solver.weights_act_on == "memory" and p.values[0].problem.recurrence is None
]


@pytest.mark.parametrize("case", DESCENDING)
def test_the_update_follows_the_objective_the_solver_states(case):
    """Pair by pair from an empty memory: the explicit step by finite differences, the implicit one as the
    minimiser."""
    solver = case.problem.solver
    for one in single_heads(case):
        read, erase, ones = (
            one.controls.get("read_key", one.k),
            one.controls.get("erase_key", one.k),
            torch.ones_like(one.k[..., 0, :1]),
        )
        given = (
            one.k,
            one.v * one.controls.get("write", 1.0),
            read,
            erase,
            one.controls.get("step_size", ones),
        )
        keys, values, reads, erasers, steps = (
            x[0, :, :, 0] if solver.pairs_per_token > 1 else x[0] for x in given
        )
        if "log_importance" in one.controls:
            steps = steps * one.controls["log_importance"][0].exp().view_as(steps)
        memory = torch.zeros(keys.shape[-1], values.shape[-1], dtype=torch.float64)
        for t in range(one.q.shape[1]):
            for j in range(solver.pairs_per_token):
                kept = memory * (retained(one, t - 1, t)[:, None] if j == 0 else 1.0)
                anchor = memory if solver.gradient_at == "old" else kept
                data = (
                    anchor,
                    keys[t, j],
                    reads[t, j],
                    values[t, j],
                    *([steps[t, j]] if solver.gradient_at == "new" else []),
                    *([erasers[t, j]] if "erase_key" in one.controls else []),
                )

                def objective(s, data=data):
                    return solver.objective(predict, s, *data)

                if solver.gradient_at == "new":
                    start = gradient(objective, kept).flatten()
                    memory = kept - torch.linalg.solve(hessian(objective, kept), start).view_as(kept)
                    is_minimum(objective, memory)
                else:
                    memory = kept - steps[t, j] * gradient(objective, anchor)
            assert error(probed(one, t + 1), memory) <= FLOAT64
