"""Law 9: first and second derivatives; law 10: bitwise repeatable; law 11: bad input and no input."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable

import torch

from ttr.controls import CONTROLS
from ttr.dispatch import plan
from ttr.laws.law import Law, Setting, by_definition, compare, compare_states, outcome, sentence
from ttr.laws.rows import Case, Sizes, make_case
from ttr.problem import Problem
from ttr.state import State


def derivatives(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """The definition passes gradcheck and gradgradcheck, in fast mode, for every input; the engine's
    derivatives equal those of the definition."""
    if setting.dtype != torch.float64:
        return
    checks, reference = _of_definition(problem, setting.device)
    for name, passed in checks.items():
        yield f"{name} of the definition", float(not passed), 0.0
    for name, derivative in _derivatives(_smallest(problem, setting.device), setting.run).items():
        yield compare(name, derivative, reference[name], setting.dtype)


def _smallest(problem: Problem, device: str) -> Case:
    """A small case. Initial weights of networks have unit scale in it: a norm of a network's output at
    weights of 0.02 has gradients of 1e6, and a finite difference over 1e-6 magnifies their rounding beyond
    the tolerance of gradgradcheck."""
    return make_case(
        problem, Sizes(batch=1, time=3, heads=1, key=2, value=2), past=2, trained=True, device=device
    ).differentiable()


@functools.lru_cache(maxsize=2)  # the same for all engines
def _of_definition(problem: Problem, device: str) -> tuple[dict[str, bool], dict[str, torch.Tensor]]:
    """Whether the definition's derivatives agree with finite differences, and the derivatives."""
    case = _smallest(problem, device)
    names, leaves = list(case.leaves()), list(case.leaves().values())

    def call(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(
            x for x in _finite(by_definition, case.with_leaves(dict(zip(names, tensors)))) if x.requires_grad
        )

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)  # fixes the directions of fast mode, so that a law depends on its arguments only
        passed = {
            check.__name__: check(
                call, leaves, fast_mode=True, raise_exception=False, check_undefined_grad=False
            )
            for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck)
        }
    return passed, {name: x.detach() for name, x in _derivatives(case, by_definition).items()}


def _finite(run: Callable[..., object], case: Case) -> list[torch.Tensor]:
    """The output and the tensors of the state without -inf."""
    y, state = outcome(run, case)
    return [y, *(state[name] for name in sorted(state) if not torch.isneginf(state[name]).any())]


def _derivatives(case: Case, run: Callable[..., object]) -> dict[str, torch.Tensor]:
    """First derivatives of a random function of all outputs, and second ones along a random direction, with
    respect to every leaf. The function is not linear, so that the gradients passed to a backward pass also
    have derivatives."""
    generator = torch.Generator().manual_seed(2)

    def weighted(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
        return sum(
            (x * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)).sum() for x in tensors
        )

    leaves = case.leaves()
    options = {"inputs": list(leaves.values()), "allow_unused": True, "materialize_grads": True}
    first = torch.autograd.grad(weighted(x.sin() for x in _finite(run, case)), create_graph=True, **options)
    second = torch.autograd.grad(weighted(first), **options)
    return {
        f"{order} derivative in {name}": x
        for order, found in (("first", first), ("second", second))
        for name, x in zip(leaves, found)
    }


def repeatable(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Two runs under deterministic algorithms agree to the last bit, gradients included."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        case = make_case(problem, dtype=setting.dtype, device=setting.device).differentiable()
        runs = []
        for _ in range(2):
            y = setting.run(case)
            runs.append((y, *torch.autograd.grad(y.square().sum(), list(case.leaves().values()))))
    finally:
        torch.use_deterministic_algorithms(before)
    yield "two runs", float(not all(torch.equal(a, b) for a, b in zip(*runs))), 0.0


def bad_input(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Wrong tensors are refused in a sentence, also by an in-place decode step, and leave the state
    unchanged; a call without tokens is valid."""
    case = make_case(problem, past=2, dtype=setting.dtype, device=setting.device)
    before = None if case.state is None else case.state.clone()
    for name, wrong in (*_wrong_calls(case), *_wrong_states(case)):
        yield f"refusal of {name}", float(sentence(functools.partial(setting.run, wrong)) is None), 0.0
    if problem.function.causal:
        with torch.no_grad():
            yield from _refusals_of_a_token(case, setting)
    nothing, state = outcome(setting.run, case.tokens(slice(0, 0), case.state))
    yield "shape of no tokens", float(tuple(nothing.shape) != (2, 0, 2, case.v.shape[-1])), 0.0
    if before is not None:
        yield from compare_states("state after refusals", case.state, before, setting.dtype)
        yield from compare_states("state after no tokens", state, before, setting.dtype)


def _refusals_of_a_token(case: Case, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Refusals of wrong states by a decode step that was planned with a valid one."""

    def token(source: Case) -> dict[str, object]:
        first = source.tokens(slice(0, 1), source.state).arguments()
        return {
            name: x[:, 0].contiguous() if isinstance(x, torch.Tensor) and name != "ridge" else x
            for name, x in first.items()
        }

    run = plan(case.problem, inplace=True, engine=setting.engine, **token(case))
    for name, wrong in _wrong_states(case):
        tensors = (
            [*wrong.state.tensors.values(), wrong.state.position] if isinstance(wrong.state, State) else []
        )
        copies = [x.clone() for x in tensors]
        yield (
            f"refusal of {name} by a token",
            float(sentence(functools.partial(run, **token(wrong))) is None),
            0.0,
        )
        changed = any(
            ((x != before) & ((x == x) | (before == before))).any() for x, before in zip(tensors, copies)
        )
        yield f"a token changes {name}", float(changed), 0.0


def _wrong_calls(case: Case) -> Iterable[tuple[str, Case]]:
    def change(**fields: object) -> Case:
        return dataclasses.replace(case, **fields)

    yield "an axis missing", change(q=case.q[0])
    yield "another length", change(v=case.v[:, 1:])
    yield "another key size", change(k=case.k[..., :-1])
    yield "heads that do not divide", change(q=torch.cat([case.q, case.q[:, :, :1]], dim=2))
    yield "integers", change(q=case.q.long())
    yield "an unknown control", change(controls={**case.controls, "log_decoy": case.q[..., 0]})
    yield "an unknown parameter", change(params={**case.params, "function.nothing": case.q})
    for name, x in case.controls.items():
        yield (
            f"{name} missing",
            change(controls={other: c for other, c in case.controls.items() if other != name}),
        )
        yield (
            f"{name} of another shape",
            change(
                controls={**case.controls, name: x[..., :1, :1, None].expand(*x.shape[:-1], x.shape[-1], 7)}
            ),
        )
    if case.q.device.type == "cpu":
        yield from _wrong_values(case)
        if case.problem.weights.horizon is not None:
            yield (
                "tokens beyond the horizon",
                change(state=case.state.replace(position=case.state.position + case.problem.weights.horizon)),
            )


def _wrong_states(case: Case) -> Iterable[tuple[str, Case]]:
    yield "not a state", dataclasses.replace(case, state={})
    if not case.problem.function.causal:
        yield "any state", dataclasses.replace(case, state=State({}, torch.zeros(2, dtype=torch.int64)))
        return
    state = case.state
    wrong = {
        "a state of another batch": state.select([0]),
        "a state of another memory": State({}, state.position),
        "a position that is no whole number": state.replace(position=state.position.double()),
    }
    for name, x in state.tensors.items():
        wrong |= {
            f"a state whose {name} is {dtype}": state.replace(**{name: torch.zeros_like(x, dtype=dtype)})
            for dtype in (torch.int64, torch.complex128)
        }
        if x.device.type == "cpu":
            wrong |= {
                f"a state whose {name} holds {number}": state.replace(**{name: _with_last(x, number)})
                for number in (torch.nan, torch.inf)
            }
    if state.position.device.type == "cpu":
        wrong |= {
            f"a position of {tokens}": state.replace(position=torch.full_like(state.position, tokens))
            for tokens in (-1, 2**63 - 1)
        }
    yield from ((words, dataclasses.replace(case, state=of_words)) for words, of_words in wrong.items())


def _with_last(x: torch.Tensor, number: float) -> torch.Tensor:
    """The tensor with its last entry replaced."""
    changed = x.clone()
    changed.view(-1)[-1:] = number
    return changed


def _wrong_values(case: Case) -> Iterable[tuple[str, Case]]:
    """NaN or infinities in any input, and controls outside their declared range."""
    for number in (torch.nan, torch.inf):
        for name in ("q", "k", "v"):
            yield (
                f"{name} with {number}",
                dataclasses.replace(case, **{name: _with_last(getattr(case, name), number)}),
            )
        for name, x in case.params.items():
            yield (
                f"{name} with {number}",
                dataclasses.replace(case, params={**case.params, name: _with_last(x, number)}),
            )
    for name, x in case.controls.items():
        control = CONTROLS[name]
        wrong = {"NaN": x * torch.nan, "infinity": torch.full_like(x, torch.inf)}
        if not control.logarithm:
            wrong["minus infinity"] = torch.full_like(x, -torch.inf)
        if control.at_most is not None:
            wrong["too much"] = x.abs() + control.at_most + 0.1
        if control.at_least is not None:
            wrong["too little"] = control.at_least - x.abs() - 0.1
        if control.above is not None:
            wrong["too little"] = torch.full_like(x, control.above)
        for words, value in wrong.items():
            yield f"{name} with {words}", dataclasses.replace(case, controls={**case.controls, name: value})


LAWS = (
    Law(9, "derivatives", derivatives),
    Law(10, "repeatable", repeatable),
    Law(11, "bad input", bad_input),
)
