"""What a problem is, what it costs, and which backend runs it: for people."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from torch import Tensor

from ttr.backends import BACKENDS
from ttr.component import Component
from ttr.controls import CONTROLS
from ttr.dispatch import choose, refusal
from ttr.inputs import prepare
from ttr.problem import Problem

STATE = {
    "matrix": ("S [F,V] per head{normalizer}", "O(F V)"),
    "moments": ("U [F,V] and H [F,F] per head", "O(F V + F^2), and O(F^3) for a direct solve"),
    "pairs": ("the pairs themselves: k [K], v [V] and a log weight, {slots}", "O(N (K + V)) for N remembered pairs{solve}"),
    "network": ("the weights of a network per head, and what its training keeps beside them", "O(weights), a few times for forward and backward"),
    "chunked-network": ("the weights of a network per head, and the gradients of the open chunk", "O(weights), a few times for forward and backward"),
}
"""What each kind of memory keeps, and what one token costs."""


@dataclass(frozen=True)
class Explanation:
    """Facts about a problem; ``str`` lays them out, ``backend`` is the name of the one that runs it."""

    facts: tuple[tuple[str, str], ...]
    backend: str
    refusals: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [*self.facts, ("backend", self.backend), *((f"not {name}", reason) for name, reason in self.refusals)]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:{width}s}  {text}" for name, text in lines)


def explain(problem: Problem, q: Tensor | None = None, k: Tensor | None = None, v: Tensor | None = None, **call: object) -> Explanation:
    """The three choices, what they need, keep and cost, and the backend that runs them with every other's reason not to.

    With q, k, v (and the rest of a call to ``regress``) the backend is that of this call; without, of calls in general.
    """
    x = None
    if q is not None:
        known = {name: call.pop(name, None) for name in ("params", "state", "cu_seqlens", "return_state")}
        backend = call.pop("backend", "auto")
        x = prepare(problem, q, k, v, known["params"], known["state"], known["cu_seqlens"], call)
    reasons = {backend.name: refusal(backend, problem, x) for backend in BACKENDS}
    chosen = choose(problem, x, backend).name if x is not None else next(name for name, reason in reasons.items() if reason is None)
    others = tuple((name, reason or f"Slower than {chosen}, and runs it when asked for.") for name, reason in reasons.items() if name != chosen)
    return Explanation(tuple(_facts(problem)), chosen, others)


def _facts(problem: Problem):
    for axis in ("weights", "function", "solver"):
        component = getattr(problem, axis)
        yield axis, f"{component!r}: {summary(component)}"
    acts = problem.solver.weights_act_on
    yield "weights act on", {"samples": "the samples: every token solves the weighted problem of all pairs",
                             "memory": "the memory: retention shrinks it, then the token's pairs are learned"}[acts]
    slots = f"the {problem.weights.window} newest" if problem.weights.window else "of every token"
    solve = ", and a K x K solve" if problem.function.local_degree else ""
    state, cost = STATE[problem.memory]
    yield "state", state.format(normalizer=", and its normaliser [F]" if problem.function.normalized else "", slots=slots)
    yield "cost per token", cost.format(solve=solve)
    for name, axes in problem.controls().items():
        yield f"control {name}", f"[{','.join(axes)}] {CONTROLS[name].meaning}"


def summary(component: Component) -> str:
    """The first paragraph of a component's docstring, on one line."""
    return " ".join(inspect.getdoc(type(component)).split("\n\n")[0].split())
