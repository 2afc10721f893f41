"""Law 1: a backend equals the oracle, and law 7: also where the past is forgotten almost or altogether."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ttr.laws.law import Law, Setting, compare, compare_states, outcome
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import error, ill_conditioned
from ttr.oracle import oracle
from ttr.problem import Problem


def equality(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Outputs, final state and all gradients, from the empty memory and from a state."""
    for name, past in (("", 0), (" from a state", 5))[: 2 if problem.function.causal else 1]:
        case = make_case(problem, past=past, dtype=setting.dtype, device=setting.device)
        yield from _against_oracle(case, setting, name)


def full_blocks(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """The same over the borders of blocks of the size that calls really use.

    A network that learns at every token magnifies rounding from token to token. Where that breaks the plain bound, the bound follows
    from the condition that the definition itself is measured to have, and where this leaves no digit of the dtype nothing is compared."""
    case = make_case(problem, Sizes(batch=1, time=150, heads=1), past=5, dtype=setting.dtype, device=setting.device)
    found = list(_against_oracle(case, setting, " of 150 tokens"))
    if problem.solver.trains and any(error > bound for _, error, bound in found):
        least = ill_conditioned(_measured_condition(case), setting.dtype)
        found = [(quantity, error, max(bound, least) if bound else bound) for quantity, error, bound in found] if least < 1.0 else []
    yield from found


def _measured_condition(case: Case, noise: float = 1e-10) -> float:
    """By how much the definition magnifies relative noise of its inputs, in float64: the worst of outputs and gradients."""
    exact = case.with_leaves({name: x.double() for name, x in case.leaves().items()})
    generator = torch.Generator().manual_seed(3)
    noisy = {name: x * (1 + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)) for name, x in exact.leaves().items()}
    results = []
    for source in (exact.differentiable(), exact.with_leaves(noisy).differentiable()):
        y, state = outcome(lambda case, **options: oracle(case.problem, **case.arguments(), **options), source)
        results.append([y, *_gradients(source, y, state)])
    return max(error(*pair) for pair in zip(*results)) / noise


def strong_gates(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """The same for log decays 0, -1e-3, -1, -5, -20, -100, -inf mixed at random."""
    if "log_decay" in problem.controls():
        case = make_case(problem, Sizes(time=13), strong_gates=True, past=3, dtype=setting.dtype, device=setting.device)
        yield from _against_oracle(case, setting, " with strong gates")


def _against_oracle(case: Case, setting: Setting, suffix: str) -> Iterable[tuple[str, float, float]]:
    fast, slow = case.differentiable(), case.differentiable()
    y, state = outcome(setting.run, fast)
    reference, reference_state = outcome(lambda case, **options: oracle(case.problem, **case.arguments(), **options), slow)
    yield compare(f"output{suffix}", y, reference, setting.dtype)
    yield from compare_states(f"state{suffix}", state, reference_state, setting.dtype)
    gradients = zip(fast.leaves(), _gradients(fast, y, state), _gradients(slow, reference, reference_state))
    for name, gradient, expected in gradients:
        yield compare(f"gradient of {name}{suffix}", gradient, expected, setting.dtype)


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


LAWS = (Law(1, "equals the oracle", equality), Law(1, "equals the oracle over full blocks", full_blocks, slow=True),
        Law(7, "strong gates", strong_gates))
