"""Law 13: calls of every size, including 0 and 1, equal the definition, or are refused in the same
sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ttr.dispatch import plan, refusal, step
from ttr.forms import Network
from ttr.laws.equality import against_oracle
from ttr.laws.law import Law, Setting, by_definition, compare, compare_states, outcome, sentence
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import ORDER
from ttr.prepare import prepare
from ttr.problem import Problem
from ttr.state import State

SIZES = {
    "no key channels": Sizes(time=3, key=0),
    "no value channels": Sizes(time=3, value=0),
    "no rows": Sizes(batch=0, time=3),
    "no tokens": Sizes(time=0),
    "one of each": Sizes(batch=1, time=1, heads=1, key=1, value=1),
    "odd sizes": Sizes(batch=1, time=5, heads=3, key=5, value=7, key_heads=1),
}
GRID = {"nothing at all": Sizes(0, 0, 1, 0, 0)} | {
    f"T = {time}, K = {key}, V = {value}": Sizes(1, time, 1, key, value)
    for time, key, value in itertools.product((1, 11), (0, 1, 2, 13), (0, 1, 3, 13))
}
PACKED = {"empty sequences": (0, 2, 0, 0, 1, 0), "no sequences": ()}
"""Lengths of packed sequences."""


def extremes(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Outputs, states and gradients; a second call with uninitialised memory filled with NaN; one token by
    ``step`` and by a plan; packed sequences."""
    for words, sizes in SIZES.items():
        yield from _of_size(problem, setting, words, sizes)
        if (case := _runs(problem, setting, sizes)) is not None:
            with torch.no_grad():
                yield from _twice(setting, words, case)
                if problem.function.causal and sizes.time:
                    yield from _token(setting, words, case)
    for words, lengths in PACKED.items():
        case, bounds, reference = _packed(problem, lengths, setting.dtype, setting.device)
        yield from _compare_outcomes(
            words, outcome(setting.run, case, cu_seqlens=bounds), reference, setting.dtype
        )


def grid(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Outputs, states and gradients at many more sizes."""
    for words, sizes in GRID.items():
        yield from _of_size(problem, setting, words, sizes)


def _of_size(
    problem: Problem, setting: Setting, words: str, sizes: Sizes
) -> Iterable[tuple[str, float, float]]:
    """Against the definition, from a state. Gradients through a network are accurate at every size only in
    float64."""
    reason = _refusal(problem, sizes, setting.dtype, setting.device)
    if reason is not None:
        call = sentence(
            lambda: setting.run(make_case(problem, sizes, dtype=setting.dtype, device=setting.device))
        )
        yield f"refusal of {words}", float(call != reason), 0.0
    elif _runs(problem, setting, sizes) is not None:
        rough = issubclass(problem.form, Network) and setting.dtype != torch.float64
        for quantity, error, bound in against_oracle(problem, setting, f", {words}", sizes=sizes, past=2):
            yield quantity, error, ORDER if rough and bound and quantity.startswith("gradient") else bound


@functools.lru_cache(maxsize=len(SIZES) + len(GRID))  # the same for all engines
def _refusal(problem: Problem, sizes: Sizes, dtype: torch.dtype, device: str) -> str | None:
    """The sentence in which the definition refuses such sizes, if it does."""
    return sentence(lambda: by_definition(make_case(problem, sizes, dtype=dtype, device=device)))


def _runs(problem: Problem, setting: Setting, sizes: Sizes) -> Case | None:
    """The case from a state; None if the definition or the engine refuses such sizes (where an engine does,
    "auto" chooses another)."""
    if _refusal(problem, sizes, setting.dtype, setting.device) is not None:
        return None
    case = make_case(problem, sizes, past=2, dtype=setting.dtype, device=setting.device)
    x = prepare(problem, case.q, case.k, case.v, case.params, case.state, None, case.controls)
    return None if refusal(setting.engine, problem, x) else case


def _twice(setting: Setting, words: str, case: Case) -> Iterable[tuple[str, float, float]]:
    y, state = outcome(setting.run, case)
    with _new_memory_holds_nan():
        again, other = outcome(setting.run, case)
    same = torch.equal(y, again) and all(torch.equal(state[name], other[name]) for name in state)
    yield f"two calls, {words}", float(not same), 0.0


@contextlib.contextmanager
def _new_memory_holds_nan() -> Iterator[None]:
    """Under deterministic algorithms torch fills the tensors of ``empty`` with NaN, so that reading them
    before they are written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _token(setting: Setting, words: str, case: Case) -> Iterable[tuple[str, float, float]]:
    problem, first = case.problem, case.tokens(slice(0, 1), case.state)
    call = {name: x if name == "ridge" else x[:, 0].contiguous() for name, x in first.controls.items()} | {
        "params": case.params
    }
    q, k, v = (x[:, 0].contiguous() for x in (first.q, first.k, first.v))
    bound = plan(problem, q, k, v, state=case.state, engine=setting.engine, inplace=True, **call)
    reference, end = outcome(by_definition, first)
    for way, (y, state) in (
        ("a step", step(problem, q, k, v, case.state, engine=setting.engine, **call)),
        ("a planned step", bound(q, k, v, case.state.clone(), **call)),
    ):
        yield from _compare_outcomes(f"{way}, {words}", (y[:, None], state), (reference, end), setting.dtype)


@functools.lru_cache(maxsize=2 * len(PACKED))  # the same for all engines
def _packed(
    problem: Problem, lengths: tuple[int, ...], dtype: torch.dtype, device: str
) -> tuple[Case, Tensor, tuple[Tensor, State]]:
    """A case of packed sequences of those lengths, each from a state of its own if the problem has states,
    their bounds, and the outcome of the definition."""
    case = make_case(problem, Sizes(batch=1, time=sum(lengths)), dtype=dtype, device=device)
    if problem.function.causal:
        one = make_case(problem, Sizes(batch=1, time=1), past=2, dtype=dtype, device=device).state
        case = dataclasses.replace(case, state=State.cat([one] * len(lengths)) if lengths else one.select([]))
    bounds = torch.tensor((0, *lengths), device=device).cumsum(0)
    return case, bounds, outcome(by_definition, case, cu_seqlens=bounds)


def _compare_outcomes(
    words: str, found: tuple[Tensor, State], reference: tuple[Tensor, State], dtype: torch.dtype
) -> Iterable[tuple[str, float, float]]:
    yield compare(f"output of {words}", found[0], reference[0], dtype)
    yield from compare_states(f"state of {words}", found[1], reference[1], dtype)


LAWS = (Law(13, "sizes", extremes), Law(13, "many sizes", grid, slow=True))
