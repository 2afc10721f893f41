"""Law 1: an engine equals the oracle. Law 7: also with strong decays and resets."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

from ttr.controls import CONTROLS
from ttr.forms import Network
from ttr.laws.law import Law, Setting, by_definition, compare, compare_states, outcome
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import error, ill_conditioned
from ttr.problem import Problem
from ttr.state import State


def equality(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Outputs, final state and all gradients, from the empty memory and from a state."""
    for name, past in (("", 0), (" from a state", 5))[: 2 if problem.function.causal else 1]:
        yield from against_oracle(problem, setting, name, past=past)


def full_blocks(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """The same on sequences longer than a block of the size that ordinary calls use.

    A network that learns at every token magnifies rounding from token to token. Where its error exceeds the
    plain bound, the bound is derived from the measured condition of the definition itself; where that
    condition leaves no correct digit in the dtype, nothing is compared."""
    sizes = Sizes(batch=1, time=150, heads=1)
    found = list(against_oracle(problem, setting, " of 150 tokens", sizes=sizes, past=5))
    if issubclass(problem.form, Network) and any(error > bound for _, error, bound in found):
        case = make_case(problem, sizes, past=5, dtype=setting.dtype, device=setting.device)
        least = ill_conditioned(_measured_condition(case, setting.dtype), setting.dtype)
        found = (
            [(quantity, error, max(bound, least) if bound else bound) for quantity, error, bound in found]
            if least < 1.0
            else []
        )
    yield from found


def _measured_condition(case: Case, dtype: torch.dtype, draws: int = 3) -> float:
    """The factor by which the definition, in float64, magnifies relative noise in its inputs of the size of
    the dtype's rounding: the largest over outputs, state, gradients and ``draws`` of the noise."""
    noise = max(torch.finfo(dtype).eps, 1e-10)
    exact = case.with_leaves({name: x.double() for name, x in case.leaves().items()})
    reference = _results(exact)
    generator, worst = torch.Generator().manual_seed(3), 0.0
    for _ in range(draws):
        noisy = {
            name: x * (1 + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device))
            for name, x in exact.leaves().items()
        }
        results = _results(exact.with_leaves(noisy))
        worst = max(worst, *(error(*pair) for pair in zip(results, reference)))
    return worst / noise


def _results(case: Case) -> list[Tensor]:
    """Outputs, state and gradients of the definition."""
    case = case.differentiable()
    y, state = outcome(by_definition, case)
    return [y, *state.tensors.values(), *_gradients(case, y, state)]


def strong_gates(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """The same for log decays 0, -1e-3, -1, -5, -20, -100, -inf mixed at random."""
    if any(CONTROLS[name].at_most == 0.0 for name in problem.controls()):
        yield from against_oracle(
            problem, setting, " with strong gates", sizes=Sizes(time=13), strong_gates=True, past=3
        )


def against_oracle(
    problem: Problem, setting: Setting, suffix: str, **made: object
) -> Iterable[tuple[str, float, float]]:
    """The engine against the oracle on ``make_case(problem, **made)``."""
    made |= {"dtype": setting.dtype, "device": setting.device}
    case = make_case(problem, **made).differentiable()
    y, state = outcome(setting.run, case)
    reference, reference_state, reference_gradients = _defined(problem, **made)
    yield compare(f"output{suffix}", y, reference, setting.dtype)
    yield from compare_states(f"state{suffix}", state, reference_state, setting.dtype)
    for name, gradient, expected in zip(case.leaves(), _gradients(case, y, state), reference_gradients):
        yield compare(f"gradient of {name}{suffix}", gradient, expected, setting.dtype)


@functools.lru_cache(maxsize=8)  # the same for all engines
def _defined(problem: Problem, **made: object) -> tuple[Tensor, State, list[Tensor]]:
    """Outputs, state and gradients of the definition."""
    case = make_case(problem, **made).differentiable()
    y, state = outcome(by_definition, case)
    return y.detach(), state.detach(), _gradients(case, y, state)


def _gradients(case: Case, y: Tensor, state) -> list[Tensor]:
    """Gradients of a fixed random functional of the outputs and the final state."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=torch.float64, device=y.device)
    for tensor in (y, *state.tensors.values()):
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
        weighted = torch.where(torch.isneginf(tensor), 0.0, tensor).double() * direction
        total = total + weighted.sum()
    leaves = list(case.leaves().values())
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients)]


LAWS = (
    Law(1, "equals the oracle", equality),
    Law(1, "equals the oracle over full blocks", full_blocks, slow=True),
    Law(7, "strong gates", strong_gates),
)
